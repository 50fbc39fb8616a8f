"""Adaptive discriminator augmentation (ADA; Karras et al. 2020b, "Training GANs with limited data", app. B).

The paper's pixel blitting, geometry and colour (the set it trains with), each applied to an image with probability p;
and cutout, with which R3GAN trains.
Differences: all the geometry is one affine warp with bilinear
sampling, without the wavelet filters around it, so shrinking aliases a little; and the image goes on outside as its
mirror about the *border*, not about the outermost pixels' centres, since the border is the same at every scale.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ganjax.data.draw_once import draw_once
from ganjax.data.images import Images
from ganjax.runtime.keys import Stream, stream_keys

_LN2 = 0.6931471805599453


class Draws:
    """Random numbers per image, handed out in the order of the calls.

    All are made at once, which is quick to compile.
    """

    def __init__(self, keys: Array, count: int) -> None:
        """Draws from keys [N]; `count` is the number of values of each kind to hand out."""
        split = jax.vmap(jax.random.split)(keys)
        drawn = lambda draw, keys: draw_once(jax.vmap(lambda key: draw(key, (count,), jnp.float32))(keys))
        self._uniforms = drawn(jax.random.uniform, split[:, 0])
        self._normals = drawn(jax.random.normal, split[:, 1])
        self._columns = iter(range(count))

    def uniform(self, low: float, high: float) -> Array:
        """Draws from U(low, high), [N] float32."""
        return low + (high - low) * self._uniforms[:, next(self._columns)]

    def normal(self, std: float) -> Array:
        """Draws from N(0, std²), [N] float32."""
        return std * self._normals[:, next(self._columns)]

    def below(self, bound: int) -> Array:
        """Draws a whole number from 0 to bound - 1, [N] int32."""
        return (bound * self.uniform(0.0, 1.0)).astype(jnp.int32)

    def applied(self, p: Array, value: Array, identity: float = 0.0) -> Array:
        """Returns `value` with probability p (never at 0, always at 1), else the parameter that does nothing."""
        return jnp.where(self.uniform(0.0, 1.0) < p, value, jnp.asarray(identity, value.dtype))


class Affine(NamedTuple):
    """Affine map from an output pixel (x, y) to the point that it reads, from the image's centre.

    The point is (xx·x + xy·y + x0, yx·x + yy·y + y0); [N] each.
    """

    xx: Array
    xy: Array
    yx: Array
    yy: Array
    x0: Array  # in pixels of the finest scale
    y0: Array

    def turned(self, cos: Array, sin: Array) -> Affine:
        """Returns this map with a turn of the source point, by the angle of cos and sin, after it."""
        return Affine(
            cos * self.xx - sin * self.yx,
            cos * self.xy - sin * self.yy,
            sin * self.xx + cos * self.yx,
            sin * self.xy + cos * self.yy,
            cos * self.x0 - sin * self.y0,
            sin * self.x0 + cos * self.y0,
        )

    def stretched(self, x: Array, y: Array) -> Affine:
        """Returns this map with factors along the source's axes after it."""
        return Affine(x * self.xx, x * self.xy, y * self.yx, y * self.yy, x * self.x0, y * self.y0)

    def moved(self, x: Array, y: Array) -> Affine:
        """Returns this map with a step of the source point after it."""
        return self._replace(x0=self.x0 + x, y0=self.y0 + y)


def random_affine(draws: Draws, p: Array, height: int, width: int) -> Affine:
    """Draws the paper's geometry, from output to source, hence in reverse order.

    Signs and inverses need no care, since every distribution is symmetric (log-symmetric for the scales).

    Args:
        draws: the draws of the images, of which it takes 18 numbers.
        p: the probability of each transform, scalar float32; above 1 it acts as 1.
        height, width: the size of the finest scale, in pixels.
    """
    # Two rotations would turn an image with probability 1 - (1 - p)²; at this one each they do with p in all.
    p_turn = 1.0 - jnp.sqrt(jnp.maximum(1.0 - p, 0.0))
    fraction = (draws.normal(0.125), draws.normal(0.125))
    one, zero = jnp.ones_like(fraction[0]), jnp.zeros_like(fraction[0])

    def angle() -> tuple[Array, Array]:
        theta = draws.applied(p_turn, draws.uniform(-jnp.pi, jnp.pi))
        return jnp.cos(theta), jnp.sin(theta)

    def log_normal() -> Array:
        return jnp.exp(draws.applied(p, draws.normal(0.2 * _LN2)))

    apply_fraction = draws.applied(p, one)
    affine = Affine(one, zero, zero, one, zero, zero).moved(
        apply_fraction * fraction[0] * width, apply_fraction * fraction[1] * height
    )
    affine = affine.turned(*angle())
    squeeze = log_normal()
    affine = affine.stretched(squeeze, 1.0 / squeeze).turned(*angle())
    zoom = log_normal()
    affine = affine.stretched(zoom, zoom)
    apply_whole = draws.applied(p, one)
    affine = affine.moved(
        apply_whole * jnp.round(draws.uniform(-0.125, 0.125) * width),
        apply_whole * jnp.round(draws.uniform(-0.125, 0.125) * height),
    )
    quarter = draws.applied(p, draws.below(4), 0)
    table = jnp.array([1.0, 0.0, -1.0, 0.0], jnp.float32)  # exact, where cos(π/2) is not
    affine = affine.turned(table[quarter], table[(quarter + 3) % 4])
    mirror = draws.applied(p, draws.below(2), 0).astype(jnp.float32)
    return affine.stretched(1.0 - 2.0 * mirror, one)


