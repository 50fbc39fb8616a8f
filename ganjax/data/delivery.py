"""Makes batches on the device: order, float values, mirroring and the pyramid of scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ganjax.data.dataset import Dataset
from ganjax.data.draw_once import draw_once
from ganjax.data.images import Images, at_sides, random_flip, to_float
from ganjax.data.order import batch_positions, shuffled_indices
from ganjax.runtime.keys import Stream, fold_each, stream_key

Tree = Any


@struct.dataclass
class Batch:
    """One device's share of the data of one step.

    Attributes:
      reals: a tuple of [U, n, ...] float32 in [-1, 1], lowest resolution first; U = batches of a step: one for
        each update of D, and with `fresh_reals` one for each of G.
      labels: the labels [U, n] int32, or None; networks made for no classes ignore them.
      index: the images' places in the global batch, [n] int32.
    """

    reals: Images
    labels: jax.Array | None
    index: jax.Array


MakeBatch = Callable[[Tree, jax.Array, jax.Array, jax.Array], Batch]
"""(data, seed [] uint32, step [] int32, index [n] int32 in the global batch) → one device's batch."""


def make_delivery(
    dataset: Dataset, sides: tuple[int, ...], *, batch_size: int, updates: int, flip: bool
) -> MakeBatch:
    """Returns the function that makes batches from data on the device: uint8 images or float points, indexed there.

    Each epoch is a permutation of its own, a pure function of (seed, position). Of a dataset that streams, the data
    are this step's and device's own, chosen on the host by the same function: images [updates, n, H, W, C], labels.

    Args:
      dataset: the dataset, of which size, scale and kind are read.
      sides: the sides of the pyramid in pixels, ascending.
      batch_size: the number of images of an update over all devices.
      updates: the number of batches of a step.
      flip: True if each image is mirrored with probability ½.
    """
    size, scale = len(dataset.images), 1.0 / dataset.scale

    def make_batch(data: Tree, seed: jax.Array, step: jax.Array, index: jax.Array) -> Batch:
        images, labels = data
        update = jnp.arange(updates, dtype=jnp.uint32)[:, None]
        places = index.astype(jnp.uint32)[None, :]
        positions = batch_positions(step.astype(jnp.uint32), update, places, batch_size, updates).reshape(-1)
        if dataset.streams:
            reals = images.reshape(-1, *images.shape[2:])
            labels = None if labels is None else labels.reshape(-1)
        else:
            chosen = draw_once(shuffled_indices(positions, size, seed))
            reals = jnp.take(images, chosen, axis=0)
            labels = None if labels is None else jnp.take(labels, chosen)
        reals = to_float(reals) if reals.dtype == jnp.uint8 else reals * scale
        if flip:
            reals = random_flip(fold_each(stream_key(seed, Stream.FLIP), positions), reals)
        split = lambda x: x.reshape(updates, index.shape[0], *x.shape[1:])
        return Batch(
            reals=tuple(split(x) for x in at_sides(reals, sides)),
            labels=None if labels is None else split(labels),
            index=index,
        )

    return make_batch
