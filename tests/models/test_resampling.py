"""Every resampling of the package commutes with mirrors and whole coarse pixels, natively and through XLA.

No oracle is needed: a filter that is off by half a pixel, or a border that is cut on one side only, shows.
"""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.models.layers import native
from ganjax.models.layers.convolution import DOWN, UP, convolve, downsample, upsample
from ganjax.models.layers.equalized import SMOOTH, EqualConv, convolve_down, convolve_up, fir_down, fir_up
from ganjax.models.r3gan import R3GANDiscriminator
from ganjax.models.stylegan2 import StyleGAN2Discriminator

RNG = np.random.default_rng(0)
HALF = RNG.normal(size=(3, 3, 3, 4))
KERNEL = jnp.asarray(
    HALF + HALF[::-1] + HALF[:, ::-1] + HALF[::-1, ::-1], jnp.float32
)  # its own mirror image
SIDE = 8


def equal_conv(size):
    layer = EqualConv(4, size, use_bias=False, down=True)
    return lambda x: layer.apply({"params": {"kernel": KERNEL[:size, :size]}}, x)


# name → (images → images, factor of their side)
RESAMPLINGS = {
    "upsample": (upsample, 2),
    "downsample": (downsample, 0.5),
    "fir_up": (lambda x: fir_up(x, SMOOTH), 2),
    "fir_down": (lambda x: fir_down(x, SMOOTH), 0.5),
    "convolve_up": (lambda x: convolve_up(x, KERNEL), 2),
    "convolve_down": (lambda x: convolve_down(x, KERNEL), 0.5),
    "convolve, UP": (lambda x: convolve(x, KERNEL, resample=UP), 2),
    "convolve, DOWN": (lambda x: convolve(x, KERNEL, resample=DOWN), 0.5),
    "StyleGAN2's D, 3×3": (equal_conv(3), 0.5),
    "StyleGAN2's D, 1×1": (equal_conv(1), 0.5),
}
MIRRORS = {"left to right": lambda x: x[:, :, ::-1], "top to bottom": lambda x: x[:, ::-1]}

names = pytest.mark.parametrize("name", RESAMPLINGS)


@pytest.fixture(params=["native", "xla"], autouse=True)
def kernels(request):
    """The native kernels, where there are any, and XLA's operations."""
    if request.param == "native" and not native.in_use():
        pytest.skip("no native kernels here")
    with native.portable() if request.param == "xla" else contextlib.nullcontext():
        yield


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def both(call, x, slope):
    """The result, and the gradient of its product with `slope`, which is resampled the other way."""

    @jax.jit
    def run(x, slope):
        y, back = jax.vjp(call, x)
        return y, back(slope)[0]

    return run(x, slope)


def shape_of(call, x):
    return jax.eval_shape(call, x).shape


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


@names
@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
def test_mirrors_commute_with_resampling(name, mirror):
    call, factor = RESAMPLINGS[name]
    x = draw(2, SIDE, SIDE, 3)
    slope = draw(*shape_of(call, x))
    assert slope.shape[1] == factor * SIDE
    mirrored = both(call, mirror(x), mirror(slope))
    assert_same(mirrored, [mirror(y) for y in both(call, x, slope)])


