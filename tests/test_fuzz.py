"""Random configs and damaged files end in a result or in a message: some of what benchmarks/fuzz*.py try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("script", "count"), [("fuzz.py", 15), ("fuzz_inputs.py", 80)])
def test_no_traceback(script: str, count: int) -> None:
    command = [sys.executable, f"benchmarks/{script}", f"--count={count}", "--seed=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
