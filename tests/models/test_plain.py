"""What bfloat16 leaves of gradients: those of small parameters are sums over many pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.models.layers.conditional import ConditionalBatchNorm, ModulatedBatchNorm, SelfAttention
from ganjax.models.layers.equalized import EqualConv, EqualDense
from ganjax.models.layers.layers import Conv, Dense
from ganjax.models.layers.plain import spread
from ganjax.models.r3gan import Activation
from ganjax.models.stylegan2 import ModulatedConv, StyledLayer, ToRGB

N, SIDE, CHANNELS = 16, 32, 16
R = np.random.default_rng(0)
VECTORS = jnp.asarray(R.normal(size=(N * SIDE * SIDE, CHANNELS)), jnp.float32)
IMAGES = VECTORS.reshape(N, SIDE, SIDE, CHANNELS)
STYLES = VECTORS[:N]
KEYS = jax.random.split(jax.random.key(0), N)
LAYERS = {
    "dense": (lambda dtype: Dense(8, dtype=dtype), (VECTORS,)),
    "conv": (lambda dtype: Conv(8, dtype=dtype), (IMAGES,)),
    "conv with spectral norm": (lambda dtype: Conv(8, spectral=1, dtype=dtype), (IMAGES,)),
    "equalised dense": (lambda dtype: EqualDense(8, dtype=dtype), (VECTORS,)),
    "equalised conv": (lambda dtype: EqualConv(8, down=True, dtype=dtype), (IMAGES,)),
    "modulated conv": (lambda dtype: ModulatedConv(8, up=True, dtype=dtype), (IMAGES, STYLES)),
    "styled layer": (lambda dtype: StyledLayer(8, False, dtype), (IMAGES, STYLES, KEYS)),
    "to RGB": (lambda dtype: ToRGB(3, dtype), (IMAGES, STYLES)),
    "activation": (Activation, (IMAGES,)),
    "attention": (lambda dtype: SelfAttention(dtype=dtype), (IMAGES,)),
    "conditional": (
        lambda dtype: ConditionalBatchNorm(4, train=True, dtype=dtype),
        (IMAGES, jnp.arange(N, dtype=jnp.int32) % 4),
    ),
    "modulated": (lambda dtype: ModulatedBatchNorm(train=True, dtype=dtype), (IMAGES, STYLES)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_gradient_of_a_bfloat16_layer_is_that_of_float32_but_for_rounding(name):
    make, inputs = LAYERS[name]
    wild = [x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs]
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        layer = make(dtype)
        own = [x.astype(dtype) if x.dtype == jnp.bfloat16 else x for x in wild]
        with jax.numpy_dtype_promotion("standard"):  # Flax's batch norm mixes the two
            variables = layer.init(jax.random.key(1), *own)
            others = {k: v for k, v in variables.items() if k != "params"}
            params = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), variables["params"])
            params = jax.tree.map(lambda p: p + 0.25 * (jnp.size(p) == 1), params)  # attention's γ, noise

            def total(params, layer=layer, others=others, own=own):
                y, _ = layer.apply({"params": params, **others}, *own, mutable=list(others))
                slope = np.random.default_rng(1).normal(size=y.shape)
                return jnp.sum(y.astype(jnp.float32) * jnp.asarray(slope, jnp.bfloat16).astype(jnp.float32))

            found[dtype] = jax.jit(jax.grad(total))(params)
    for (path, exact), rounded in zip(
        jax.tree_util.tree_leaves_with_path(found[jnp.float32]),
        jax.tree.leaves(found[jnp.bfloat16]),
        strict=True,
    ):
        error = float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))
        assert error < 0.08, (jax.tree_util.keystr(path), error)


def test_spread_is_broadcasting_and_in_float32_changes_nothing():
    values, over = VECTORS[:1], IMAGES
    np.testing.assert_array_equal(over + spread(values, over), over + values[:, None, None, :])
    half = spread(values, over.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and half.shape == over.shape
