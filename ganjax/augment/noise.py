"""Instance noise on D's inputs and its schedules."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Images = tuple[Array, ...]


def instance_noise(keys: Array, images: Images, std: float | Array) -> Images:
    """images + N(0, std²) (Sønderby et al. 2017; Arjovsky & Bottou 2017).

    Each scale gets its own noise of the *same* standard deviation. Noise drawn at the finest scale and pooled down
    would halve with each level, and leave reals and fakes apart just where D sees few dimensions; the point of the
    noise is that their distributions overlap at every input of D.

    Args:
        keys: [N] PRNG keys, one an image.
        images: tuple of [N, H, W, C], or of points [N, 2].
        std: in units of the images, may be traced. 0 gives the images back, exactly.
    """

    def noisy(scale: int, x: Array) -> Array:
        def draw(key: Array) -> Array:
            return jax.random.normal(jax.random.fold_in(key, scale), x.shape[1:], x.dtype)

        return x + jnp.asarray(std, x.dtype) * jax.vmap(draw)(keys)

    return tuple(noisy(scale, x) for scale, x in enumerate(images))


def _constant(progress: Array) -> Array:
    return jnp.ones_like(progress)


def _linear(progress: Array) -> Array:
    return 1.0 - jnp.clip(progress, 0.0, 1.0)


def _cosine(progress: Array) -> Array:
    return 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0))


NOISE_SCHEDULES: dict[str, Callable[[Array], Array]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
}
"""Progress through the run (float scalar, 0 at the start, 1 at the end and after) → factor of std in [0, 1]."""
