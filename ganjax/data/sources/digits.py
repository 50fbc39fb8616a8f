"""Handwritten digits of 8×8 pixels, alone and stacked as the channels of one image (1000 modes).

`digits.npz` has the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak; UCI Machine
Learning Repository 1998, doi 10.24432/C50P49; licence CC BY 4.0), in the order in which scikit-learn ships it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split, fit_images

# "train" is everything, because a GAN's quickstart needs no held-out images; "fit" and "test" divide it for
# those who do: a digit classifier, or a metric on images that were not trained on.
SPLITS = ("train", "fit", "test")
STACKED_COUNT = 50_000


def digits(request: Request) -> Dataset:
    """Returns the 1797 real 8×8 digits, values 0…16 scaled to 0…255, [N, 8, 8, 1], 10 classes.

    Splits: `train` is all 1797; `test` every fifth image of each class (355), `fit` the other 1442.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), its test part.
    """
    check_split(request, SPLITS)
    values, labels = _read_digits()
    keep = np.ones(len(labels), bool)
    if request.split != "train":
        keep = _held_out(labels) == (request.split == "test")
    images = np.rint(values[keep] * (255 / 16)).astype(np.uint8)[..., None]
    return Dataset(
        name=request.name,
        images=fit_images(images, request.resolution),
        labels=labels[keep],
        num_classes=10,
        label_names=tuple("0123456789"),
    )


def stacked_digits(request: Request) -> Dataset:
    """Returns 50,000 images whose three channels are digits drawn independently; label 100a + 10b + c, 1000 classes.

    The splits are those of `digits`: each draws from its own digits. The draw depends on `seed` alone.

    Source: Metz et al. 2017, "Unrolled GANs" (stacked MNIST), here with the 8×8 digits.
    """
    single = digits(dataclasses.replace(request, name="digits"))
    assert single.labels is not None
    rng = np.random.default_rng(request.seed)
    chosen = rng.integers(0, len(single), size=(STACKED_COUNT, 3))
    images = np.moveaxis(single.images[chosen, :, :, 0], 1, -1)
    return Dataset(
        name=request.name,
        images=np.ascontiguousarray(images),
        labels=single.labels[chosen] @ np.array([100, 10, 1], np.int32),
        num_classes=1000,
        label_names=tuple(f"{mode:03d}" for mode in range(1000)),
    )


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Returns True for the 5th, 10th, … image of each class: stratified, and the same for ever."""
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[4::5]] = True
    return held_out


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Reads images [1797, 8, 8] uint8 in [0, 16] and labels [1797] int32, in the order of scikit-learn's copy."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file["images"], file["labels"].astype(np.int32)
