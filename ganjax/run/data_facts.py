"""What a run keeps of its data in `data.json`: its generator runs without them, and changed data are noticed."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ganjax.config.options import BEFORE, RUNTIME
from ganjax.config.recipe import flatten, from_workdir, set_option, to_json, unflatten
from ganjax.data import Dataset
from ganjax.data.lazy import LazyLabels
from ganjax.run.setup import PLACES, load_data
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_json
from ganjax.runtime.workdir import Workdir

logger = logging.getLogger(__name__)

FILE = "data.json"
SHOWN = 20  # differences in a message, and names in a difference
LARGEST = 2**28  # numbers in an image
Facts = dict[str, Any]
KINDS: dict[str, Any] = {
    **dict.fromkeys(("name", "dtype", "files", "path", "path_from_workdir"), str),
    **dict.fromkeys(("shape", "class_names", "class_counts"), list),
    **{"labels": bool, "classes": int, "scale": int | float, "modes": list | None, "std": int | float | None},
}


def absolute(config: ConfigDict) -> ConfigDict:
    """Returns the config with the places of its data as absolute paths."""
    flat = flatten(config)
    places = {key: os.path.abspath(os.path.expanduser(flat[key])) for key in PLACES if flat[key]}
    return unflatten({**flat, **places})


def open_workdir(folder: Path, config: ConfigDict) -> Workdir:
    """Opens the folder of a run for training (`Workdir.open`), with the places of its data as absolute paths.

    The places may change where `data.json` tells whether the data there are the same; else they may only be spelt
    another way.
    """
    config = absolute(config)

    def may_change(key: str) -> bool:
        if key not in PLACES or (folder / FILE).exists():
            return key in RUNTIME or key in PLACES
        return bool(flatten(absolute(from_workdir(folder)))[key] == flatten(config)[key])

    return Workdir.open(folder, config=to_json(config), allowed=may_change, before=BEFORE)


def facts_of(dataset: Dataset, config: ConfigDict, folder: Path) -> Facts:
    """Returns what `data.json` holds: what networks and pictures need, what tells the data from others, their place."""
    images, path, folder = dataset.images, absolute(config).data.path, folder.absolute()
    counted = bool(dataset.counts) or not isinstance(dataset.labels, LazyLabels)
    beside = bool(path) and Path(path).is_relative_to(folder.parent)
    return {
        "name": dataset.name,
        "shape": list(images.shape),
        "dtype": images.dtype.name,
        "labels": dataset.labels is not None,
        "classes": dataset.num_classes,
        "class_names": list(dataset.label_names),
        "class_counts": list(dataset.class_counts) if counted else [],
        "scale": dataset.scale,
        "modes": None if dataset.modes is None else dataset.modes.tolist(),
        "std": dataset.std,
        # Points are drawn by a formula, whose last bits differ between machines.
        "files": dataset.files or ("" if images.ndim == 2 else dataset.fingerprint),
        "path": path,
        "path_from_workdir": os.path.relpath(path, folder) if beside else "",
    }


def read_facts(folder: Path) -> Facts | None:
    """Reads `data.json`. Returns None for a run that an earlier ganjax trained, which has none.

    Raises:
      UserError: the file is damaged.
    """
    file = folder / FILE
    try:
        facts = read_json(file)
        _check(facts)
        stand_in(facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise UserError(
            f"{file} is damaged: {error!r}. It should hold what the run keeps of its data. Restore it, or remove it: "
            "the data are then read again."
        ) from None
    return dict(facts)


def _check(facts: Any) -> None:
    """Raises `ValueError` for facts that `facts_of` does not make. Sizes that no data have would fill the memory."""
    for name, kind in KINDS.items():
        if not isinstance(facts[name], kind) or (isinstance(facts[name], bool) and kind is not bool):
            raise ValueError(f"{name} is {facts[name]!r:.100}")
    shape, counts = facts["shape"], facts["class_counts"]
    numbers = [*shape, *counts, facts["classes"]]
    if not all(type(n) is int and 0 <= n < 2**40 for n in numbers) or math.prod(shape[1:]) > LARGEST:
        raise ValueError(f"shape, classes or class_counts are {numbers!r:.100}")
    if len(shape) not in (2, 4) or not all(isinstance(name, str) for name in facts["class_names"]):
        raise ValueError("shape or class_names are of another kind")


def stand_in(facts: Mapping[str, Any]) -> Dataset:
    """Returns a dataset with all that is known of the data but their images and labels: shapes stand for these."""
    shape = tuple(int(side) for side in facts["shape"])
    images: Any = jax.ShapeDtypeStruct(shape, np.dtype(facts["dtype"]))
    labels: Any = jax.ShapeDtypeStruct(shape[:1], np.int32) if facts["labels"] else None
    return Dataset(
        name=facts["name"],
        images=images,
        labels=labels,
        num_classes=facts["classes"],
        label_names=tuple(facts["class_names"]),
        scale=facts["scale"],
        modes=None if facts["modes"] is None else np.asarray(facts["modes"], np.float32),
        std=facts["std"],
        files=facts["files"],
        counts=tuple(facts["class_counts"]),
    )


def place_of(folder: Path, config: ConfigDict) -> str:
    """Returns the path of a run's data: as its `data.json` has it, or from the workdir where both have moved."""
    facts = read_facts(folder)
    if facts is None:
        return str(config.data.path)
    path, beside = facts["path"], facts["path_from_workdir"]
    moved = beside and not os.path.exists(path) and os.path.exists(folder / beside)
    return os.path.abspath(folder / beside) if moved else str(path)


