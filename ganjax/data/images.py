"""Images on the device: uint8 [N, H, W, C] in [0, 255] in storage, float32 in [-1, 1] in the networks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ganjax.data.draw_once import draw_once

Images = tuple[jax.Array, ...]
"""Images of several scales, lowest resolution first; the last is the sample."""


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 in [0, 255] to float32 in [-1, 1]: x / 127.5 − 1, any shape."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Converts floats in [-1, 1] to uint8 in [0, 255], rounded. Values outside are clipped. Any shape."""
    return jnp.clip(jnp.round((images.astype(jnp.float32) + 1.0) * 127.5), 0.0, 255.0).astype(jnp.uint8)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability ½.

    Args:
        keys: the PRNG keys [N], one an image ([N, 2] uint32 where keys are raw).
        images: the images [N, H, W, C].

    Returns:
        [N, H, W, C], dtype kept.
    """
    flipped = draw_once(jax.vmap(jax.random.bernoulli)(keys))
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)


def pyramid(images: jax.Array, scales: int) -> tuple[jax.Array, ...]:
    """Returns the images at `scales` resolutions, lowest first, each the 2× average pooling of the next.

    Args:
        images: the images, [N, H, W, C] floats, H and W multiples of 2^(scales − 1); or [N, 2] points with `scales` 1.
        scales: the number of scales, at least 1.

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


def at_sides(images: jax.Array, sides: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Returns the images, or points, average pooled to each of `sides`. The last is as it was."""
    if images.ndim == 2:
        return (images,)
    halvings = (sides[-1] // sides[0]).bit_length()
    return tuple(x for x in pyramid(images, halvings) if x.shape[1] in sides)


def pack(images: Images, m: int) -> Images:
    """Puts neighbours side by side in the last axis: `[N, ..., C] -> [N/m, ..., m·C]` (Lin et al. 2018)."""
    if m == 1:
        return images

    def merge(x: jax.Array) -> jax.Array:
        groups = x.reshape(x.shape[0] // m, m, *x.shape[1:])
        moved = jnp.moveaxis(groups, 1, -2)
        return moved.reshape(*moved.shape[:-2], m * x.shape[-1])

    return tuple(merge(x) for x in images)


def unpack(images: Images, m: int) -> Images:
    """Undoes `pack`: `[N/m, ..., m·C] -> [N, ..., C]`."""
    if m == 1:
        return images

    def split(x: jax.Array) -> jax.Array:
        parts = jnp.moveaxis(x.reshape(*x.shape[:-1], m, x.shape[-1] // m), -2, 1)
        return parts.reshape(-1, *parts.shape[2:])

    return tuple(split(x) for x in images)


def concatenate(batches: Sequence[Images]) -> Images:
    """Joins batches of image tuples one after another, scale by scale."""
    return tuple(jnp.concatenate(scale) for scale in zip(*batches, strict=True))
