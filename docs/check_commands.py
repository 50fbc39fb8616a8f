"""Does what the documentation tells people to do: each page's commands, Python and edits, in its order.

    python docs/check_commands.py README.md docs/own_images.md    (all pages by default)

Each page gets a folder that looks like a checkout, with a copy of the package, and what it takes for granted is put
there first (`BEFORE`). Runs are shortened and their networks made small (`SHORTER`), a few lines are rewritten
(`REWRITTEN`), and what cannot run on this machine is left out, with who does run it (`ELSEWHERE`). Prints each line
with its seconds; exits with 1 after a page whose command failed. tests/docs/test_commands.py runs it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:In (?P<new>a new file )?`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>bash|python|diff)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
TRY = re.compile(r"^Try it: `(ganjax [^`]+)`$", re.MULTILINE)
# What is trained runs a few steps: compiling with less optimisation is quicker.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# Options of a `ganjax COMMAND` with values that need no patience; those of other commands than train only if given.
SHORTER = {
    "train": {
        "--config.train.steps": "4",
        "--config.train.batch_size": "16",
        "--config.log.every_steps": "2",
        "--config.log.sample_every_steps": "4",
        "--config.checkpoint.every_steps": "4",
        "--config.parallel.devices": "1",
        "--config.gen.width": "8",
        "--config.dis.width": "8",
        "--config.gen.optimizer.warmup_steps": "1",
        "--config.dis.optimizer.warmup_steps": "1",
        "--config.gen.style_dim": "16",
        "--config.gen.mapping_layers": "2",
    },
    "evaluate": {"--samples": "100"},
    "ablate": {"--config": "small_study.py"},
    "interpolate": {"--n": "1"},
}
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
REWRITTEN: list[tuple[str, str]] = [
    # Installing is what CI and the test of launch/ do; here the package is in the folder.
    (r"^bash launch/local\.sh (train|sample) (.*)", r"bash launch/local.sh --dry-run \1 \2 && ganjax \1 \2"),
    # No cloud here: what would be called is printed; tests/test_launch.py plays it against stubs.
    (r"^bash launch/tpu_vm\.sh ", "bash launch/tpu_vm.sh --dry-run "),
    # Other pictures where the font is not installed.
    (
        r"^(python tools/emoji\.py .*)",
        rf"if [ -e {FONT} ]; then \1; else python make_pictures.py data/emoji 64 3 7; fi",
    ),
    # 1,797 digits in the place of 60,000 garments.
    (r"runs/fashion_mnist", "runs/quickstart"),
    (r"--reference=fashion_mnist", "--reference=digits"),
    (r"--workdir=/mnt/bucket/", "--workdir="),
    (r'"\$\{fpath\[1\]\}/_ganjax"', "_ganjax"),  # fpath is zsh's
    # Two processes of one run, side by side, on a free port of this machine.
    (
        r"^ganjax train … --coordinator=\S+(.*)",
        rf"ganjax train --config=configs/quickstart.py --workdir=runs/two --coordinator=127.0.0.1:{PORT}\1 "
        "--config.parallel.devices=2 & children+=($!)",
    ),
    (r"(\{\"train\.steps\": )200", r"\1 4"),
]
ELSEWHERE: dict[str, str] = {
    r"^git clone ": "CI starts from a checkout",
    r"^pip install": "launch/setup.sh installs with pip, in CI",
    r"^apt-get install": "launch/test.sh installs Debian packages, in CI",
    r"^bash launch/test\.sh": "it is what runs this",
    r"^bash launch/local\.sh --help": "tests/test_launch.py runs it against a stub of pip",
    r"^docker ": "no container engine here",
}
QUICKSTART = "ganjax train --config=configs/quickstart.py --workdir=runs/quickstart"
# What a page takes for granted, as shell lines.
BEFORE: dict[str, list[str]] = {
    "README.md": ["python make_pictures.py PICTURES 64 3 2", "python make_pictures.py DIR 8 1"],
    "docs/model.md": [QUICKSTART],
    "docs/recipes.md": [
        "python make_pictures.py PICTURES 64 3",
        "ganjax data prepare PICTURES --out=data/mine --resolution=64",
    ],
    "docs/trouble.md": [QUICKSTART],
    "launch/README.md": [  # a commit, which `setup` sends
        "git init -q . && git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m 'for setup'",
    ],
}
PICTURES = """
import pathlib, sys
import numpy as np
from PIL import Image
folder, (side, channels, *classes) = pathlib.Path(sys.argv[1]), map(int, sys.argv[2:])
pixels = np.random.default_rng(0).integers(0, 256, (120, side, side, channels), dtype=np.uint8)
for index, image in enumerate(pixels):
    place = folder / str(index % classes[0]) if classes else folder
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(place / f"{index}.png")
"""
STUDY = """
import dataclasses
from ganjax.study.config import load_study

RATES = {"gen.optimizer.learning_rate", "dis.optimizer.learning_rate"}

def get_study(arg=""):
    whole = load_study("configs/ablations/ten_lessons.py:grid")
    rates = [variant for variant in whole.variants if set(variant.changes) == RATES][:1]  # of the base's program
    return dataclasses.replace(whole, variants=rates, seeds=(0, 1), kimg=2, evaluations=1, samples=200)
