"""The sum that D and G minimise: named terms, each a function of the same inputs.

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
    """Values that a loss or a penalty of one update may read, on one device.

    Attributes:
      reals, fakes: D's inputs, transformed alike; tuples of arrays [N, ...].
      real_logits, fake_logits: D's logits [M] float32 (M = N / packing); the real ones are None where no term of G
        needs them.
      real_sown, fake_sown: D's sown arrays, by name (`features` [M, ...], `class_logits` [M, classes]); empty
        where no term asks for them, or D was not run on the reals.
      labels: the classes of the reals, and of the fakes in their places, [N] int32; None without classes.
      params: the parameters of the network that is updated.
      restyle: the function from offsets of the styles to G's images there, in G's update where G has styles; else None.
      style_shape: the pair (layers with a style, size of a style) where G has styles.
      dis: the function from images to logits with the present parameters, differentiable to second order.
      plain_reals, plain_fakes: the images before the transforms, and D as a function of them.
      keys: the keys [N], one per image, for the terms' own randomness.
      step: the step, [] int32.
      control, hyper: the control values and the traced numbers, see `GanState`.
      axis_name: the name of the devices' axis.
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
    """Returns a term's values without the numbers to log."""
    return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Objective:
    """Weighted sum of terms.

    Attributes:
      terms: the dict name → term; the name appears in the metrics as `NET/NAME`.
      weights: the dict name → key of `hyper` that holds the weight; terms without one have weight 1.
      needs_reals: True if D must be run on the reals too (always so for D itself).
      needs_sown: True if the terms read D's sown arrays.
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
