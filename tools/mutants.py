"""Do the quick tests notice a wrong sign or number? Changes one thing at a time in a copy, and runs its module's tests.

    python tools/mutants.py --count=40 --seed=0
    python tools/mutants.py --only=losses,study --count=20

Each change is one operator, constant or function of `HEART`, drawn at random. Prints each with its end, and the share
that was noticed; exit code 1 where that is under 95 %. A survivor is equivalent to what it changed, or lacks a test.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("config/test_techniques.py", "training/test_mechanics.py")
LOSSES, PENALTIES = "losses/test_losses.py", "losses/test_penalties.py"
METRICS, MONITOR = ("evals/test_metrics.py", "evals/test_modes.py"), ("evals/test_monitor.py",)
# Files of the package, and the tests that should notice, the likeliest first.
HEART: dict[str, tuple[str, ...]] = {
    "losses/adversarial.py": (LOSSES,),
    "losses/penalties.py": (PENALTIES, *STEPS),
    "losses/terms.py": (PENALTIES, LOSSES, *STEPS),
    "losses/objective.py": (PENALTIES, *STEPS),
    "training/optim.py": STEPS[::-1],
    "training/control.py": (*STEPS, "data/test_augment.py"),
    "training/accumulate.py": STEPS,
    "data/augment/ada.py": ("data/test_augment.py",),
    "data/augment/diffaugment.py": ("data/test_augment.py",),
    "data/augment/noise.py": ("data/test_augment.py", STEPS[0]),
    "models/layers/conditional.py": ("models/test_models.py", "models/test_labels.py"),
    "models/layers/equalized.py": (
        "models/test_plain.py",
        "models/test_resampling.py",
        "models/test_stylegan2.py",
    ),
    "models/layers/layers.py": ("models/test_plain.py", "models/test_models.py"),
    "models/layers/spectral_norm.py": ("models/test_spectral_norm.py",),
    "evals/metrics/frechet.py": METRICS,
    "evals/metrics/intervals.py": METRICS,
    "evals/metrics/modes.py": METRICS[::-1],
    "evals/metrics/ms_ssim.py": METRICS,
    "evals/metrics/neighbours.py": METRICS,
    "evals/metrics/scores.py": METRICS,
    "evals/monitor/probe.py": MONITOR,
    "evals/monitor/verdicts.py": MONITOR,
    "study/analysis.py": ("study/test_analysis.py",),
    "study/inference.py": ("study/test_analysis.py",),
}
OPERATORS: dict[type, tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"),
    ast.Lt: ("<", ">"),
    ast.LtE: ("<=", ">="),
    ast.Gt: (">", "<"),
    ast.GtE: (">=", "<="),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
FUNCTIONS = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "sin": "cos",
    "cos": "sin",
}
NOTICED = 0.95


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the bytes from `start` to `end` become `new`."""

    file: str
    start: int
    end: int
    new: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def shown(self, source: bytes) -> str:
        line = source.count(b"\n", 0, self.start) + 1
        text = source.splitlines()[line - 1].decode().strip()
        return f"{self.file}:{line}: {source[self.start : self.end].decode()!r} → {self.new!r} in: {text}"


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Yields all changes of a file. Annotations, messages and what is raised are left alone."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin = lambda node: starts[node.lineno - 1] + node.col_offset
    end = lambda node: starts[node.end_lineno - 1] + node.end_col_offset

    def between(left: ast.expr, right: ast.expr, operator: ast.AST) -> Iterator[Mutant]:
        if type(operator) in OPERATORS:
            old, new = OPERATORS[type(operator)]
            at = source.index(old.encode(), end(left), begin(right))
            yield Mutant(file, at, at + len(old), new)

    def visit(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            return
        if isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values[0], node.values[1], node.op)
        elif isinstance(node, ast.Compare):
            yield from between(node.left, node.comparators[0], node.ops[0])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            yield Mutant(file, begin(node), begin(node) + (1 if isinstance(node.op, ast.USub) else 3), "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield Mutant(file, begin(node), end(node), changed(node.value))
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in FUNCTIONS:
                yield Mutant(file, end(node) - len(name), end(node), FUNCTIONS[name])
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from visit(child)

    yield from visit(ast.parse(source))


def changed(value: float) -> str:
    """Returns another constant: the other truth, the next integer, one and a half times the number."""
    if isinstance(value, bool):
        return str(not value)
    return repr(value + 1 if isinstance(value, int) else 1.5 * value or 1.0)


class Tests:
    """Runs quick tests on a copy of the package."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "ganjax"
        shutil.copytree(ROOT / "ganjax", self.package, ignore=shutil.ignore_patterns("__pycache__"))
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.environment = {**os.environ, **cache, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def notice(self, tests: tuple[str, ...], seconds: float) -> bool:
        """Returns True if a test fails, or they take longer than `seconds`."""
        # -P: this folder, with the package as it is, does not come before the copy.
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
        ]
        files = [f"tests/{name}" for name in tests]
        try:
            done = subprocess.run(
                [*command, *files],
                cwd=ROOT,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1, 2, 4):  # 2 and 4: a file could not be imported
            raise SystemExit(done.stdout + done.stderr)
        return done.returncode != 0

    def try_out(self, mutant: Mutant, tests: tuple[str, ...], seconds: float) -> bool:
        """Returns True if the tests notice the mutant."""
        file = self.package / mutant.file
        source = file.read_bytes()
        try:
            file.write_bytes(mutant.applied(source))
            return self.notice(tests, seconds)
        finally:
            file.write_bytes(source)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="changes to try (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (default: 0)")
    parser.add_argument("--only", default="", help="parts of the names of files, joined by commas")
    options = parser.parse_args()
    wanted = [part for part in options.only.split(",") if part]
    files = [file for file in HEART if not wanted or any(part in file for part in wanted)]
    sources = {file: (ROOT / "ganjax" / file).read_bytes() for file in files}
    every = [mutant for file in files for mutant in mutants_of(file, sources[file])]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    print(f"{len(chosen)} of {len(every)} changes in {len(files)} files", flush=True)
    limits: dict[tuple[str, ...], float] = {}
    noticed = 0
    with tempfile.TemporaryDirectory(prefix="ganjax-mutants-") as name:
        tests = Tests(Path(name))
        for mutant in chosen:
            own = HEART[mutant.file]
            if own not in limits:
                begun = time.monotonic()
                if tests.notice(own, 3600):
                    raise SystemExit(f"{', '.join(own)}: they fail without any change")
                limits[own] = 60 + 3 * (time.monotonic() - begun)
            found = tests.try_out(mutant, own, limits[own])
            noticed += found
            print(f"{'noticed ' if found else 'SURVIVED'} {mutant.shown(sources[mutant.file])}", flush=True)
    print(f"{noticed} of {len(chosen)} noticed")
    return 0 if noticed >= NOTICED * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
