"""What D and G minimise: a sum of named terms, each a function of one round of the game.

A round is what one network update sees. The step evaluates D once on reals and fakes together, hands the round
to every term, and adds them up; it knows none of them by name. The factory chooses the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Images = tuple[jax.Array, ...]
Dis = Callable[[Images], jax.Array]


@dataclass(frozen=True)
class Round:
    """One update's inputs and D's opinion of them, on one device.

    Attributes:
      reals, fakes: D's inputs, transformed alike; tuples of arrays [N, ...].
      real_logits, fake_logits: [M] float32 (M = N / packing); the real ones None where no term of G needs them.
      real_seen, fake_seen: what D sows on the way, by name (`features` [M, ...], `class_logits` [M, classes]); empty
        where no term asks for it, or D did not judge the reals.
      labels: [N] int32 classes of the reals, and of the fakes in their places; None without.
      params: of the network that is updated.
      restyle: offsets of the styles → G's images at them, in G's own round where G has styles; else None.
      style_shape: (layers with a style, size of a style) where G has styles.
      dis: images → logits with the present parameters, differentiable to second order.
      before: of reals and of fakes, the images before the transforms, packed like D's inputs, and D as a function of
        them, through the same transforms.
      keys: [N] keys, one per image, for the terms' own randomness.
      step: [] int32.
      control, hyper: see `GanState`.
      axis_name: of the devices.
    """

    reals: Images
    fakes: Images
    real_logits: Any
    fake_logits: jax.Array
    real_seen: Mapping[str, jax.Array]
    fake_seen: Mapping[str, jax.Array]
    labels: jax.Array | None
    params: Any
    restyle: Callable[[jax.Array], Images] | None
    style_shape: tuple[int, int] | None
    dis: Dis
    before: tuple[tuple[Images, Dis], tuple[Images, Dis]]
    keys: jax.Array
    step: jax.Array
    control: Mapping[str, jax.Array]
    hyper: Mapping[str, jax.Array]
    axis_name: str | None


Value = jax.Array | tuple[jax.Array, dict[str, jax.Array]]
Term = Callable[[Round], Value]
"""A round → per-example values of any shape, averaged by the objective, and perhaps numbers to log by name."""


def values_of(value: Value) -> jax.Array:
    """A term's values without the numbers to log."""
    return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms.

    Attributes:
      terms: name → term; the name appears in the metrics as `NET/NAME`.
      weights: name → key of `hyper` that holds the weight; terms without one have weight 1.
      needs_reals: whether D must judge the reals too (always so for D itself).
      needs_seen: whether the terms read what D sows.
    """

    terms: Mapping[str, Term]
    weights: Mapping[str, str]
    needs_reals: bool = True
    needs_seen: bool = False

    def __call__(self, round_: Round) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The total [] float32 and each term's unweighted mean."""
        values: dict[str, jax.Array] = {}
        total = jnp.zeros((), jnp.float32)
        for name, term in self.terms.items():
            with jax.named_scope(name):
                value = term(round_)
            value, numbers = value if isinstance(value, tuple) else (value, {})
            value = jnp.mean(value)
            total += value * round_.hyper[self.weights[name]] if name in self.weights else value
            values |= {name: value, **numbers}
        return total, values


def pack(images: Images, m: int) -> Images:
    """Neighbours in the batch side by side in the last axis: `[N, ..., C] -> [N/m, ..., m·C]` (Lin et al. 2018)."""
    if m == 1:
        return images

    def merge(x: jax.Array) -> jax.Array:
        groups = x.reshape(x.shape[0] // m, m, *x.shape[1:])
        moved = jnp.moveaxis(groups, 1, -2)
        return moved.reshape(*moved.shape[:-2], m * x.shape[-1])

    return tuple(merge(x) for x in images)


def unpack(images: Images, m: int) -> Images:
    """What `pack` was given: `[N/m, ..., m·C] -> [N, ..., C]`."""
    if m == 1:
        return images

    def split(x: jax.Array) -> jax.Array:
        parts = jnp.moveaxis(x.reshape(*x.shape[:-1], m, x.shape[-1] // m), -2, 1)
        return parts.reshape(-1, *parts.shape[2:])

    return tuple(split(x) for x in images)


def concatenate(batches: Sequence[Images]) -> Images:
    """Batches of image tuples one after another, scale by scale."""
    return tuple(jnp.concatenate(scale) for scale in zip(*batches, strict=True))
