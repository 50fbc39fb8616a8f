"""Layers that the networks share: with or without spectral norm, norms, resampling, minibatch statistics.

Feature maps are NHWC. Layers compute in `dtype` and keep their parameters in float32.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.layers import plain
from ganjax.models.layers.convolution import PLAIN
from ganjax.models.layers.plain import DEFAULT_INIT, Dtype, Init
from ganjax.models.layers.spectral_norm import SpectralNorm

STDDEV_GROUP, DISCRIMINATION_GROUP = 4, 16  # neighbours in the batch that are compared


class Dense(nn.Module):
    """Dense layer, `[N, I] -> [N, features]`, spectrally normalised where `spectral` (the number of iterations) > 0."""

    features: int
    spectral: int = 0
    use_bias: bool = True
    kernel_init: Init = DEFAULT_INIT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N, I] to [N, features]."""
        layer = plain.Dense(self.features, self.use_bias, self.kernel_init, dtype=self.dtype)
        return SpectralNorm(layer, iterations=self.spectral)(x) if self.spectral else layer(x)


class Conv(nn.Module):
    """Square convolution with stride 1, `[N, H, W, I] -> [N, H, W, features]`; `spectral` is as in Dense.

    `resample` (of `ganjax.models.layers.convolution`): UP doubles the image first, DOWN halves it afterwards.
    """

    features: int
    size: int = 3
    spectral: int = 0
    use_bias: bool = True
    groups: int = 1
    resample: str = PLAIN
    kernel_init: Init = DEFAULT_INIT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I]."""
        layer: nn.Module
        if self.groups > 1:
            assert not self.use_bias
            assert self.resample == PLAIN
            layer = GroupedConv(self.features, self.size, self.groups, self.kernel_init, self.dtype)
        else:
            layer = plain.Conv(
                self.features, self.size, self.use_bias, self.resample, self.kernel_init, self.dtype
            )
        return SpectralNorm(layer, iterations=self.spectral)(x) if self.spectral else layer(x)


class GroupedConv(nn.Module):
    """Square convolution of stride 1 and the same size, without a bias, whose channels are in `groups` of their own."""

    features: int
    size: int
    groups: int
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I]."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        # XLA's grouped convolutions and their gradients are many times slower on CPU than matrix products.
        return jax.lax.platform_dependent(
            x.astype(self.dtype),
            kernel,
            cpu=lambda x, kernel: _grouped_products(x, kernel, self.groups),
            default=lambda x, kernel: _grouped_convolution(x, kernel, self.groups),
        )


def _grouped_convolution(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _grouped_products(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """Computes the same convolution as a matrix product for each group, over the neighbours of each pixel."""
    n, h, w, c = x.shape
    size, features = kernel.shape[0], kernel.shape[-1]
    before = (size - 1) // 2
    padded = jnp.pad(x, ((0, 0), (before, size - 1 - before), (before, size - 1 - before), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    patches = jnp.stack(shifts, axis=3).reshape(n, h, w, size * size, groups, c // groups)
    kernel = kernel.reshape(size * size, c // groups, groups, features // groups)
    return jnp.einsum("nhwkgi,kigo->nhwgo", patches, kernel).reshape(n, h, w, features)


class Norm(nn.Module):
    """Normalisation `kind`: none, batch, group (32 channels or fewer a group) or pixel.

    Batch statistics are those of the global batch where `axis_name` is bound, and the running averages
    (collection `batch_stats`, decay 0.9) when not training.
    """

    kind: str
    train: bool
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [N, ..., C]."""
        if self.kind == "batch":
            axis_name = None if self.is_initializing() else self.axis_name
            return nn.BatchNorm(
                use_running_average=not self.train, momentum=0.9, axis_name=axis_name, dtype=self.dtype
            )(x)
        if self.kind == "group":
            channels = x.shape[-1]
            groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
            return nn.GroupNorm(num_groups=groups, dtype=self.dtype)(x)
        if self.kind == "pixel":
            return pixel_norm(x)
        return x


def pixel_norm(x: jax.Array, eps: float = 1e-8) -> jax.Array:
    """Scales each position's feature vector to unit mean square (Karras et al. 2018, section 4.2)."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x.astype(jnp.float32) * jax.lax.rsqrt(square + eps)).astype(x.dtype)


def minibatch_stddev(x: jax.Array, group_size: int = STDDEV_GROUP) -> jax.Array:
    """Appends one channel: the standard deviation over a group, averaged over everything (Karras et al. 2018).

    Groups are made of neighbours in the batch, so that they do not depend on how it is spread over devices.

    Args:
      x: the features [N, H, W, C]; N is a multiple of `group_size`, or the whole batch is one group.
      group_size: the number of images a group.

    Returns:
      [N, H, W, C + 1].
    """
    n, h, w, c = x.shape
    size = group_size if n % group_size == 0 else n
    groups = x.astype(jnp.float32).reshape(n // size, size, h * w * c)
    deviation = jnp.sqrt(jnp.var(groups, axis=1) + 1e-8)
    statistic = jnp.repeat(jnp.mean(deviation, axis=1), size).reshape(n, 1, 1, 1)
    return jnp.concatenate([x, jnp.broadcast_to(statistic, (n, h, w, 1)).astype(x.dtype)], axis=-1)


class MinibatchDiscrimination(nn.Module):
    """Closeness of each sample to its group in a learned projection (Salimans et al. 2016, section 3.2).

    `[N, I] -> [N, I + kernels]`: for each kernel Σⱼ exp(−‖Mᵢ − Mⱼ‖₁) over the other samples of the group.
    Groups are neighbours in the batch, as in `minibatch_stddev`; the paper's group is the whole batch.
    """

    kernels: int
    dims: int = 5
    group_size: int = DISCRIMINATION_GROUP

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N, I] to [N, I + kernels]."""
        n, features = x.shape
        size = next(g for g in range(min(self.group_size, n), 0, -1) if n % g == 0)
        init = nn.initializers.normal(0.05)
        kernel = self.param("kernel", init, (features, self.kernels * self.dims), jnp.float32)
        m = (x.astype(jnp.float32) @ kernel).reshape(n // size, size, self.kernels, self.dims)
        distance = jnp.sum(jnp.abs(m[:, :, None] - m[:, None, :]), axis=-1)
        closeness = jnp.sum(jnp.exp(-distance), axis=2) - 1.0  # without the sample itself
        return jnp.concatenate([x, closeness.reshape(n, self.kernels).astype(x.dtype)], axis=-1)
