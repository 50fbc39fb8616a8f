"""Data: sources in memory, the stateless order in which their images are shown, image helpers for the device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ganjax.config import plugins
from ganjax.data.dataset import Dataset, Request, fit_images
from ganjax.data.lazy import MAX_CORRUPT
from ganjax.data.sources import digits, fashion_mnist, folder, mixtures
from ganjax.data.sources import tfds as tfds_source
from ganjax.runtime.errors import UserError

if TYPE_CHECKING:
    from ganjax.data.images import pyramid, random_flip, to_float, to_uint8
    from ganjax.data.order import shuffled_indices

__all__ = [
    "DATASETS",
    "Dataset",
    "Request",
    "Source",
    "fit_images",
    "load",
    "pyramid",
    "random_flip",
    "register_dataset",
    "shuffled_indices",
    "to_float",
    "to_uint8",
]


_ON_DEVICE = {
    **dict.fromkeys(("pyramid", "random_flip", "to_float", "to_uint8"), "images"),
    "shuffled_indices": "order",
}


def __getattr__(name: str) -> Any:
    """Imports what needs JAX at its first use: `ganjax data prepare` and each of its workers start without it."""
    if name in _ON_DEVICE:
        return getattr(importlib.import_module(f"ganjax.data.{_ON_DEVICE[name]}"), name)
    raise AttributeError(f"module 'ganjax.data' has no attribute {name!r}")


@dataclass(frozen=True)
class Source:
    """Origin of a dataset, and what a config has to know of it (`config/names.py` reads the facts).

    Attributes:
        read: the function from a request to the dataset.
        points: True if it holds points of the plane instead of images.
        in_memory: True if it is made in memory and cannot stream.
        heldout: the dict from a split to another one that shares no image with it, for the monitor.
    """

    read: Callable[[Request], Dataset]
    points: bool = False
    in_memory: bool = False
    heldout: Mapping[str, str] = field(default_factory=dict)


Read = Callable[[Request], Dataset]

DATASETS: dict[str, Source] = {
    "digits": Source(digits.digits, in_memory=True, heldout={"fit": "test"}),
    "fashion_mnist": Source(fashion_mnist.fashion_mnist, heldout={"train": "test"}),
    "folder": Source(folder.pictures),
    "grid": Source(mixtures.grid, points=True, in_memory=True),
    "ring": Source(mixtures.ring, points=True, in_memory=True),
    "stacked_digits": Source(digits.stacked_digits, in_memory=True, heldout={"fit": "test"}),
}

_MAX_RESOLUTION = 4096


def register_dataset(
    name: str, *, points: bool = False, in_memory: bool = False, heldout: Mapping[str, str] | None = None
) -> Callable[[Read], Read]:
    """Returns a decorator that adds a data set to the choices of `data.name`.

    Args:
      name: a name of its own. What is decorated is a function from a `Request` to a `Dataset`.
      points, in_memory, heldout: what ganjax has to know of it, see `Source`.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, request: Request) -> str:
        return _problem(found, request.resolution, points)

    return plugins.decorator(
        "dataset", name, DATASETS, problem, lambda read: Source(read, points, in_memory, heldout or {})
    )


def _problem(found: Any, side: int, points: bool) -> str:
    """Returns what is wrong with the data of a plugin, the rest of a sentence; empty where nothing is."""
    if not isinstance(found, Dataset):
        return f"gives a ganjax.data.Dataset; it gave {plugins.shown(found)}"
    images, labels = found.images, found.labels
    dtype, rank, what = ("float32", 2, "points [N, 2]") if points else ("uint8", 4, "images [N, H, W, C]")
    if (
        str(images.dtype) != dtype
        or images.ndim != rank
        or not len(images)
        or (points and images.shape[1] != 2)
    ):
        return f"has {what} of {dtype}, N at least 1, and not {plugins.shown(images)}"
    if side and not points and images.shape[1:3] != (side, side):
        return (
            f"was asked for {side}×{side} pixels (`fit_images` makes them), and not {plugins.shown(images)}"
        )
    if labels is None:
        return "has classes and no labels" if found.num_classes else ""
    if str(labels.dtype) != "int32" or labels.shape != (len(images),):
        return f"has labels int32 [{len(images)}] or None, and not {plugins.shown(labels)}"
    return "" if found.num_classes else "has labels, and num_classes=0"


def load(
    name: str,
    *,
    path: str = "",
    manual_dir: str = "",
    split: str = "train",
    resolution: int = 0,
    seed: int = 0,
    max_bytes: int | None = None,
    max_corrupt: int = MAX_CORRUPT,
) -> Dataset:
    """Loads a dataset into memory, or as a list of what is there, where it can stay on the disk and is too large.

    Args:
        name: one of `DATASETS`, or `NAME[/CONFIG][:VERSION]` of tensorflow-datasets.
        path: the path of the pictures for `folder`; for TFDS its data_dir, default $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        manual_dir: a folder with files that were downloaded by hand, for TFDS datasets.
        split: a name that the source gives to a split; all have `train`.
        resolution: height and width in pixels, 0 for the data's own; `fit_images` has the rule.
        seed: the seed of the draw of mixtures and stacked digits.
        max_bytes: the size beyond which images of a folder or of TFDS stay on the disk; None takes all into memory.
        max_corrupt: the number of images on the disk that may be passed over because they cannot be decoded.

    Raises:
        UserError: an argument is none of what the source allows, or the data cannot be had.
    """
    if not 0 <= resolution <= _MAX_RESOLUTION:
        raise UserError(
            f"data.resolution: got {resolution}; expected 0 (the data's own) to {_MAX_RESOLUTION}."
        )
    request = Request(
        name,
        path=path,
        manual_dir=manual_dir,
        split=split,
        resolution=resolution,
        seed=seed,
        max_bytes=max_bytes,
        max_corrupt=max_corrupt,
    )
    if name in DATASETS:
        return DATASETS[name].read(request)
    return tfds_source.load_tfds(request, DATASETS)
