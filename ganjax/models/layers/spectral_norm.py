"""Spectral normalisation as a Linen wrapper (Miyato et al. 2018, algorithm 1).

The wrapper divides every kernel and embedding of the layer inside it by an estimate of its largest singular
value, σ = uᵀ W v, with W the kernel as a matrix of shape (product of all axes but the last, last axis).

* `params` hold the raw kernel, so initial scales survive and optimiser steps are not distorted.
* `u` [rows] and `v` [columns] live in the mutable collection `spectral`, float32.
* They move iff the caller made that collection mutable; otherwise no iteration runs and the stored u and v
  give σ. D's own update moves them, and G's update, EMA, evaluation and sampling leave them alone.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

COLLECTION = "spectral"
WARM_UP = 100  # iterations at initialisation; PyTorch's 15 left σ 0.4 % low for a 64×8 Gaussian kernel
_NORMALISED = ("kernel", "embedding")


def _unit(x: jax.Array, eps: float) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), eps)


def _scattered(size: int) -> jax.Array:
    """Returns a fixed unit vector of irregular entries (multiples of the golden ratio, wrapped to ±½).

    Any start that is not orthogonal to the answer will do, and a constant compiles faster than random draws.
    """
    entries = (np.arange(1, size + 1) * 0.6180339887498949) % 1.0 - 0.5
    return jnp.asarray(entries / np.linalg.norm(entries), jnp.float32)


def power_iteration(
    matrix: jax.Array, u: jax.Array, v: jax.Array, *, iterations: int, eps: float = 1e-12
) -> tuple[jax.Array, jax.Array]:
    """Makes `iterations` rounds of v ← Wᵀu/‖Wᵀu‖, u ← Wv/‖Wv‖, without a gradient.

    A zero matrix gives zero products, which would make u = 0 for ever: then u and v stay as they were.

    Args:
      matrix: the kernel as a matrix, [M, N] float32.
      u, v: the vectors, [M] and [N] float32 of unit length.
      iterations: the number of rounds, in a loop, since a matrix product is as fast inside one (a convolution is not
        on CPU).
      eps: the least norm to divide by.

    Returns:
      The new u and v.
    """
    matrix = jax.lax.stop_gradient(matrix)

    def one_round(_: Any, vectors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        u, v = vectors
        image = u @ matrix
        v = jnp.where(jnp.any(image != 0), _unit(image, eps), v)
        image = matrix @ v
        u = jnp.where(jnp.any(image != 0), _unit(image, eps), u)
        return u, v

    if iterations == 1:
        return one_round(0, (u, v))
    return jax.lax.fori_loop(0, iterations, one_round, (u, v))


class SpectralNorm(nn.Module):
    """Wrapper of a Linen layer: `SpectralNorm(nn.Conv(64, (3, 3)))(x)`.

    Attributes:
      layer: any layer with a `kernel` or an `embedding`: Dense, Conv, ConvTranspose, Embed.
      iterations: the number of power iterations each time that u and v move.
      eps: the least σ to divide by, so that a kernel of zeros stays zeros.
    """

    layer: nn.Module
    iterations: int = 1
    eps: float = 1e-12

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the layer gives for these arguments with its kernels divided by σ."""
        if self.is_initializing():
            self.layer(*args, **kwargs)  # makes the raw parameters, which mapping at init would overwrite
        return nn.map_variables(
            lambda layer: layer(*args, **kwargs), "params", trans_in_fn=self._normalise, mutable=False
        )(self.layer)

    def _normalise(self, collections: Any) -> Any:
        flat = traverse_util.flatten_dict(collections)
        found = [path for path in flat if path[-1] in _NORMALISED]
        if not found:
            raise ValueError(f"SpectralNorm found no kernel or embedding in {type(self.layer).__name__}.")
        return traverse_util.unflatten_dict(
            {path: self._divide(path, leaf) if path in found else leaf for path, leaf in flat.items()}
        )

    @jax.named_scope("spectral_norm")
    def _divide(self, path: tuple[str, ...], kernel: jax.Array) -> jax.Array:
        matrix = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
        name = "/".join(path[1:])
        u, v = self._vectors(name, matrix)
        if self.is_mutable_collection(COLLECTION):
            rounds = WARM_UP if self.is_initializing() else self.iterations
            u.value, v.value = power_iteration(matrix, u.value, v.value, iterations=rounds, eps=self.eps)
        sigma = u.value @ (matrix @ v.value)
        sigma = jnp.where(jnp.abs(sigma) > self.eps, sigma, jnp.ones_like(sigma))
        return (kernel.astype(jnp.float32) / sigma).astype(kernel.dtype)

    def _vectors(self, name: str, matrix: jax.Array) -> tuple[nn.Variable, nn.Variable]:
        rows, columns = matrix.shape

        u = self.variable(COLLECTION, f"{name}/u", _scattered, rows)
        v = self.variable(COLLECTION, f"{name}/v", _scattered, columns)
        return u, v
