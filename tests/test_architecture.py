"""The shape of the code as the design states it: who imports whom, and how long things get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "ganjax"
MODULES = sorted(PACKAGE.rglob("*.py"))
CODE = [*MODULES, *sorted(ROOT.glob("configs/**/*.py")), *sorted(ROOT.glob("tests/**/*.py"))]

# The rooms of the package. A module imports from its own room and from those before it, never from a later one.
ROOMS = ("runtime", "config", "models", "data", "losses", "training", "evals", "run", "study", "cli")
# The two files beside the rooms: `ganjax` offers `run.api` at its first use, `python -m ganjax` starts the commands.
DOORS = ("ganjax", "ganjax.__main__")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`models` for `ganjax.models.layers.spectral_norm`, and an empty string for `ganjax` itself."""
    return (module.split(".") + [""])[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in the file, those inside functions included."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            if (
                base == "ganjax"
            ):  # `from ganjax import train` imports ganjax.train; `__version__` is no module
                names = [alias.name for alias in node.names if not alias.name.startswith("__")]
                yield from ((node.lineno, f"ganjax.{name}") for name in names)
            else:
                yield node.lineno, base


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def rank(module: str) -> int:
    """The place of a module's room among ROOMS; the doors stand after all of them."""
    return len(ROOMS) if module in DOORS else ROOMS.index(room_of(module))


def test_the_house_has_ten_rooms_and_two_doors() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_downwards(path: Path) -> None:
    own = rank(module_name(path))
    wrong = [
        f"line {line}: {module}"
        for line, module in imports(path)
        if module.partition(".")[0] == "ganjax" and rank(module) > own
    ]
    assert not wrong, f"{relative(path)} may not import {wrong}: {' -> '.join(ROOMS)}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_configs_end_where_networks_and_steps_are_built(path: Path) -> None:
    """Networks, data, losses, the step and the measures take plain values."""
    plain = room_of(module_name(path)) in ("runtime", "models", "data", "losses", "training", "evals")
    if plain and relative(path) != "ganjax/training/build.py":
        found = {module.partition(".")[0] for _, module in imports(path)}
        assert "ml_collections" not in found


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_package_imports_only_what_it_declares(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [
        name
        for extra in ("tensorflow", "ray", "wandb", "mlflow", "onnx")
        for name in project["optional-dependencies"][extra]
    ]
    declared = {
        re.split(r"[^\w-]", name)[0].lower().replace("-", "_")
        for name in [*project["dependencies"], *optional]
    }
    names = {
        "PIL": "pillow",
        "absl": "absl_py",
        "orbax": "orbax_checkpoint",
        "mlflow": "mlflow_skinny",
    }
    found = {module.partition(".")[0] for _, module in imports(path)} - {"ganjax"} - sys.stdlib_module_names
    undeclared = {name for name in found if names.get(name, name).lower() not in declared}
    assert not undeclared, f"{relative(path)} imports {undeclared}, which pyproject.toml does not list"


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    lines = source.count("\n")
    assert path.is_relative_to(ROOT / "tests") or lines <= 400, (
        f"{relative(path)} has {lines} lines, more than 400"
    )
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{relative(path)}:{node.lineno} {node.name} has {lines} lines, more than 60"


@pytest.mark.parametrize(
    "module", ["ganjax", "ganjax.config.recipe", "ganjax.cli.main", "ganjax.runtime.allocator"]
)
def test_light_modules_do_not_import_jax(module: str) -> None:
    """So that a wrong option is reported at once, and `cli` can still set what jax reads when it starts."""
    if not (ROOT / module.replace(".", "/")).with_suffix(".py").exists() and module != "ganjax":
        pytest.skip(f"{module} is not written yet")
    heavy = {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "tensorflow"}
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_slow_tests_that_are_listed_exist() -> None:
    """`tests/slow_tests.txt` is made from measured times; a test that was renamed since would be quick again."""
    lines = (ROOT / "tests" / "slow_tests.txt").read_text().splitlines()
    for line in lines:
        if not line.startswith("#"):
            file, _, test = line.partition("  #")[0].partition("::")
            name = re.escape(test.partition("[")[0])
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), line


def test_wheel_and_sdist_hold_every_file() -> None:
    """Folders with code are packages, other files match a pattern of pyproject.toml, and MANIFEST.in has the rest."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{relative(path.parent)} is no package"
            continue
        module = ".".join(path.parent.relative_to(ROOT).parts)
        fits = [
            path.match(pattern)
            for package, wanted in patterns.items()
            for pattern in wanted
            if package in ("*", module) or (module.startswith(f"{package}.") and "/" in pattern)
        ]
        assert any(fits), f"{relative(path)} would not be in the wheel"
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git here")
    tops = {name.split("/")[0] for name in done.stdout.splitlines() if not name.startswith(".")}
    assert tops <= {*manifest, "ganjax", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
