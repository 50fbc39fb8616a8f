"""Latent vectors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ganjax.runtime.errors import UserError


def make_latents(dim: int, distribution: str, truncation: float = 1.0) -> Callable[[jax.Array], jax.Array]:
    """Returns the function keys [n] → latent vectors [n, dim] float32, each from its own key.

    A `truncation` other than 1 keeps each coordinate of a normal vector within ±truncation, drawing anew what lies
    outside (Brock et al. 2019, section 3.1), and scales a uniform one; the sphere's length is kept. A truncation of 0
    leaves the vector 0, which no sphere has.
    """
    if truncation == 0:
        if distribution == "sphere":
            raise UserError(
                "No truncation is 0 on a sphere: all its vectors have one length. Take a small one."
            )
        return lambda keys: jnp.zeros((len(keys), dim), jnp.float32)

    def one(key: jax.Array) -> jax.Array:
        if distribution == "uniform":
            return jax.random.uniform(key, (dim,), jnp.float32, -truncation, truncation)
        if truncation == 1.0:
            z = jax.random.normal(key, (dim,), jnp.float32)
        else:
            z = jax.random.truncated_normal(key, -truncation, truncation, (dim,), jnp.float32)
        return z * (dim**0.5 / jnp.linalg.norm(z)) if distribution == "sphere" else z

    return jax.vmap(one)
