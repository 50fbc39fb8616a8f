"""Runs in child processes: started, ended, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from paths import ROOT

STEPS = 400


RECIPE = """
from ganjax.config import default_config

def get_config(arg=""):
    config = default_config()
    for net in (config.gen, config.dis):
        net.width = 8
    config.parallel.devices = 2
    config.train.batch_size = 32
    config.model.latent_dim = 8
    if arg == "images":
        config.model.msg = "simple"
        config.train.steps = 24
        config.checkpoint.every_steps = 3
        config.log.every_steps = 3
        config.log.sample_every_steps = 12
        config.log.samples = 4
        return config
    config.data.name = "grid"
    config.model.name = "mlp"
    config.gen.norm = "none"
    config.loss.name = "non_saturating"
    config.train.steps = 400
    config.checkpoint.every_steps = 5
    config.log.every_steps = 5
    config.log.sample_every_steps = 400
    return config
"""


class Runs:
    """Starts runs of the recipe in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.py"
        self.recipe.write_text(RECIPE)

    def arguments(self, name: str, *options: str, arg: str = "") -> list[str]:
        config = f"--config={self.recipe}" + (f":{arg}" if arg else "")
        overrides = [f"--config.{option}" for option in options]
        return ["train", config, f"--workdir={self.folder / name}", *overrides]

    def start(
        self, name: str, *options: str, arg: str = "", log_compiles: bool = False
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ganjax", *self.arguments(name, *options, arg=arg)],
            cwd=ROOT,
            env={**os.environ, "JAX_LOG_COMPILES": str(int(log_compiles))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, name: str, *options: str, arg: str = "", code: int = 0) -> tuple[str, str]:
        """Runs to the end; stdout and stderr."""
        return finish(self.start(name, *options, arg=arg), code)


def finish(child: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    try:
        out, err = child.communicate(timeout=240)
    finally:
        child.kill()
    assert child.returncode == code, f"exit code {child.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def logged(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, strictly read; one that a kill tore is left out."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    try:
        lines = (workdir / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line, parse_constant=refuse) for line in lines]


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in logged(workdir)), default=0)


def wait_until(child: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not reached():
        assert child.poll() is None, f"the run ended before its time: {child.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.003)


def read_state(workdir: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint, array by array, read apart from ganjax's own reader."""
    import jax
    from orbax.checkpoint import v1 as ocp

    newest = max((int(p.name), p) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())[1]
    leaves = jax.tree_util.tree_leaves_with_path(ocp.load(newest))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def summary(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "summary.json").read_text())
    return found
