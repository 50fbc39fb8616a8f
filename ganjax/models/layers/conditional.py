"""Layers that take labels or distant pixels: class-conditional batch norm, projection, self-attention."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.layers.layers import DEFAULT_INIT, Conv, Dense, Dtype, Init
from ganjax.models.layers.plain import Embed, spread
from ganjax.models.layers.spectral_norm import SpectralNorm

EMBEDDING_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)  # as nn.Embed's


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and offset are rows of a table, by class (Dumoulin et al. 2017; Miyato & Koyama 2018).

    `[N, H, W, C] -> [N, H, W, C]`. Scales start at 1, offsets at 0; statistics as in `layers.Norm`.
    """

    classes: int
    train: bool
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """Normalises x [N, H, W, C] with the rows of `labels`, [N] int32 in [0, classes) or weights [N, K]."""
        features = x.shape[-1]
        axis_name = None if self.is_initializing() else self.axis_name
        x = _plain_batch_norm(x, self.train, axis_name, self.dtype)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = Embed(self.classes, features, embedding_init=ones, dtype=self.dtype, name="scale")(labels)
        bias = Embed(self.classes, features, embedding_init=zeros, dtype=self.dtype, name="bias")(labels)
        return x * spread(scale[:, None, None, :], x) + spread(bias[:, None, None, :], x)


class Projection(nn.Module):
    """Product ⟨embedding of the class, features⟩ that a class adds to D's logit (Miyato & Koyama 2018, equation 3)."""

    classes: int
    spectral: int = 0
    embedding_init: Init = EMBEDDING_INIT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the products [N] of features [N, C] and labels [N] int32."""
        layer = nn.Embed(
            self.classes, features.shape[-1], embedding_init=self.embedding_init, dtype=self.dtype
        )
        rows = SpectralNorm(layer, iterations=self.spectral)(labels) if self.spectral else layer(labels)
        return jnp.sum(rows * features, axis=-1)


class SelfAttention(nn.Module):
    """Self-attention x + γ·o(softmax(θ(x)·φ(x)ᵀ)·g(x)), with γ = 0 at first (Zhang et al. 2019, equations 1 to 3).

    `[N, H, W, C] -> [N, H, W, C]`. As in the authors' code θ and φ have C/8 channels, g has C/2, φ and g are max
    pooled 2×2, and no convolution has a bias.
    """

    spectral: int = 0
    kernel_init: Init = DEFAULT_INIT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies self-attention to x [N, H, W, C]; H and W are even, C is a multiple of 8."""
        n, h, w, c = x.shape

        def conv(features: int, name: str) -> Conv:
            return Conv(
                features,
                1,
                self.spectral,
                use_bias=False,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )

        def pooled(y: jax.Array) -> jax.Array:
            return nn.max_pool(y, (2, 2), (2, 2)).reshape(n, h * w // 4, y.shape[-1])

        inner, half = max(1, c // 8), max(1, c // 2)  # of few channels, at least one
        theta = conv(inner, "theta")(x).reshape(n, h * w, inner)
        phi = pooled(conv(inner, "phi")(x))
        g = pooled(conv(half, "g")(x))
        scores = jnp.einsum("nqc,nkc->nqk", theta, phi).astype(jnp.float32)
        weights = nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("nqk,nkc->nqc", weights, g).reshape(n, h, w, half)
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32)
        return x + spread(gamma, x) * conv(c, "o")(mixed)


class ModulatedBatchNorm(nn.Module):
    """Batch norm whose scale, 1 + Wc, and offset, Vc, are linear in a vector c (Brock et al. 2019, appendix B).

    `[N, H, W, C], [N, K] -> [N, H, W, C]`.
    """

    train: bool
    spectral: int = 0
    kernel_init: Init = DEFAULT_INIT
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Normalises x [N, H, W, C] with scale and offset from `condition` [N, K]."""
        features = x.shape[-1]
        axis_name = None if self.is_initializing() else self.axis_name
        x = _plain_batch_norm(x, self.train, axis_name, self.dtype)
        dense = lambda name: Dense(
            features, self.spectral, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name=name
        )
        scale, bias = dense("scale")(condition), dense("bias")(condition)
        return x * spread(1 + scale[:, None, None, :], x) + spread(bias[:, None, None, :], x)


def _plain_batch_norm(x: jax.Array, train: bool, axis_name: str | None, dtype: Dtype) -> jax.Array:
    """Applies batch norm without a scale and an offset. Call it inside a compact module."""
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        axis_name=axis_name,
        use_scale=False,
        use_bias=False,
        dtype=dtype,
    )
    return norm(x)
