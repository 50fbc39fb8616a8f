"""Starts a run from the weights of another: what fits is copied, all else starts as it would without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from ganjax.config import plugin_record
from ganjax.config.recipe import from_workdir
from ganjax.data import Dataset
from ganjax.models import revisions
from ganjax.run.data_facts import read_facts, stand_in
from ganjax.run.open import checkpoint_folder
from ganjax.run.setup import load_data
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.training.build import build
from ganjax.training.state import GanState, NetState

Tree = Any
TABLES = ("embedding",)  # leaves with a row for each class
SHOWN = 6  # names of arrays in a message


def start_from(config: ConfigDict, first: GanState, dataset: Dataset) -> tuple[GanState, str]:
    """Returns the first state with the weights of the run that `init.from` names, and what was copied, in words.

    Parameters, batch statistics and spectral vectors are copied where their path and shape agree. The rows of a class
    table with another number of classes become the mean of the old rows. Optimisers, step and control values start new.

    Args:
      config: the config of the run that starts.
      first: its first state.
      dataset: its data.

    Raises:
      UserError: there is no such run or checkpoint, or it has another family or another size of images.
    """
    folder = Path(config.init["from"])
    plugin_record.restore_run(folder)
    other = from_workdir(folder)
    if other.model.name != config.model.name:
        raise UserError(
            f"init.from={folder} holds a run of {other.model.name}, and this run is of {config.model.name}; only "
            "weights of the same family fit."
        )
    facts = read_facts(folder)
    known = load_data(other) if facts is None else stand_in(facts)
    if known.images.shape[1:3] != dataset.images.shape[1:3]:
        sizes = ["×".join(map(str, one.images.shape[1:3])) for one in (known, dataset)]
        raise UserError(
            f"init.from={folder} was trained on images of {sizes[0]}, and this run's are {sizes[1]}; only weights for "
            "images of the same size fit."
        )
    step = config.init.step or None
    with Checkpointer(checkpoint_folder(folder, step), keep=0) as checkpoints:
        found = revisions.restore(checkpoints, build(other, known).shapes(), step, other.model.name, folder)
    if found is None:
        raise UserError(f"init.from={folder} holds no checkpoint.")
    state, told = first, []
    for name in config.init.parts.split(","):
        net, left = _with_weights(first.net(name), _variables(found[1], name, config.init.weights))
        state, count = state.with_net(name, net), len(_flat(net.variables))
        told.append(f"{count - len(left)} of {count} arrays of {name}" + _listed(left))
        if name == "gen":
            state = dataclasses.replace(state, ema=_copied(first.ema, found[1].ema)[0])
    return state, f"Starting from step {found[0]} of {folder}: copied {' and '.join(told)}."


def _variables(state: GanState, name: str, weights: str) -> Tree:
    return state.ema if (name, weights) == ("gen", "ema") else state.net(name).variables


def _with_weights(net: NetState, variables: Tree) -> tuple[NetState, list[str]]:
    """Returns the network with these variables where they fit, and the names of what was left."""
    own, left = _copied(net.variables, variables)
    stats = {name: value for name, value in own.items() if name != "params"}
    return dataclasses.replace(net, params=own["params"], stats=stats), left


def _copied(tree: Tree, source: Tree) -> tuple[Tree, list[str]]:
    """Returns `tree` with the leaves of `source` that fit, and the names of its leaves that stayed."""
    flat, other, left = _flat(tree), _flat(source), []
    for path, leaf in flat.items():
        found = other.get(path)
        if found is not None and found.shape == leaf.shape:
            flat[path] = found
        elif found is not None and path[-1] in TABLES and found.shape[1:] == leaf.shape[1:]:
            flat[path] = np.broadcast_to(np.mean(found, axis=0), leaf.shape).astype(found.dtype)
        else:
            left.append("/".join(path))
    return traverse_util.unflatten_dict(flat), left


def _flat(tree: Tree) -> dict[tuple[str, ...], Any]:
    return dict(traverse_util.flatten_dict(tree))


def _listed(left: list[str]) -> str:
    """Returns the names of what starts anew, as many as a person reads."""
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return f" (new: {', '.join(left[:SHOWN])}{more})" if left else ""
