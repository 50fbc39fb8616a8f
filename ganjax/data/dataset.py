"""The `Dataset` that every source hands over: in memory, images as uint8 NHWC in [0, 255]."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ganjax.data.lazy import MAX_CORRUPT, LazyImages, LazyLabels, undeclared_label
from ganjax.runtime.errors import UserError, nearest

# A target at most this much larger than the image is reached by a black border, a larger one by resizing.
PAD_LIMIT = 1.25


@dataclass(frozen=True, eq=False)
class Dataset:
    """Whole dataset, in memory or, where it `streams`, on the disk.

    A label in memory that is out of its range raises a `UserError`; one on the disk does so when it is read.

    Attributes:
        name: the `data.name` that it was loaded by.
        images: the images [N, H, W, C] uint8 in [0, 255], or points [N, 2] float32 in the data's own coordinates.
        labels: the labels [N] int32 in [0, num_classes), or None.
        num_classes: the number of classes, 0 where there are no labels.
        label_names: one name a class, or empty.
        scale: the number that points are divided by for the networks; 1 for images.
        modes: the centres of a mixture, [K, 2] float32, else None.
        std: the standard deviation of each mode of a mixture, else None.
        content: a hash of the content where the source knows one, else empty.
        files: a hash of the names and sizes of what was read, wherever it lies; empty where the source has no files.
        counts: the number of images of each class where the source knows it without reading them, else empty.
    """

    name: str
    images: np.ndarray | LazyImages
    labels: np.ndarray | LazyLabels | None
    num_classes: int
    label_names: tuple[str, ...] = ()
    scale: float = 1.0
    modes: np.ndarray | None = None
    std: float | None = None
    content: str = ""
    files: str = ""
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes and isinstance(self.labels, np.ndarray):
            outside = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
            if len(outside):
                raise undeclared_label(
                    self.name, int(outside[0]), int(self.labels[outside[0]]), self.num_classes
                )

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the data: `content`, or the sha256, in hex, of the bytes of the images and then of the labels."""
        if self.content or isinstance(self.images, LazyImages) or isinstance(self.labels, LazyLabels):
            return self.content
        return content_hash(self.images, self.labels)

    @functools.cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class; empty without labels. All are read where the source does not know it."""
        if self.counts or self.labels is None:
            return self.counts
        return tuple(np.bincount(self.labels[:], minlength=self.num_classes).tolist())

    @property
    def streams(self) -> bool:
        """True if the images stay on the disk."""
        return isinstance(self.images, LazyImages)


@dataclass(frozen=True)
class Request:
    """Request to a source. Its fields are the arguments of `ganjax.data.load`."""

    name: str
    path: str = ""
    manual_dir: str = ""
    split: str = "train"
    resolution: int = 0
    seed: int = 0
    max_bytes: int | None = None
    max_corrupt: int = MAX_CORRUPT

    def too_large(self, shape: Sequence[int]) -> bool:
        """Returns True if uint8 images of this shape are to stay on the disk."""
        return self.max_bytes is not None and math.prod(shape) > self.max_bytes


def content_hash(images: np.ndarray, labels: np.ndarray | None) -> str:
    """Returns the sha256, in hex, of the bytes of the images and then of the labels."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def check_split(request: Request, choices: Sequence[str]) -> None:
    """Raises a `UserError` unless `request.split` is one of `choices`."""
    if request.split not in choices:
        raise UserError(
            f"data.split: got {request.split!r}; {request.name} has {', '.join(map(repr, choices))}."
            + nearest(request.split, choices)
        )


def find_classes(wanted: Sequence[int | str], names: Sequence[str], known: int) -> tuple[int, ...]:
    """Returns the labels of classes that are given by name or number; a text that is both is taken for a name.

    Args:
      wanted: the names and numbers.
      names: name of each class, or empty.
      known: number of classes of the networks.

    Raises:
      UserError: there is no such class.
    """
    labels = {str(label): label for label in range(known)} | {
        name: label for label, name in enumerate(names[:known])
    }
    found = [labels.get(one) if isinstance(one, str) else one for one in wanted]
    for one, label in zip(wanted, found, strict=True):
        if label is None or not 0 <= label < known:
            allowed = f"numbers from 0 to {known - 1}" if known else "nothing: this run has no classes"
            if known and names:
                allowed += f" or names ({', '.join(names[:20])}{', …' if known > 20 else ''})"
            raise UserError(f"--classes takes {allowed}, and got {one!r}.{nearest(str(one), names)}")
    return tuple(int(label) for label in found if label is not None)


def fit_images(images: np.ndarray, resolution: int) -> np.ndarray:
    """Brings images to `resolution` × `resolution`. Returns them as they are where they have that size or it is 0.

    The rule: what is not square is cut to its central square. An image smaller than the target, by a factor of at
    most 1.25, gets a black border (28 → 32: two pixels on each side; an odd pixel goes to the bottom and right).
    Otherwise it is resized: downwards by averaging areas (Pillow's BOX), upwards by its BICUBIC filter.

    Args:
        images: the images, [N, H, W, C] uint8.
        resolution: the target height and width in pixels, or 0.

    Returns:
        [N, resolution, resolution, C] uint8.
    """
    if resolution == 0 or images.shape[1:3] == (resolution, resolution):
        return images
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[:, top : top + side, left : left + side]
    if side == resolution:
        return np.ascontiguousarray(images)
    if side < resolution <= PAD_LIMIT * side:
        before = (resolution - side) // 2
        border = (before, resolution - side - before)
        return np.pad(images, ((0, 0), border, border, (0, 0)))
    return _resize(images, resolution)


def _resize(images: np.ndarray, resolution: int) -> np.ndarray:
    from PIL import Image

    count, side, _, channels = images.shape
    kind = Image.Resampling.BICUBIC if resolution > side else Image.Resampling.BOX
    out = np.empty((count, resolution, resolution, channels), np.uint8)
    for index, image in enumerate(images):
        # Channel by channel: Pillow has no images of 2 or 5 channels, and weights the others by alpha.
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
            out[index, :, :, channel] = np.asarray(plane.resize((resolution, resolution), kind))
    return out
