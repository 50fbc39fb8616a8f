"""Random keys. Every draw of a run comes from `key(seed)` by a path of numbers, so no key is stored.

A path of a train step is seed → step → update → place in the global batch → `Stream`; so an image's draws do not depend
on the device that computes them. Other paths begin with a number that no step reaches (`Stream.PROBE` and later).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import jax
import numpy as np

from ganjax.runtime.errors import UserError


@enum.unique
class Stream(enum.IntEnum):
    """Number that says what a key is drawn for. It is folded into the key above it. No two streams are equal."""

    # Folded into the key of an image in an update, or in the monitor's fixed batch.
    LATENTS = 0
    REALS = 1  # their transforms
    FAKES = 2
    TERMS = 3  # of D's and G's objectives
    HELDOUT = 5
    # Folded into the key of an image's transforms.
    AUGMENT = 10
    NOISE = 11
    # Folded into the key of an image's augmentation by ADA.
    ADA = 20
    ADA_CUTOUT = 21
    # Folded into the key of an image's terms.
    LABEL_FLIP = 30
    PENALTY = 31
    CONSISTENCY_REALS = 32
    CONSISTENCY_FAKES = 33
    PATH_LENGTH = 4  # with which the numbers of the authors' code were made
    # Folded into a key made of the bits of a latent vector; layers of StyleGAN2's noise have their own numbers below.
    SECOND_STYLE = 1000
    IS_MIXED = 1001
    MIXED_FROM = 1002
    # Folded into the key of the seed, in the place of a step.
    PROBE = 2**29  # the monitor's fixed batch
    INIT_GEN = 2**29 + 1
    INIT_DIS = 2**29 + 2
    INIT_LATENTS = 2**29 + 3
    SAMPLE = 2**30
    FLIP = 2**31 - 1


def check_seeds(seeds: Sequence[int]) -> np.ndarray:
    """Returns the seeds, uint32 [n]. Raises a `UserError` for one out of range."""
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"A seed is a whole number from 0 to 2³² - 1, and got {seed}.")
    return np.asarray(seeds, np.uint32)


def stream_key(seed: int | np.integer | jax.Array, stream: Stream) -> jax.Array:
    """Returns the key of a stream of the whole run."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def update_number(name: str, i: int | jax.Array) -> int | jax.Array:
    """Returns the number of a step's `i`-th update of `dis` or `gen`, for `image_keys`."""
    return 2 * i + int(name == "gen")


def image_keys(seed: jax.Array, step: jax.Array, update: int | jax.Array, index: jax.Array) -> jax.Array:
    """Returns one key per image, [n], for this seed, step, update and place in the global batch."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return fold_each(jax.random.fold_in(key, update), index)


def fold_each(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `key` folded with each of `index` [n]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def stream_keys(keys: jax.Array, stream: int) -> jax.Array:
    """Returns each key [n] folded with the same number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, stream)
