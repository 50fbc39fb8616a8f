"""Random configs and damaged files end in a result or in a message: some of what tests/stress/fuzz*.py try."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.parametrize(("script", "count"), [("fuzz.py", 15), ("fuzz_inputs.py", 80)])
def test_no_traceback(script: str, count: int) -> None:
    command = [sys.executable, f"tests/stress/{script}", f"--count={count}", "--seed=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
