"""Layers that the others wrap: a matrix product, a convolution, and values spread over images.

Their parameters have the names and the shapes of Flax's `Dense` and `Conv`, in float32; they compute in `dtype`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.layers.convolution import PLAIN, convolve

Dtype = Any
Init = Any
DEFAULT_INIT = nn.initializers.lecun_normal()
ZEROS = nn.initializers.zeros


def spread(values: jax.Array, over: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Returns `values` at each place of `over`, in its type, with a gradient that is added up in float32.

    The gradient of what is broadcast is a sum over all the places. XLA adds bfloat16 up in bfloat16 (on CPU; a sum of
    65,536 slopes is then little more than noise) unless the values are still float32 when they are broadcast.

    Args:
      values: an array whose shape broadcasts to that of `over`.
      over: any array; only its shape and type count.

    Returns:
      An array like `over`.
    """
    return jnp.broadcast_to(values.astype(jnp.float32), over.shape).astype(over.dtype)


class Embed(nn.Embed):
    """Flax's `Embed`, whose K rows can be mixed: `[N] int32 -> [N, features]`, or from weights `[N, K] float32`."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the rows of labels, or their mixtures by weights."""
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            return inputs.astype(self.dtype) @ self.embedding.astype(self.dtype)
        return super().__call__(inputs)


class Dense(nn.Module):
    """Dense layer x W + b, `[N, I] -> [N, features]`."""

    features: int
    use_bias: bool = True
    kernel_init: Init = DEFAULT_INIT
    bias_init: Init = ZEROS
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N, I] to [N, features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32) if self.use_bias else None
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y if bias is None else y + spread(bias, y)


class Conv(nn.Module):
    """Square convolution with stride 1, `[N, H, W, I] -> [N, H, W, features]`; `resample` is as in `convolve`."""

    features: int
    size: int = 3
    use_bias: bool = True
    resample: str = PLAIN
    kernel_init: Init = DEFAULT_INIT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", ZEROS, (self.features,), jnp.float32) if self.use_bias else None
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), resample=self.resample)
        return y if bias is None else y + spread(bias, y)
