"""What the pages tell people to do is done: their commands, their Python, their edits, shortened, in their order."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

SCRIPT = ROOT / "docs" / "check_commands.py"
CHECK: dict[str, Any] = runpy.run_path(str(SCRIPT))
# The commands of docs/techniques.md, one a technique, are for the script alone, which takes long for them;
# tests/docs/test_docs.py resolves their configs.
PAGES = [page for page in CHECK["pages"]() if page != "docs/techniques.md" and list(CHECK["blocks"](page))]
QUICK = {"docs/index.md", "docs/api.md", "launch/README.md"}
long = pytest.mark.skipif(
    "GANJAX_PAGES" not in os.environ,
    reason="it trains several networks: GANJAX_PAGES=1, or python docs/check_commands.py",
)
INLINE = re.compile(r"`(python (?:benchmarks|tools|tests|docs)/[^`…]+)`")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [p if p in QUICK else pytest.param(p, marks=long) for p in PAGES])
def test_a_page_does_what_it_says(page: str) -> None:
    if page in ("README.md", "docs/model.md"):
        pytest.importorskip("onnxruntime")
    done = subprocess.run([sys.executable, str(SCRIPT), page], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_left_out_is_little_and_says_why() -> None:
    shortened, left_out = CHECK["shortened"], []
    for page in PAGES:
        for kind, _, text in CHECK["blocks"](page):
            if kind == "bash":
                left_out += [
                    line for line in CHECK["lines"](text) if shortened(line).startswith("# not here (")
                ]
    programs = {" ".join(shlex.split(line)[:2]) for line in left_out}
    assert programs <= {
        "git clone",
        "pip install",
        "apt-get install",
        "bash launch/test.sh",
        "bash launch/local.sh",
    }


def test_commands_are_shortened() -> None:
    shortened = CHECK["shortened"]
    line = shortened("ganjax train --config=x.py --workdir=runs/x --config.gen.width=128")
    assert (
        line.count("gen.width") == 1 and "--config.gen.width=8" in line and "--config.train.steps=4" in line
    )
    assert shortened("ganjax train --config=x.py --dry-run") == "ganjax train --config=x.py --dry-run"
    assert shortened("ganjax evaluate --workdir=r --metrics=fid --samples=5000").endswith("--samples=100")
    assert shortened("bash launch/tpu_vm.sh create").startswith("bash launch/tpu_vm.sh --dry-run create")


def test_a_command_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert CHECK["run_shell"](["export A=1", 'test "$A" = 1'], tmp_path, environment)
    assert not CHECK["run_shell"](["true", "ls nothing-of-that-name", "true"], tmp_path, environment)
    assert "FAILED with exit code 2: ls nothing-of-that-name" in capfd.readouterr().out
    assert not CHECK["run_shell"](["false & children+=($!)"], tmp_path, environment)


def scripts() -> list[str]:
    """Commands of scripts in the text of the pages, which take from minutes to hours."""
    found = {command for page in CHECK["pages"]() for command in INLINE.findall((ROOT / page).read_text())}
    return sorted(found)


@pytest.mark.parametrize("command", scripts())
def test_a_script_that_the_text_names_knows_its_options(command: str) -> None:
    """Those of docs/ take none, all others tell theirs by --help; and tests/docs/test_docs.py runs the quick one."""
    words = shlex.split(command)
    assert (ROOT / words[1]).exists()
    options = [word.partition("=")[0] for word in words[2:]]
    if words[1].startswith("docs/"):
        assert not options
        return
    done = subprocess.run([sys.executable, words[1], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"{option}\b", done.stdout) for option in options)
