"""`ganjax train`: makes the folder and the set-up, and runs the loop."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ganjax.config import plugin_record
from ganjax.config.recipe import flatten
from ganjax.run import data_facts
from ganjax.run.dry_run import check_plugins
from ganjax.run.loop import Loop
from ganjax.run.setup import prepare
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import Stages
from ganjax.runtime.signals import StopSignals


def train(config: ConfigDict, workdir: Path, *, accept_new_data: bool = False) -> dict[str, Any]:
    """Trains `config` in `workdir`, going on from its newest checkpoint, and returns the summary.

    With `accept_new_data` a run goes on with data that have changed since its last sitting.

    Raises:
      UserError: bad input, found before anything is compiled.
      DivergedError: a non-finite loss or gradient; the state is saved in `workdir/diverged`.
    """
    folder = workdir.absolute()
    with (
        data_facts.open_workdir(folder, config) if processes.is_main() else contextlib.nullcontext() as owned,
        StopSignals() as stop,
        Checkpointer(folder / "checkpoints", keep=config.checkpoint.keep) as checkpoints,
    ):
        stages = Stages(enabled=processes.is_main())
        try:
            if owned:
                plugin_record.store(folder, flatten(config))
            with stages(f"Loading {config.data.name}"):
                setup = prepare(config)
                check_plugins(config, setup)
            if owned:
                data_facts.settle(folder, setup.dataset, config, accept=accept_new_data)
                owned.write_environment(map(str, setup.devices), convolutions=setup.convolutions)
            with stages("Making the networks"):
                loop = Loop(config, setup, folder, checkpoints, stop)
        except UserError:
            if owned and owned.undo():  # nothing was run: the mended config may use this folder
                plugin_record.forget(folder)
            raise
        return loop.run()
