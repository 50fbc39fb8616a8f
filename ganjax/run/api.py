"""The Python interface of ganjax, for scripts and notebooks: `ganjax.train`, `ganjax.load` and `ganjax.Run`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from ganjax.config import plugins
from ganjax.config import recipe as configs
from ganjax.evals.monitor import read_rows
from ganjax.evals.monitor.verdicts import Row
from ganjax.evals.sampler import CHUNK
from ganjax.run.open import OpenRun, check_memory, open_run
from ganjax.run.train import train as train_run
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import read_object
from ganjax.runtime.keys import check_seeds
from ganjax.runtime.logs.images import grid_picture

if TYPE_CHECKING:
    from PIL.Image import Image


def train(
    config: str | Path | ConfigDict,
    workdir: str | Path,
    options: Mapping[str, configs.Value] | None = None,
) -> Run:
    """Trains in `workdir`, or continues the run there, showing progress as `ganjax train` does; returns the run.

    Args:
      config: a recipe, `NAME` or `FILE`, either with `:ARG`; or a config like those that recipes return, which is left
        as it is.
      workdir: folder of the run.
      options: options that replace the config's, by dotted names: `{"train.steps": 200}`.

    Raises:
      ganjax.UserError: bad input, found before anything is compiled.
      ganjax.DivergedError: a non-finite loss or gradient; the state is saved in the folder's `diverged`.
    """
    plugins.refuse_while_loading()
    resolved = config.copy_and_resolve_references() if isinstance(config, ConfigDict) else None
    if resolved is None:
        resolved = configs.load_recipe(str(config))
    for key, value in (options or {}).items():
        configs.set_option(resolved, key, value)
    configs.check(resolved)
    train_run(resolved, Path(workdir))
    return Run(workdir)


def load(workdir: str | Path) -> Run:
    """Opens the run in `workdir`, finished or not.

    Raises:
      ganjax.UserError: there is no run in the folder.
    """
    return Run(workdir)


class Run:
    """A run in its folder. Its log is read anew each time; its networks are read at the first sample.

    Attributes:
      workdir: its folder.
      config: all its options; `run.config.train.steps`.
    """

    def __init__(self, workdir: str | Path) -> None:
        self.workdir = Path(workdir)
        self.config: ConfigDict = configs.from_workdir(self.workdir)
        self._open = functools.lru_cache(maxsize=4)(self._opened)

    def __repr__(self) -> str:
        summary = self.summary
        state = f"{summary.get('reason')} at step {summary.get('steps')}" if summary else "not ended"
        return f"<ganjax.Run {self.workdir}: {self.config.model.name} on {self.config.data.name}, {state}>"

    @property
    def metrics(self) -> list[Row]:
        """The log lines of `metrics.jsonl`, oldest first: step, images, seconds, loss/dis, loss/gen and more."""
        return read_rows(self.workdir / "metrics.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        """The end of the run: reason, steps, images, seconds, last metrics, verdicts; empty while the run goes on."""
        return read_object(self.workdir / "summary.json")

    @property
    def images(self) -> list[Path]:
        """The PNG grids that training wrote, oldest first, all of the same latents."""
        return sorted(path for path in self.workdir.glob("samples/step_*.png") if "_scales" not in path.stem)

    def sample(
        self,
        n: int = 64,
        key: int = 0,
        *,
        weights: str = "ema",
        classes: Sequence[int | str] = (),
        truncation: float = 1.0,
        step: int | None = None,
    ) -> np.ndarray:
        """Generates `n` samples: uint8 [n, H, W, C] in [0, 255], or float32 [n, 2] of a run on points.

        They are those of `ganjax sample --seed=KEY`. The first call reads the checkpoint and compiles the program.

        Args:
          n: number of samples.
          key: a whole number; sample i of a key is the same whatever n is.
          weights: `ema`, averaged, or `raw`.
          classes: names or numbers of classes to take in turn, where the run has labels; all by default.
          truncation: a value below 1 gives less variety and more fidelity.
          step: step of the checkpoint; by default the newest when this object first samples.

        Raises:
          ganjax.UserError: no checkpoint, or an argument out of range.
        """
        if n < 1:
            raise UserError(f"n takes an integer of at least 1, and got {n}.")
        if not 0 <= truncation <= 1:
            raise UserError(f"truncation takes a number from 0 to 1, and got {truncation}.")
        if weights not in ("ema", "raw"):
            raise UserError(f"weights takes 'ema' or 'raw', and got {weights!r}.")
        check_seeds([key])
        run = self._open(weights, tuple(classes), truncation, step)
        check_memory("n", run, n)
        return run.sampler.for_seed(key)(run.variables, n)[-1]

    def grid(self, n: int = 64, key: int = 0, **options: Any) -> Image:
        """Makes a picture of `n` samples for a notebook to show; the arguments are those of `sample`.

        Raises:
          ganjax.UserError: as `sample` does, and for a run on points.
        """
        samples = self.sample(n, key, **options)
        if samples.ndim != 4:
            raise UserError("grid shows images, and this run makes points; sample gives their coordinates.")
        return grid_picture(samples, columns=min(n, math.ceil(n**0.5)))

    def _opened(
        self, weights: str, classes: tuple[int | str, ...], truncation: float, step: int | None
    ) -> OpenRun:
        return open_run(
            self.workdir,
            n=CHUNK,
            weights=weights,
            classes=classes,
            truncation=truncation,
            step=step,
        )