def _mirrored(position: Array, size: int) -> Array:
    """Folds pixel coordinates into [-½, size - ½], the image between its borders."""
    return size - jnp.abs(jnp.mod(position + 0.5, 2.0 * size) - size) - 0.5


def warp(images: Array, affine: Affine, height: int, width: int) -> Array:
    """Returns bilinear samples of images [N, H, W, C] at the points of `affine`.

    `affine` is in pixels of an image of `height` × `width`.

    Four gathers along the flattened pixels: with gradient 7 ms for 128×32×32×3 on a CPU, a third of what a `vmap` of
    indexing costs. Exact for flips, quarter turns of squares and whole shifts.
    """
    n, h, w, c = images.shape
    y = (jnp.arange(h, dtype=jnp.float32) - (h - 1) / 2).reshape(1, h, 1)
    x = (jnp.arange(w, dtype=jnp.float32) - (w - 1) / 2).reshape(1, 1, w)
    a = Affine(*(value.reshape(-1, 1, 1) for value in affine))
    # The linear part is in pixels of this scale, whose aspect is the finest's.
    source_x = _mirrored(a.xx * x + a.xy * y + a.x0 * (w / width) + (w - 1) / 2, w)
    source_y = _mirrored(a.yx * x + a.yy * y + a.y0 * (h / height) + (h - 1) / 2, h)
    floor_x, floor_y = jnp.floor(source_x), jnp.floor(source_y)
    part_x, part_y = source_x - floor_x, source_y - floor_y
    # one more pixel on each side is the mirror image that the outermost half pixels blend with
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").reshape(n, -1, c)
    corner = (floor_y.astype(jnp.int32) + 1) * (w + 2) + floor_x.astype(jnp.int32) + 1

    def read(down: int, right: int, weight: Array) -> Array:
        index = (corner + (down * (w + 2) + right)).reshape(n, -1, 1)
        pixels = jnp.take_along_axis(padded, index, axis=1, mode="promise_in_bounds").reshape(n, h, w, c)
        return pixels * weight.astype(images.dtype).reshape(n, h, w, 1)

    upper = read(0, 0, (1.0 - part_y) * (1.0 - part_x)) + read(0, 1, (1.0 - part_y) * part_x)
    return upper + read(1, 0, part_y * (1.0 - part_x)) + read(1, 1, part_y * part_x)


class Colour(NamedTuple):
    """Colour map: channel i becomes own·xᵢ + following·xᵢ₊₁ + next_but_one·xᵢ₊₂ + offset; [N] each."""

    own: Array
    following: Array
    next_but_one: Array
    offset: Array


def compose_colour(shift: Array, contrast: Array, luma: Array, theta: Array, saturation: Array) -> Colour:
    """Composes brightness, contrast, luma flip (-1 or 1), hue rotation about grey and saturation to one map; all [N].

    With P the projection on the grey axis v = (1, 1, 1)/√3, the paper's product of 4×4 matrices is
    contrast·(±P + saturation·(cos θ·(I - P) + sin θ·[v]×)), a circulant matrix: three numbers an image.
    """
    # as differences from the identity, so that doing nothing is exactly 1, 0, 0
    grey, chroma = (luma - 1.0) / 3.0, (saturation * jnp.cos(theta) - 1.0) / 3.0
    twist = saturation * jnp.sin(theta) / 3.0**0.5
    return Colour(
        contrast * (1.0 + grey + 2.0 * chroma),
        contrast * (grey - chroma - twist),
        contrast * (grey - chroma + twist),
        contrast * luma * shift,
    )


def random_colour(draws: Draws, p: Array, channels: int) -> Colour:
    """Draws the paper's colour transforms (10 numbers); for one channel only brightness, contrast, luma flip."""
    shift = draws.applied(p, draws.normal(0.2))
    contrast = jnp.exp(draws.applied(p, draws.normal(0.5 * _LN2)))
    luma = 1.0 - 2.0 * draws.applied(p, draws.below(2), 0).astype(jnp.float32)
    if channels == 1:
        none = jnp.zeros_like(shift)
        return Colour(contrast * luma, none, none, contrast * luma * shift)
    theta = draws.applied(p, draws.uniform(-jnp.pi, jnp.pi))
    saturation = jnp.exp(draws.applied(p, draws.normal(_LN2)))
    return compose_colour(shift, contrast, luma, theta, saturation)


