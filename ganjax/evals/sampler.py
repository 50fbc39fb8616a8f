"""A sampler of a generator: fixed latents by index, on any number of devices, from raw or averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ganjax.data import Dataset
from ganjax.data.images import to_uint8
from ganjax.models.latents import make_latents
from ganjax.runtime.keys import Stream, check_seeds, stream_key
from ganjax.training import parallel
from ganjax.training.build import Build

Tree = Any
CHUNK = 64  # images a device makes in one call
ENDLESS = 2**31 - 1  # samples of a seed


class Sampler:
    """A sampler by index: image i of a seed is the same, whichever other images and devices are used.

    Attributes:
      classes: the classes that samples have in turn, [k] int32.
      size: the number of samples that one call of the program makes.
    """

    def __init__(
        self,
        build: Build,
        dataset: Dataset,
        devices: Sequence[jax.Device],
        *,
        seed: int,
        classes: Sequence[int] = (),
        truncation: float = 1.0,
    ) -> None:
        """Sets up the sampler.

        Args:
          build, dataset, devices: those of the run.
          seed: seed of the latents.
          classes: classes of the samples, see `labels`; all of them by default.
          truncation: truncation of the latents or styles (`make_latents`, StyleGAN2's ψ); 1 leaves them.
        """
        self.classes = np.asarray(classes or range(build.classes), np.int32)
        self._shares: np.ndarray | None = None
        self._seeds = check_seeds([seed])
        self._each = ENDLESS
        self._scale = dataset.scale
        self._images = dataset.images.ndim == 4
        self._build = build
        self._styles: dict[str, Any] = (
            {"truncation": truncation} if build.truncates and truncation != 1.0 else {}
        )
        self._latents = make_latents(*build.latent, 1.0 if build.truncates else truncation)
        self.size = CHUNK * len(devices)
        self._call = build.programs.get(
            ("samples", tuple(devices), truncation, self._scale),
            lambda: parallel.map_shares(self._apply, devices),
        )

    @property
    def seed(self) -> int:
        """The seed of the latents, or the first of several."""
        return int(self._seeds[0])

    def for_seed(self, seed: int) -> Sampler:
        """Returns the same program for the latents of another seed."""
        return self.for_seeds([seed], ENDLESS)

    def for_seeds(self, seeds: Sequence[int], each: int) -> Sampler:
        """Returns the same program for samples 0 … each - 1 of the first seed, then of the next, and so on."""
        other = copy.copy(self)
        other._seeds, other._each = check_seeds(seeds), each
        return other

    def at_shares(self, counts: Sequence[int]) -> Sampler:
        """Returns the same program with the classes in the shares of `counts`, a number of images for each class.

        Sample i has the class of a fixed sequence whose first n hold each class n times its share, but for a few.
        """
        other = copy.copy(self)
        if len(self.classes):
            other._shares = np.cumsum(np.asarray(counts, np.uint64))
        return other

    def _apply(self, variables: Tree, rows: tuple[jax.Array, ...]) -> Tree:
        """Returns the samples of `rows`: seeds, indices and labels, [n] each, at every scale."""
        seeds, index, labels = rows
        keys = jax.vmap(lambda seed, i: jax.random.fold_in(stream_key(seed, Stream.SAMPLE), i))(seeds, index)
        told = labels if self._build.classes else None
        scales: Any = self._build.gan.gen.net.apply(
            variables, self._latents(keys), told, train=False, **self._styles
        )
        return tuple(to_uint8(image) if self._images else image * self._scale for image in scales)

    def __call__(self, variables: Tree, n: int) -> tuple[np.ndarray, ...]:
        """Returns samples 0 … n - 1 at every scale: uint8 [n, r, r, C] each, or float32 [n, 2] in the data's units."""
        parts = [self.part(variables, start) for start in range(0, n, self.size)]
        return tuple(np.concatenate(scale)[:n] for scale in zip(*parts, strict=True))

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the seed, uint32, and the index in it, int32, of each of the samples `numbers` [n]."""
        seeds = self._seeds[numbers // self._each % len(self._seeds)]
        return seeds, (numbers % self._each).astype(np.int32)

    def labels(self, n: int) -> np.ndarray | None:
        """Returns the classes of samples 0 … n - 1, [n] int32, or None without classes.

        They come in turn, so a grid has a class per column, or as `at_shares` says.
        """
        return self._labels(np.arange(n)) if len(self.classes) else None

    def _labels(self, numbers: np.ndarray) -> np.ndarray:
        _, index = self.places(numbers)
        if self._shares is not None:
            # Multiples of the golden ratio, here of 2³², fall evenly into any interval (Weyl; Knuth, vol. 3, 6.4).
            spread = index.astype(np.uint64) * np.uint64(2654435769) % np.uint64(2**32)
            drawn = spread * self._shares[-1] >> np.uint64(32)
            return np.searchsorted(self._shares, drawn, side="right").astype(np.int32)
        return self.classes[index % max(len(self.classes), 1)] if len(self.classes) else index

    def columns(self, n: int) -> int | None:
        """Returns the number of columns of a grid of n samples with a class in each, or None for as square a grid.

        The grid is as nearly square as possible. Where there are too many classes for that, a column has those of every
        so many. Of several seeds, each begins a row.
        """
        classes, side = len(self.classes), max(1, round(n**0.5))
        if self._each < n:
            return self._each if 1 < self._each <= 2 * side else None
        if classes > 2 * side:
            return next((i for i in range(side, 2 * side + 1) if classes % i == 0), None)
        return min(n, max(1, round(n**0.5 / classes)) * classes) if classes else None

    def blocks(self, variables: Tree, n: int) -> Iterator[np.ndarray]:
        """Yields samples 0 … n - 1 at full resolution, some at a time."""
        for start in range(0, n, self.size):
            yield self.part(variables, start)[-1][: n - start]

    def part(self, variables: Tree, start: int) -> tuple[np.ndarray, ...]:
        """Returns samples start … start + size - 1 at every scale: what one call of the program makes."""
        numbers = np.arange(start, start + self.size)
        made: tuple[np.ndarray, ...] = self._call(variables, (*self.places(numbers), self._labels(numbers)))
        return made
