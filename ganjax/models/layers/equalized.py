"""Layers with equalised learning rate, and the resampling by short filters that StyleGAN2 and R3GAN use.

Weights start as N(0, 1) and are scaled by gain/√fan_in at run time, so that Adam moves all layers alike (Karras et al.
2018, section 4.1). Spectral normalisation divides that scale out again: then the layer is W/σ.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.layers import plain
from ganjax.models.layers.convolution import (
    PADDING,
    PLAIN,
    SPREAD,
    STRIDED,
    convolve,
    forward,
    native_fits,
    smooth,
)
from ganjax.models.layers.plain import Dtype, spread
from ganjax.models.layers.spectral_norm import SpectralNorm

SMOOTH = (1.0, 3.0, 3.0, 1.0)  # StyleGAN2's filter


class EqualDense(nn.Module):
    """Dense layer `[N, I] -> [N, features]`; `rate` is its share of the learning rate, `bias` its initial bias."""

    features: int
    spectral: int = 0
    gain: float = 1.0
    rate: float = 1.0
    bias: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N, I] to [N, features]."""
        init, bias_init = (
            nn.initializers.normal(1.0 / self.rate),
            nn.initializers.constant(self.bias / self.rate),
        )
        if self.spectral:
            layer = plain.Dense(self.features, kernel_init=init, bias_init=bias_init, dtype=self.dtype)
            return SpectralNorm(layer, iterations=self.spectral)(x)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        scaled = (kernel * (self.gain * self.rate / x.shape[-1] ** 0.5)).astype(self.dtype)
        y = x.astype(self.dtype) @ scaled
        return y + spread(bias * self.rate, y)


class EqualConv(nn.Module):
    """Square convolution `[N, H, W, I] -> [N, H, W, features]`; `down` smooths and halves: `[N, H/2, W/2, ...]`.

    `resample` is as in `ganjax.models.layers.layers.Conv`, without smoothing.
    """

    features: int
    size: int = 3
    spectral: int = 0
    gain: float = 1.0
    use_bias: bool = True
    down: bool = False
    resample: str = PLAIN
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I]; H and W are even with `down`."""
        init, fan_in = nn.initializers.normal(1.0), self.size * self.size * x.shape[-1]
        if self.spectral:
            # With `down` the plain order, since the wrapped layer holds the kernel: convolve, then smooth and halve.
            layer = plain.Conv(self.features, self.size, self.use_bias, self.resample, init, self.dtype)
            y = SpectralNorm(layer, iterations=self.spectral)(x)
            return fir_down(y, SMOOTH) if self.down else y
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        scaled = (kernel * (self.gain / fan_in**0.5)).astype(self.dtype)
        x = x.astype(self.dtype)
        if not self.down:
            y = convolve(x, scaled, resample=self.resample)
        elif self.size == 1:
            y = convolve(fir_down(x, SMOOTH), scaled)
        else:
            y = convolve_down(x, scaled)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + spread(bias, y)
        return y


def convolve_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Halves images: `smooth` to one pixel more a side, then a 3×3 convolution, stride 2.

    `[N, 2H, 2W, I] -> [N, H, W, O]`.

    As in the authors' code, the smoothed image is not cut before the convolution: mirrors and whole coarse pixels
    commute with it. Without native kernels written as a 2×2 convolution of blocks of 2×2 pixels: 16/9 of the
    multiplications, but XLA's strided convolutions have gradients that are many times slower on CPU.
    """
    n, h, w, c = x.shape
    x = smooth(x, 2)
    if native_fits(x, kernel):
        return forward(x, kernel, PADDING[STRIDED], flip=False, mode=STRIDED)
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    blocks = x.reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    features = kernel.shape[-1]
    kernel = kernel.reshape(2, 2, 2, 2, c, features).transpose(0, 2, 1, 3, 4, 5)
    flat = blocks.reshape(n, h // 2 + 1, w // 2 + 1, 4 * c)
    return convolve(flat, kernel.reshape(2, 2, 4 * c, features), "VALID")


def convolve_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles images: zeros between the pixels, a 3×3 convolution, then `smooth`, `[N, H, W, I] -> [N, 2H, 2W, O]`.

    The convolution gives 2H + 1 pixels a side, as in the authors' code, where nothing is cut between the two: mirrors
    and whole coarse pixels commute with it. Without native kernels written as a 2×2 convolution of the small image to
    the four phases of the large one, which never multiplies the zeros.
    """
    if native_fits(x, kernel):
        return 4 * smooth(forward(x, kernel, PADDING[SPREAD], flip=False, mode=SPREAD), 1)
    n, h, w, c = x.shape
    features = kernel.shape[-1]
    # Phase 0 of a line of 2H + 1 pixels is k₀xᵢ₋₁ + k₂xᵢ, phase 1 is k₁xᵢ; taps[phase, place in the window, k].
    taps = jnp.asarray([[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 1, 0]]], kernel.dtype)
    phases = jnp.einsum("pak,qbl,klio->abipqo", taps, taps, kernel).reshape(2, 2, c, 4 * features)
    y = convolve(x, phases, [(1, 1), (1, 1)]).reshape(n, h + 1, w + 1, 2, 2, features)
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h + 2, 2 * w + 2, features)
    return 4 * smooth(y[:, : 2 * h + 1, : 2 * w + 1], 1)


def fir_up(x: jax.Array, taps: Sequence[float]) -> jax.Array:
    """Puts zeros between the pixels, then filters by `taps` along both axes: `[N, H, W, C] -> [N, 2H, 2W, C]`.

    `taps` are divided by half their sum, so that a constant stays one; outside the image are zeros. Sums are float32.
    """
    return _up(_up(x.astype(jnp.float32), 1, taps), 2, taps).astype(x.dtype)


def fir_down(x: jax.Array, taps: Sequence[float]) -> jax.Array:
    """Filters by `taps` over their sum along both axes, then keeps every other pixel: `[N, 2H, 2W, C] -> [N, H, W, C]`.

    Sums are float32.
    """
    return _down(_down(x.astype(jnp.float32), 1, taps), 2, taps).astype(x.dtype)


def _up(x: jax.Array, axis: int, taps: Sequence[float]) -> jax.Array:
    """Filters like `upfirdn` with up = 2.

    Output m is Σₖ tapₖ z[m + k − before], z the line with zeros between its pixels.
    """
    size, before = x.shape[axis], (len(taps) + 1) // 2
    padded = jnp.pad(x, [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)])
    phases = []
    for phase in (0, 1):
        used = [(k, (phase + k - before) // 2) for k in range(len(taps)) if (phase + k - before) % 2 == 0]
        terms = [
            2 * taps[k] / sum(taps) * jax.lax.slice_in_dim(padded, 2 + shift, 2 + shift + size, axis=axis)
            for k, shift in used
        ]
        phases.append(sum(terms[1:], terms[0]))
    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return jnp.stack(phases, axis=axis + 1).reshape(shape)


def _down(x: jax.Array, axis: int, taps: Sequence[float]) -> jax.Array:
    """Filters like `upfirdn` with down = 2. Output m is Σₖ tapₖ x[2m + k − before]."""
    size, before = x.shape[axis] // 2, (len(taps) - 1) // 2
    padded = jnp.pad(x, [(before, len(taps)) if i == axis else (0, 0) for i in range(x.ndim)])
    terms = [
        tap / sum(taps) * jax.lax.slice_in_dim(padded, k, k + 2 * size - 1, stride=2, axis=axis)
        for k, tap in enumerate(taps)
    ]
    return sum(terms[1:], terms[0])
