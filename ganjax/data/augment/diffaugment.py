"""DiffAugment (Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training").

Colour transforms are linear in the pixels and commute with average pooling, so they agree over a pyramid exactly.
Geometry is drawn in whole pixels of the finest scale. A coarse scale moves by the same fraction of the image, with
linear interpolation between its pixels, and is cut by the pooled mask: what pooling the transformed finest scale
would give were that scale constant over each coarse pixel. Rounding to coarse pixels instead would never move a 4×4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ganjax.config import plugins
from ganjax.data.draw_once import draw_once
from ganjax.data.images import Images


def _check(images: Images) -> None:
    if not isinstance(images, tuple) or any(x.ndim != 4 for x in images):
        shapes = [x.shape for x in images]
        raise ValueError(
            f"expected a tuple of images [N, H, W, C], got a {type(images).__name__} of {shapes}"
        )


@jax.jit
def _draws(keys: Array) -> Array:
    """Draws U(0, 1) [N, 7] float32, a column for each number that the transforms need.

    Every transform asks for all of them and XLA merges the requests: one draw is quick to compile, seven are not.
    """
    return draw_once(jax.vmap(lambda key: jax.random.uniform(key, (7,), jnp.float32))(keys))


def _uniform(keys: Array, column: int, low: float, high: float) -> Array:
    """Returns U(low, high) [N] float32."""
    return low + (high - low) * _draws(keys)[:, column]


def _integers(keys: Array, column: int, low: int, high: int) -> Array:
    """Returns whole numbers from low to high, both included, [N] as float32."""
    return low + jnp.floor((high - low + 1) * _draws(keys)[:, column])


def _about(x: Array, centre: Array, factor: Array) -> Array:
    """Stretches x by `factor` [N] about `centre` (of x's rank)."""
    return centre + (x - centre) * factor.astype(x.dtype).reshape(-1, 1, 1, 1)


def brightness(keys: Array, images: Images) -> Images:
    """Adds U(-.5, .5), one number an image."""
    shift = _uniform(keys, 0, -0.5, 0.5)
    return tuple(x + shift.astype(x.dtype).reshape(-1, 1, 1, 1) for x in images)


def saturation(keys: Array, images: Images) -> Images:
    """Multiplies by U(0, 2) about each pixel's mean over channels, which stays. Does nothing for one channel."""
    factor = _uniform(keys, 1, 0.0, 2.0)
    return tuple(_about(x, jnp.mean(x, axis=3, keepdims=True), factor) for x in images)


def contrast(keys: Array, images: Images) -> Images:
    """Multiplies by U(.5, 1.5) about each image's mean over pixels and channels, which stays."""
    factor = _uniform(keys, 2, 0.5, 1.5)
    return tuple(_about(x, jnp.mean(x, axis=(1, 2, 3), keepdims=True), factor) for x in images)


def color(keys: Array, images: Images) -> Images:
    """Applies brightness, then saturation, then contrast: the paper's colour policy."""
    return contrast(keys, saturation(keys, brightness(keys, images)))


def _shift_matrix(shift: Array, size: int) -> Array:
    """Returns [N, size, size], rows that read pixel i - shift, linearly between two, nothing from outside."""
    pixels = jnp.arange(size, dtype=jnp.float32)
    source = pixels.reshape(1, -1, 1) - shift.reshape(-1, 1, 1)
    return jax.nn.relu(1.0 - jnp.abs(source - pixels.reshape(1, 1, -1)))


def _shifted(x: Array, down: Array, right: Array) -> Array:
    """Moves x [N, H, W, C] by pixels `down`, `right` [N]. Zeros move in.

    A product with a banded matrix per axis: as fast as slicing on CPU (2-3 ms with gradient for 128×32×32×3), fast on
    accelerators where a gather per image is not, and fit for fractions. Full precision keeps whole shifts exact.
    """
    exact = jax.lax.Precision.HIGHEST
    rows, columns = (
        _shift_matrix(s, n).astype(x.dtype) for s, n in ((down, x.shape[1]), (right, x.shape[2]))
    )
    x = jnp.einsum("nij,njwc->niwc", rows, x, precision=exact)
    return jnp.einsum("nij,nhjc->nhic", columns, x, precision=exact)


def translation(keys: Array, images: Images) -> Images:
    """Moves images by up to ⅛ of their size along each axis, whole pixels of the finest scale. Zeros (grey) move in."""
    height, width = images[-1].shape[1:3]
    reach_y, reach_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    down, right = _integers(keys, 3, -reach_y, reach_y), _integers(keys, 4, -reach_x, reach_x)
    return tuple(_shifted(x, down * (x.shape[1] / height), right * (x.shape[2] / width)) for x in images)


def _coverage(start: Array, length: int, size: int, full: int) -> Array:
    """Returns [N, size], the share of each pixel within [start, start + length) of an axis of `full` finest pixels."""
    pixel = full / size
    left = jnp.arange(size, dtype=jnp.float32).reshape(1, -1) * pixel
    start = start.reshape(-1, 1)
    return jax.nn.relu(jnp.minimum(start + length, left + pixel) - jnp.maximum(start, left)) / pixel


def cutout(keys: Array, images: Images) -> Images:
    """Sets a box of half the height and width to zero (grey). Its centre is anywhere, so it may reach outside."""
    height, width = images[-1].shape[1:3]
    tall, wide = int(height / 2 + 0.5), int(width / 2 + 0.5)
    top = _integers(keys, 5, 0, height - tall % 2) - tall // 2
    left = _integers(keys, 6, 0, width - wide % 2) - wide // 2

    def cut(x: Array) -> Array:
        rows = _coverage(top, tall, x.shape[1], height)
        columns = _coverage(left, wide, x.shape[2], width)
        kept = 1.0 - rows.reshape(*rows.shape, 1, 1) * columns.reshape(-1, 1, columns.shape[1], 1)
        return x * kept.astype(x.dtype)

    return tuple(cut(x) for x in images)


Augmentation = Callable[[Array, Images], Images]

POLICIES: dict[str, Augmentation] = {
    "brightness": brightness,
    "saturation": saturation,
    "contrast": contrast,
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def register_augmentation(name: str) -> Callable[[Augmentation], Augmentation]:
    """Returns a decorator that adds a transform of D's inputs to the parts of `augment.policy`.

    Args:
      name: a name of its own. What is decorated is a function from keys [N] and images, a tuple of [N, H, W, C], to
        images of the same shapes and dtypes; it draws per image, acts alike on every scale, and is differentiable.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, _: Array, images: Images) -> str:
        gave, got = plugins.shown(found), plugins.shown(images)
        return "" if gave == got else f"gives images like those that it gets, {got}; it gave {gave}"

    return plugins.decorator("augmentation", name, POLICIES, problem)


def diff_augment(keys: Array, images: Images, policy: tuple[str, ...]) -> Images:
    """Applies the transforms of `policy`, in its order.

    Args:
        keys: the PRNG keys [N], one an image.
        images: a tuple of [N, H, W, C] in [-1, 1], lowest resolution first.
        policy: the names from `POLICIES`; the paper's strongest is ("color", "translation", "cutout").

    Raises:
        ValueError: an unknown name, or something that is no image (points).
    """
    _check(images)
    for name in policy:
        if name not in POLICIES:
            raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(POLICIES)}")
        images = POLICIES[name](keys, images)
    return images
