"""Every network family keeps the contract: shapes, tuple of scales, gradients everywhere, precision."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.data.images import pyramid
from ganjax.models.dcgan import DCGANDiscriminator, DCGANGenerator, channels, levels
from ganjax.models.mlp import MLPDiscriminator, MLPGenerator
from ganjax.nn.layers import MinibatchDiscrimination, minibatch_stddev, pixel_norm

PHI = ("none", "simple", "lin_cat", "cat_lin")


def dcgan(resolution, msg="simple", width=4, **options):
    gen_options = {k: v for k, v in options.items() if k in ("depth", "dtype", "norm")}
    gen = DCGANGenerator(resolution, 3, width=width, max_width=16, msg=msg != "none", **gen_options)
    options.pop("norm", None)
    dis = DCGANDiscriminator(resolution, width=width, max_width=16, msg=msg, **options)
    return gen, dis


def initialise(gen, dis, scales, resolution, batch=4):
    latents = jax.random.normal(jax.random.key(0), (batch, 8))
    images = pyramid(jnp.zeros((batch, resolution, resolution, 3)), scales)
    return (
        latents,
        gen.init(jax.random.key(1), latents, train=True),
        dis.init(jax.random.key(2), images, train=True),
    )


def test_levels_and_channels():
    assert levels(8) == (4, 8)
    assert levels(128) == (4, 8, 16, 32, 64, 128)
    assert [channels(32, size, 64, 512) for size in levels(32)] == [512, 256, 128, 64]
    assert channels(128, 4, 64, 512) == 512


@pytest.mark.parametrize(("resolution", "msg"), list(itertools.product((8, 16, 32, 64, 128), PHI)))
def test_shapes_of_every_scale(resolution, msg):
    scales = len(levels(resolution)) if msg != "none" else 1
    gen, dis = dcgan(resolution, msg, minibatch_stddev=True)
    latents = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images, _ = jax.eval_shape(lambda k, z: gen.init_with_output(k, z, train=True), key, latents)
    sides = levels(resolution)[-scales:]
    assert [image.shape for image in images] == [(4, side, side, 3) for side in sides]
    logits, _ = jax.eval_shape(lambda k, x: dis.init_with_output(k, x, train=True), key, images)
    assert (logits.shape, logits.dtype) == ((4,), jnp.float32)


@pytest.mark.parametrize("msg", PHI)
@pytest.mark.parametrize("norm", ["batch", "group", "pixel", "none"])
def test_gradient_reaches_every_parameter_and_scale(msg, norm):
    scales = 2 if msg != "none" else 1
    gen, dis = dcgan(8, msg, norm=norm, minibatch_stddev=True, depth=2)
    latents, gen_vars, dis_vars = initialise(gen, dis, scales, 8)
    stats = {k: v for k, v in gen_vars.items() if k != "params"}

    def loss(gen_params, dis_params, offsets):
        images, _ = gen.apply({"params": gen_params, **stats}, latents, train=True, mutable=list(stats))
        images = tuple(x + o for x, o in zip(images, offsets, strict=True))
        return jnp.sum(dis.apply({**dis_vars, "params": dis_params}, images, train=True))

    offsets = pyramid(jnp.zeros((4, 8, 8, 3)), scales)
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(gen_vars["params"], dis_vars["params"], offsets)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        # A bias before a normalisation over the batch is cancelled by it, by construction.
        if norm == "batch" and "bias" in jax.tree_util.keystr(path):
            continue
        assert float(jnp.max(jnp.abs(leaf))) > 0, jax.tree_util.keystr(path)


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters():
    results = []
    for dtype in (jnp.float32, jnp.bfloat16):
        gen, dis = dcgan(16, "simple", dtype=dtype, norm="pixel")
        latents, gen_vars, dis_vars = initialise(gen, dis, 3, 16)
        assert {leaf.dtype for leaf in jax.tree.leaves((gen_vars, dis_vars))} == {jnp.dtype("float32")}
        images = gen.apply(gen_vars, latents, train=False)
        assert all(image.dtype == jnp.float32 for image in images)
        results.append((images[-1], dis.apply(dis_vars, images, train=False)))
    for exact, rounded in zip(*results, strict=True):
        scale = float(jnp.max(jnp.abs(exact)))
        np.testing.assert_allclose(rounded, exact, atol=0.05 * scale)


def test_mlp_contract_and_gradients():
    gen, dis = MLPGenerator(8, 2), MLPDiscriminator(8, 2, minibatch_discrimination=3, spectral=1)
    latents = jax.random.normal(jax.random.key(0), (6, 4))
    gen_vars = gen.init(jax.random.key(1), latents, train=True)
    (points,) = gen.apply(gen_vars, latents, train=True)
    dis_vars = dis.init(jax.random.key(2), (points,), train=True)
    assert points.shape == (6, 2)
    assert dis.apply(dis_vars, (points,), train=True).shape == (6,)
    grads = jax.grad(lambda p: jnp.sum(dis.apply({**dis_vars, "params": p}, (points,), train=True)))(
        dis_vars["params"]
    )
    assert all(float(jnp.max(jnp.abs(g))) > 0 for g in jax.tree.leaves(grads))


def test_minibatch_stddev_against_numpy_and_over_split_batches():
    x = np.random.default_rng(0).normal(size=(8, 3, 3, 5)).astype(np.float32)
    out = np.asarray(minibatch_stddev(jnp.asarray(x)))
    np.testing.assert_array_equal(out[..., :5], x)
    for start in (0, 4):
        deviation = np.sqrt(x[start : start + 4].var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(out[start : start + 4, ..., 5], deviation, rtol=1e-5)
    halves = [np.asarray(minibatch_stddev(jnp.asarray(x[i : i + 4]))) for i in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(halves), out)


def test_minibatch_discrimination_against_numpy():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    layer = MinibatchDiscrimination(kernels=3, dims=2, group_size=4)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    m = (x @ np.asarray(variables["params"]["kernel"])).reshape(4, 3, 2)
    expected = np.zeros((4, 3))
    for i, j in itertools.permutations(range(4), 2):
        expected[i] += np.exp(-np.abs(m[i] - m[j]).sum(axis=-1))
    out = np.asarray(layer.apply(variables, jnp.asarray(x)))
    np.testing.assert_allclose(out[:, 6:], expected, rtol=1e-4)


def test_pixel_norm_has_unit_mean_square():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 7)) * 5
    np.testing.assert_allclose(jnp.mean(jnp.square(pixel_norm(x)), axis=-1), np.ones((2, 3, 3)), rtol=1e-5)
