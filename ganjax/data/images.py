"""Images on the device: uint8 [N, H, W, C] in [0, 255] in storage, float32 in [-1, 1] in the networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ganjax.data.draw_once import computed_once


def to_float(images: jax.Array) -> jax.Array:
    """uint8 in [0, 255] → float32 in [-1, 1]: x / 127.5 − 1, any shape."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Floats in [-1, 1] → uint8 in [0, 255], rounded; what lies outside is clipped. Any shape."""
    return jnp.clip(jnp.round((images.astype(jnp.float32) + 1.0) * 127.5), 0.0, 255.0).astype(jnp.uint8)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability ½.

    Args:
        keys: [N] PRNG keys, one an image ([N, 2] uint32 where keys are raw).
        images: [N, H, W, C].

    Returns:
        [N, H, W, C], dtype kept.
    """
    flipped = computed_once(jax.vmap(jax.random.bernoulli)(keys))
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)


def pyramid(images: jax.Array, scales: int) -> tuple[jax.Array, ...]:
    """The images at `scales` resolutions, lowest first, each the 2× average pooling of the next.

    Args:
        images: [N, H, W, C] floats, H and W multiples of 2^(scales − 1); or [N, 2] points with `scales` 1.
        scales: how many, at least 1.

    Returns:
        `scales` arrays; the last is `images` itself.

    Raises:
        ValueError: the images cannot be halved that often.
    """
    factor = 2 ** (scales - 1)
    if scales < 1 or (
        scales > 1 and (images.ndim != 4 or images.shape[1] % factor or images.shape[2] % factor)
    ):
        raise ValueError(f"cannot make {scales} scales of images of shape {images.shape}")
    levels = [images]
    for _ in range(scales - 1):
        count, height, width, channels = levels[0].shape
        blocks = levels[0].reshape(count, height // 2, 2, width // 2, 2, channels)
        levels.insert(0, blocks.mean(axis=(2, 4)))
    return tuple(levels)