"""


def pages() -> list[str]:
    """README and all pages, relative to the checkout, in the site's order where that matters to nobody."""
    return [
        "README.md",
        *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
        "launch/README.md",
    ]


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """(kind, file, text) of each fenced block, and each line "Try it: …", that says what to do.

    The kind is bash or python, or, after "In `FILE`:", diff, or new for the content of a new file.
    """
    file, text = "", (ROOT / page).read_text()
    for line in TRY.findall(text):
        yield "bash", "", f"{line}\n"
    for found in BLOCK.finditer(text):
        file = found["file"] or file  # several diffs may follow each other
        kind = "new" if found["new"] and found["kind"] == "python" else found["kind"]
        yield kind, file, found["text"]


def lines(block: str) -> list[str]:
    """The commands of a shell block, without comments, each on one line."""
    joined = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line for line in (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined) if line]


def shortened(line: str) -> str:
    """The command as it is run here; a comment that says why where it is not."""
    for pattern, why in ELSEWHERE.items():
        if re.search(pattern, line):
            return f"# not here ({why}): {line}"
    for pattern, replacement in REWRITTEN:
        line = re.sub(pattern, replacement, line)
    found = re.search(r"\bganjax (\w+)(?=.*--workdir|.*--images)", line)
    if (
        not found
        or "--dry-run" in line.partition("&&")[2]
        or line.startswith(("bash launch/tpu_vm", "sbatch"))
    ):
        return line
    for option, value in SHORTER.get(found[1], {}).items():
        given = f"{option}=" in line
        if option != "--config.parallel.devices":  # two processes need two
            line = re.sub(rf"{option}=\S+", f"{option}={value}", line)
        if not given and found[1] == "train":
            line = re.sub(r"(?= & children| *$)", f" {option}={value}", line, count=1)
    return line


def make_checkout(folder: Path) -> dict[str, str]:
    """Fills `folder` with what a checkout has; returns the environment to run in."""
    for name in (
        "benchmarks",
        "tools",
        "configs",
        "docs",
        "launch",
        "pyproject.toml",
        "constraints.txt",
        "mkdocs.yml",
    ):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "ganjax", folder / "ganjax", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "make_pictures.py").write_text(PICTURES)
    (folder / "small_study.py").write_text(STUDY)
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {
        "ganjax": f'[ "$1" != train ] || export XLA_FLAGS="{QUICK}"; exec {sys.executable} -m ganjax "$@"',
        "python": f'exec {sys.executable} "$@"',
        "sbatch": 'for x; do case $x in *.sbatch) bash -n "$x" && exit;; esac; done; exit 1',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def edit(path: Path, diff: str) -> None:
    """Makes the change of a diff without line numbers: what it shows of the file is there exactly once.

    Raises:
      ValueError: it is not.
    """
    old = "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[:1] in " -")
    new = "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[:1] in " +")
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{path.name} has {text.count(old)} places like\n{old}")
    path.write_text(text.replace(old, new))


def run_shell(commands: list[str], folder: Path, environment: dict[str, str]) -> bool:
    """Runs lines in one shell, which ends at the first that fails; prints them with their seconds.

    What they export is there for the next lines of the folder too.
    """
    script = ["[ ! -e .shell ] || . ./.shell", "set -eo pipefail", "children=()"]
    for number, line in enumerate(commands):
        script += [f"echo {number} >&3", line]
    script += ["echo end >&3", 'for child in "${children[@]}"; do wait "$child"; done', "export -p >.shell"]
    reading, writing = os.pipe()
    start = time.monotonic()
    command = ["bash", "-c", "\n".join(script).replace(">&3", f">&{writing}")]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[writing],
    ) as process:
        os.close(writing)
        output = process.communicate()[0]
    with os.fdopen(reading) as file:
        reached = file.read().split()
    for line in commands:
        print(f"    {line}", flush=True)
    print(f"    — {time.monotonic() - start:.1f} s", flush=True)
    if process.returncode:
        at = (
            commands[int(reached[-1])]
            if reached and reached[-1].isdigit()
            else "the processes in the background"
        )
        print(f"FAILED with exit code {process.returncode}: {at}\n{output}", flush=True)
    return process.returncode == 0


def check(page: str) -> bool:
    """Does what a page says; True where all of it worked."""
    print(page, flush=True)
    with tempfile.TemporaryDirectory(prefix="ganjax-docs-") as name:
        folder = Path(name)
        environment = make_checkout(folder)
        before = [shortened(line) for line in BEFORE.get(page, [])]
        if before and not run_shell(before, folder, environment):
            return False
        for kind, file, text in blocks(page):
            if kind == "diff":
                edit(folder / file, text)
                print(f"    changed {file}")
            elif kind == "new":
                (folder / file).write_text(text)
                print(f"    wrote {file}")
            else:
                if kind == "python":
                    for pattern, replacement in REWRITTEN:
                        text = re.sub(pattern, replacement, text)
                    (folder / "block.py").write_text(text)
                    todo = ["python block.py"]
                else:
                    todo = [shortened(line) for line in lines(text)]
                if not run_shell(todo, folder, environment):
                    return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="README.md, docs/NAME.md, launch/README.md")
    names = parser.parse_args().pages or [page for page in pages() if any(blocks(page))]
    failed = [page for page in names if not check(page)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