def recolour(images: Array, colour: Colour) -> Array:
    """Applies `colour` to images [N, H, W, 1 or 3]."""
    c = Colour(*(value.astype(images.dtype).reshape(-1, 1, 1, 1) for value in colour))
    if images.shape[-1] == 1:
        return c.own * images + c.offset
    turned = c.following * jnp.roll(images, -1, axis=3) + c.next_but_one * jnp.roll(images, -2, axis=3)
    return c.own * images + turned + c.offset


def random_cutout(draws: Draws, p: Array, height: int, width: int) -> tuple[Array, Array]:
    """Draws a box of half the height and width about a point anywhere (3 numbers).

    Returns rows [N, height], columns [N, width].

    The box is where both are 1.
    """
    on = draws.applied(p, jnp.ones_like(draws.uniform(0.0, 1.0)))

    def within(size: int) -> Array:
        centre = draws.uniform(0.0, 1.0)[:, None]
        place = (jnp.arange(size, dtype=jnp.float32)[None, :] + 0.5) / size
        return (jnp.abs(place - centre) < 0.25).astype(jnp.float32)

    return on[:, None] * within(height), within(width)


def cut(images: Array, rows: Array, columns: Array) -> Array:
    """Sets the box of `rows` and `columns` in images [N, H, W, C] to zero (grey); in a coarse image by its share."""
    n, h, w, _ = images.shape
    rows, columns = (jnp.mean(x.reshape(n, size, -1), axis=2) for x, size in ((rows, h), (columns, w)))
    kept = 1.0 - rows[:, :, None, None] * columns[:, None, :, None]
    return images * kept.astype(images.dtype)


def ada_augment(
    keys: Array, images: Images, p: float | Array, *, color_share: float = 1.0, cutout: bool = False
) -> Images:
    """Applies random geometry, then random colour, then a hole, each transform of each image with probability p.

    | transform | distribution |
    |---|---|
    | mirror; quarter turns | even; one of four |
    | whole-pixel shift; fractional shift | U(-⅛, ⅛) of the size, rounded; N(0, ⅛²) of the size |
    | scale; stretch of x against y | log-normal, .2·ln 2 |
    | rotation, before and after the stretch | U(-π, π), with 1 - √(1-p) each |
    | brightness; contrast | N(0, .2²); log-normal, .5·ln 2 |
    | luma flip; hue; saturation | even; U(-π, π); log-normal, ln 2 |
    | cutout, where asked for | a box of half the sides, centred anywhere |

    Args:
        keys: the PRNG keys [N], one an image.
        images: a tuple of [N, H, W, C] in [-1, 1], C 1 or 3, lowest resolution first.
        p: the probability, at least 0, may be traced. 0 gives the images back, exactly; above 1 is as 1.
        color_share: the share of p for the colour transforms (R3GAN: ½).
        cutout: True for a hole, which R3GAN has and the paper's choice of transforms has not.

    Raises:
        ValueError: the arrays are not images, or have channels other than 1 or 3.
    """
    if not isinstance(images, tuple) or any(x.ndim != 4 or x.shape[-1] not in (1, 3) for x in images):
        shapes = [x.shape for x in images]
        raise ValueError(f"ADA expects a tuple of images [N, H, W, 1 or 3], got {shapes}")
    p = jnp.asarray(p, jnp.float32)
    height, width, channels = images[-1].shape[1:]
    draws = Draws(stream_keys(keys, Stream.ADA), 28)
    affine = random_affine(draws, p, height, width)
    colour = random_colour(draws, color_share * p, channels)
    images = tuple(recolour(warp(x, affine, height, width), colour) for x in images)
    if not cutout:
        return images
    box = random_cutout(Draws(stream_keys(keys, Stream.ADA_CUTOUT), 4), p, height, width)
    return tuple(cut(x, *box) for x in images)


def ada_update(
    p: Array,
    sign_mean: Array,
    *,
    target: float | Array = 0.6,
    images_per_update: int,
    speed_kimg: float = 500.0,
) -> Array:
    """Moves p one step up or down, towards r = target (Karras et al. 2020b, sec. 3).

    p is at least 0 and, as in the authors' code, may pass 1, where it acts as 1: how long D has overfitted with all
    transforms on is how long it takes for them to become fewer.

    Args:
        p: the probability, a scalar of at least 0.
        sign_mean: the mean r = E[sign D(real)] since the last update, over the global batch; scalar in [-1, 1].
        target: the target of r. Above it D overfits, and p rises.
        images_per_update: the number of reals that D got since the last update.
        speed_kimg: the thousands of images that take p from 0 to 1.
    """
    step = jnp.sign(sign_mean - target) * (images_per_update / (speed_kimg * 1000.0))
    return jnp.maximum(p + step, 0.0)
