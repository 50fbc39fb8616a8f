"""Images that stay on the disk: decoded when they are asked for; those that cannot be decoded are passed over."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ganjax.runtime.errors import UserError

logger = logging.getLogger(__name__)

MAX_CORRUPT = 16
Read = Callable[[int], tuple[np.ndarray, int]]


def undeclared_label(what: str, place: int, label: int, classes: int) -> UserError:
    """Returns the error about a label that is none of the declared classes."""
    return UserError(
        f"{what}: image {place} has the label {label}, and the data declare {classes} classes, 0 to {classes - 1}. "
        "Mend the labels, or the number of classes."
    )


class Reader:
    """Reader of single images, `reader(index) -> (image [H, W, C] uint8, label)`, from any thread.

    An image that cannot be decoded is replaced by the next one that can, always the same; it is warned of and
    counted once.

    Attributes:
        shape: (N, H, W, C).
        classes: the number of classes, of which each label is one; 0 where labels do not count.
        corrupt: the indices that could not be decoded so far.
    """

    def __init__(
        self,
        read: Read,
        shape: tuple[int, int, int, int],
        what: str,
        max_corrupt: int = MAX_CORRUPT,
        classes: int = 0,
    ) -> None:
        """Takes `read`, which turns an index into image and label and may raise anything.

        `what` names the data in messages. More than `max_corrupt` corrupt images are an error.
        """
        self.shape, self.classes = shape, classes
        self.corrupt: set[int] = set()
        self._read, self._what, self._max = read, what, max_corrupt
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __call__(self, index: int) -> tuple[np.ndarray, int]:
        """Returns image and label.

        Raises:
            UserError: more than `max_corrupt` images were corrupt, or the label is none of the classes.
        """
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            if place in self.corrupt:
                continue
            try:
                image, label = self._read(place)
                if image.shape != self.shape[1:] or image.dtype != np.uint8:
                    raise ValueError(f"{image.dtype} {image.shape} instead of uint8 {self.shape[1:]}")
            except Exception as error:  # decoders raise all kinds of things
                self._count(place, error)
                continue
            if self.classes and not 0 <= label < self.classes:
                raise undeclared_label(self._what, place, label, self.classes)
            return image, label
        raise UserError(f"{self._what}: not one of its {len(self)} images can be decoded.")

    def _count(self, place: int, error: Exception) -> None:
        with self._lock:
            if place in self.corrupt:
                return
            self.corrupt.add(place)
            count = len(self.corrupt)
        reason = f"image {place} cannot be decoded ({' '.join(str(error).split())[:200]})"
        if count > self._max:
            raise UserError(
                f"{self._what}: {reason}; that is more than data.max_corrupt={self._max} such images. Prepare the data "
                "anew, or allow more."
            ) from None
        logger.warning("%s: %s; the next one takes its place (%d so far).", self._what, reason, count)

    def many(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads indices [n] one after the other. Returns images [n, H, W, C] uint8 and labels [n] int32."""
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for place, index in enumerate(indices.tolist()):
            images[place], labels[place] = self(index)
        return images, labels


class _Lazy:
    """Base of lazy images and labels. It takes an index, a slice or an array of indices, as an array does."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def _many(self, key: Any) -> tuple[np.ndarray, np.ndarray]:
        """Reads many images at once in a thread a core: decoding lets go of Python's lock."""
        indices = np.atleast_1d(np.arange(len(self))[key])
        threads = len(os.sched_getaffinity(0))
        if len(indices) < 64 or threads == 1:
            return self.reader.many(indices)
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(self.reader.many, np.array_split(indices, threads)))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


class LazyImages(_Lazy):
    """Stand-in for an array [N, H, W, C] uint8."""

    ndim = 4
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.reader.shape

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, key: Any) -> np.ndarray:
        images = self._many(key)[0]
        return images[0] if isinstance(key, int | np.integer) else images


class LazyLabels(_Lazy):
    """Stand-in for an array [N] int32."""

    ndim = 1
    dtype = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.reader),)

    def __getitem__(self, key: Any) -> np.ndarray:
        labels = self._many(key)[1]
        return labels[0] if isinstance(key, int | np.integer) else labels
