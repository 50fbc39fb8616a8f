"""What D and G minimise: a sum of named terms, each a function of the same inputs.

The step evaluates D once on reals and fakes together, hands what it found to every term, and adds them up; it knows
none of them by name. `training.build` chooses the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.data.images import Images

Dis = Callable[[Images], jax.Array]


@dataclass(frozen=True)
class Plain:
    """Images before the transforms, packed like D's inputs, and D as a function of them through these transforms."""

    images: Images
    dis: Dis


@dataclass(frozen=True)
class LossInputs:
    """What a loss or a penalty of one update may read, on one device.

    Attributes:
      reals, fakes: D's inputs, transformed alike; tuples of arrays [N, ...].
      real_logits, fake_logits: [M] float32 (M = N / packing); the real ones None where no term of G needs them.
      real_sown, fake_sown: what D sows on the way, by name (`features` [M, ...], `class_logits` [M, classes]); empty
        where no term asks for it, or D did not see the reals.
      labels: [N] int32 classes of the reals, and of the fakes in their places; None without.
      params: of the network that is updated.
      restyle: offsets of the styles → G's images at them, in G's own update where G has styles; else None.
      style_shape: (layers with a style, size of a style) where G has styles.
      dis: images → logits with the present parameters, differentiable to second order.
      plain_reals, plain_fakes: the images before the transforms, and D as a function of them.
      keys: [N] keys, one per image, for the terms' own randomness.
      step: [] int32.
      control, hyper: see `GanState`.
      axis_name: of the devices.
    """

    reals: Images
    fakes: Images
    real_logits: Any
    fake_logits: jax.Array
    real_sown: Mapping[str, jax.Array]
    fake_sown: Mapping[str, jax.Array]
    labels: jax.Array | None
    params: Any
    restyle: Callable[[jax.Array], Images] | None
    style_shape: tuple[int, int] | None
    dis: Dis
    plain_reals: Plain
    plain_fakes: Plain
    keys: jax.Array
    step: jax.Array
    control: Mapping[str, jax.Array]
    hyper: Mapping[str, jax.Array]
    axis_name: str | None


Value = jax.Array | tuple[jax.Array, dict[str, jax.Array]]
Term = Callable[[LossInputs], Value]
"""Inputs → per-example values of any shape, averaged by the objective, and perhaps numbers to log by name."""


def values_of(value: Value) -> jax.Array:
    """A term's values without the numbers to log."""
    return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms.

    Attributes:
      terms: name → term; the name appears in the metrics as `NET/NAME`.
      weights: name → key of `hyper` that holds the weight; terms without one have weight 1.
      needs_reals: whether D must see the reals too (always so for D itself).
      needs_sown: whether the terms read what D sows.
    """

    terms: Mapping[str, Term]
    weights: Mapping[str, str]
    needs_reals: bool = True
    needs_sown: bool = False

    def __call__(self, inputs: LossInputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the total [] float32 and each term's unweighted mean."""
        values: dict[str, jax.Array] = {}
        total = jnp.zeros((), jnp.float32)
        for name, term in self.terms.items():
            with jax.named_scope(name):
                value = term(inputs)
            value, numbers = value if isinstance(value, tuple) else (value, {})
            value = jnp.mean(value)
            total += value * inputs.hyper[self.weights[name]] if name in self.weights else value
            values |= {name: value, **numbers}
        return total, values