@names
@pytest.mark.parametrize("axis", [1, 2])
def test_a_shift_by_a_coarse_pixel_is_a_shift_of_the_result(name, axis):
    """Of an image that is zero near its borders."""
    call, factor = RESAMPLINGS[name]
    wide = ((0, 0), (6, 6), (6, 6), (0, 0))
    x, margin = jnp.pad(draw(2, 4, 4, 3), wide), int(6 * factor)
    n, side, _, channels = shape_of(call, x)
    inner = draw(n, side - 2 * margin, side - 2 * margin, channels)
    slope = jnp.pad(inner, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    by_in, by_out = (1, 2) if factor == 2 else (2, 1)
    moved = both(call, jnp.roll(x, by_in, axis), jnp.roll(slope, by_out, axis))
    y, gradient = both(call, x, slope)
    assert_same(moved, [jnp.roll(y, by_out, axis), jnp.roll(gradient, by_in, axis)])


@names
def test_a_constant_stays_one_inside(name):
    """Away from the borders; with a kernel it is multiplied by the kernel's sum. So does the gradient, by its share."""
    call, factor = RESAMPLINGS[name]
    x = jnp.ones((1, 16, 16, 3), jnp.float32)
    y, gradient = both(call, x, jnp.ones(shape_of(call, x), jnp.float32))
    inner = y[0, 4:-4, 4:-4] if factor == 2 else y[0, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, jnp.broadcast_to(inner[0, 0], inner.shape), rtol=1e-5)
    if name in ("upsample", "downsample", "fir_up", "fir_down"):
        np.testing.assert_allclose(inner, np.ones_like(inner), rtol=1e-6)
    elif name.startswith("convolve"):
        # zeros between the pixels let a quarter of the taps through, which the gain of 4 undoes
        np.testing.assert_allclose(inner[0, 0], KERNEL.sum((0, 1, 2)), rtol=1e-4)
    inside = gradient[0, 4:-4, 4:-4]
    np.testing.assert_allclose(inside, jnp.broadcast_to(inside[0, 0], inside.shape), rtol=1e-4)


@names
def test_the_centre_of_a_coarse_pixel_stays_where_it_is(name):
    """What it becomes has its centre of mass in the same place, in pixels of the image."""
    call, factor = RESAMPLINGS[name]
    size = 1 if factor == 2 else 2
    x = jnp.zeros((1, 16, 16, 3), jnp.float32).at[0, 6 : 6 + size, 8 : 8 + size].set(1.0)
    y = np.asarray(jax.jit(call)(x), np.float64)[0, :, :, 0]
    place = np.arange(y.shape[0]) + 0.5
    rows, columns = (float((y.sum(1 - axis) * place).sum() / y.sum()) / factor for axis in (0, 1))
    assert (rows, columns) == pytest.approx((6 + size / 2, 8 + size / 2), abs=1e-2)


@pytest.mark.parametrize("call", [fir_up, fir_down], ids=lambda f: f.__name__)
def test_the_sum_of_the_filter_is_one(call):
    x = jnp.zeros((1, 16, 16, 1), jnp.float32).at[0, 6:8, 6:8].set(1.0)
    gain = 4.0 if call is fir_up else 0.25
    np.testing.assert_allclose(call(x, SMOOTH).sum(), gain * x.sum(), rtol=1e-6)


@pytest.mark.parametrize("network", [StyleGAN2Discriminator, R3GANDiscriminator])
def test_a_mirrored_picture_gets_the_same_answer_from_d(network):
    """Of a D whose weights are their own mirror images."""
    options = {"minibatch_stddev": False} if network is StyleGAN2Discriminator else {"depth": 1}
    dis, x = network(16, width=4, max_width=8, **options), draw(2, 16, 16, 3)
    variables = jax.jit(lambda: dis.init(jax.random.key(0), (x,), train=True))()

    def mirrored(w):
        w = w + 0.1 * draw(*w.shape)  # R3GAN's last kernels start at zero
        if w.ndim == 4:
            return w + w[:, ::-1]
        across = w.reshape(4, 4, *(w.shape[0] // 16, *w.shape[1:])) if w.shape[0] % 16 == 0 else None
        return w if across is None or w.ndim == 1 else (across + across[:, ::-1]).reshape(w.shape)

    params = jax.tree.map(mirrored, variables["params"])
    logits = jax.jit(lambda x: dis.apply({"params": params}, (x,), train=True))
    np.testing.assert_allclose(logits(x[:, :, ::-1]), logits(x), rtol=1e-4, atol=1e-5)
