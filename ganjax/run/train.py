"""`ganjax train`: makes the folder and the set-up, and runs the loop."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ganjax.config import plugin_record
from ganjax.config.options import BEFORE, RUNTIME
from ganjax.config.recipe import flatten, to_json
from ganjax.run.dry_run import check_plugins
from ganjax.run.loop import Loop
from ganjax.run.setup import prepare
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.signals import StopSignals
from ganjax.runtime.workdir import Workdir


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains `config` in `workdir`, going on from its newest checkpoint, and returns the summary.

    Raises:
      UserError: bad input, found before anything is compiled.
      DivergedError: a non-finite loss or gradient; the state is saved in `workdir/diverged`.
    """
    folder, main = workdir.absolute(), processes.is_main()
    new = not (folder / "config.json").exists()
    with (
        Workdir.open(folder, config=to_json(config), allowed=RUNTIME, before=BEFORE)
        if main
        else contextlib.nullcontext() as owned,
        StopSignals() as stop,
        Checkpointer(folder / "checkpoints", keep=config.checkpoint.keep) as checkpoints,
    ):
        try:
            if owned:
                plugin_record.store(folder, flatten(config))
            setup = prepare(config)
            check_plugins(config, setup)
            if owned:
                owned.write_environment(map(str, setup.devices), convolutions=setup.convolutions)
            loop = Loop(config, setup, folder, checkpoints, stop)
        except UserError:
            if owned and new:  # nothing was run: the mended config may use this folder
                (folder / "config.json").unlink()
                plugin_record.forget(folder)
            raise
        return loop.run()
