"""Instance noise on D's inputs and its schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from ganjax.data.images import Images


def normal_like(keys: Array, images: Images) -> Images:
    """Draws N(0, 1) of the shapes and dtypes of `images`, each image's noise from its own key of `keys` [N]."""
    sizes = [math.prod(x.shape[1:]) for x in images]
    # one draw for all scales: the generator is most of what an XLA program with noise takes to compile
    draws = jax.vmap(lambda key: jax.random.normal(key, (sum(sizes),), images[0].dtype))(keys)
    parts = jnp.split(draws, list(itertools.accumulate(sizes))[:-1], axis=1)
    return tuple(part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, images, strict=True))


def instance_noise(keys: Array, images: Images, std: float | Array) -> Images:
    """Returns images + N(0, std²) (Sønderby et al. 2017; Arjovsky & Bottou 2017).

    Each scale gets its own noise of the *same* standard deviation. Noise drawn at the finest scale and pooled down
    would halve with each level, and leave reals and fakes apart just where D has few dimensions; the point of the
    noise is that their distributions overlap at every input of D.

    Args:
        keys: the PRNG keys [N], one an image.
        images: a tuple of [N, H, W, C], or of points [N, 2].
        std: the standard deviation in units of the images, may be traced. 0 gives the images back, exactly.
    """

    noise = normal_like(keys, images)
    return tuple(x + jnp.asarray(std, x.dtype) * n for x, n in zip(images, noise, strict=True))


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
"""Progress to the schedule's end (float scalar, 0 at the start, above 1 after it) → factor of std in [0, 1]."""
