"""Keeps XLA from computing the same random numbers many times."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw_once(values: jax.Array) -> jax.Array:
    """Returns the same values [N, …] in a form that XLA does not compute again for each reader.

    XLA on CPU fuses what is drawn for each image into what is done with each of its pixels, and so draws anew for every
    pixel, also past an `optimization_barrier`. It never fuses a sort: here by place, which leaves everything there.
    """
    if jax.default_backend() != "cpu":
        return values
    places = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
    return jax.lax.sort((places, values), dimension=0, num_keys=1)[1]