def data_of(folder: Path, config: ConfigDict, what: str, path: str = "") -> Dataset:
    """Loads the data of the run in `folder`, for `what` needs them, from where they lie or from `path`.

    Warns where they are not those that the run was trained on.

    Raises:
      UserError: they are not there, or have another size.
    """
    config = unflatten(flatten(config))
    set_option(config, "data.path", path or place_of(folder, config))
    try:
        dataset = load_data(config)
    except UserError as error:
        raise UserError(
            f"{what} compares with the data of the run. {error} If these data lie elsewhere now: --data=DIR."
        ) from None
    was = read_facts(folder)
    changes = [] if was is None else differences(was, facts_of(dataset, config, folder))
    if was is not None and was["shape"][1:] != list(dataset.images.shape[1:]):
        raise UserError(f"{what} compares with the data of the run, and these are others: {changes[0]}.")
    if changes:
        logger.warning("The data are not those that the run was trained on: %s.", "; ".join(changes))
    return dataset


def settle(folder: Path, dataset: Dataset, config: ConfigDict, *, accept: bool = False) -> None:
    """Writes `data.json`. Checks first that a run goes on with the data that it has had, wherever they lie.

    Raises:
      UserError: they differ; with `accept`, only if the networks cannot take them.
    """
    was, now = read_facts(folder), facts_of(dataset, config, folder)
    changes = [] if was is None else differences(was, now)
    if was is not None and changes:
        fits = was["shape"][1:] == now["shape"][1:] and (
            was["classes"] == now["classes"] or not config.model.conditional
        )
        if not (fits and accept):
            told = (
                "Bring the old data back, go on with these by --accept-new-data, or give another --workdir."
                if fits
                else "This run's networks do not fit these data: bring the old ones back, or give another --workdir."
            )
            lines = "\n".join(f"  {change}" for change in changes[:SHOWN])
            raise UserError(f"--workdir={folder}: the data of this run have changed:\n{lines}\n{told}")
        logger.warning("The run goes on with data that have changed: %s.", "; ".join(changes))
    if was != now:
        atomic_write_json(folder / FILE, now)


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how the data of `now` differ from those of `was`, in words. Where they lie is no difference."""
    found = []
    sizes = ["×".join(map(str, facts["shape"][1:])) for facts in (was, now)]
    if sizes[0] != sizes[1]:
        found.append(f"size: was {sizes[0]}, now {sizes[1]}")
    names, counts = ([facts[key] for facts in (was, now)] for key in ("class_names", "class_counts"))
    gone, new = ([name for name in a if name not in b] for a, b in (names, names[::-1]))
    found += [f"classes {how}: {_listed(some)}" for how, some in (("gone", gone), ("new", new)) if some]
    if not (gone or new) and names[0] != names[1]:
        found.append(f"order of the classes: was {_listed(names[0])}, now {_listed(names[1])}")
    if not names[0] and was["classes"] != now["classes"]:
        found.append(f"number of classes: was {was['classes']}, now {now['classes']}")
    first, then = (dict(zip(*pair, strict=False)) for pair in zip(names, counts, strict=True))
    shared = [name for name in first if name in then and first[name] != then[name]]
    found += [f"images of {name}: were {first[name]}, now {then[name]}" for name in shared]
    if was["shape"][0] != now["shape"][0] and not shared:
        found.append(f"images: were {was['shape'][0]}, now {now['shape'][0]}")
    if not found and was["files"] and now["files"] and was["files"] != now["files"]:
        found.append("names, sizes or content of the files, of which there are as many as before")
    return found


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
