"""The residual networks, their conditional layers against NumPy, and labels through the whole program."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import run_steps, small_config

from ganjax.compat import UserError
from ganjax.data.images import pyramid
from ganjax.models.resnet import GEN_TABLE, ResNetDiscriminator, ResNetGenerator, sides
from ganjax.nn.conditional import ConditionalBatchNorm, Projection, SelfAttention

PHI = ("none", "simple", "lin_cat", "cat_lin")
KEY = jax.random.key(0)


def count(variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def shapes(resolution, msg="none", classes=0, latent=128, gen_args=None, dis_args=None):
    """G's images, D's logits and the variables of both, as shapes."""
    gen = ResNetGenerator(resolution, 3, msg=msg != "none", classes=classes, **(gen_args or {}))
    dis = ResNetDiscriminator(resolution, msg=msg, classes=classes, **(dis_args or {}))
    latents, labels = jax.ShapeDtypeStruct((4, latent), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images, gen_vars = jax.eval_shape(
        lambda k, z, y: gen.init_with_output(k, z, y, train=True), key, latents, labels
    )
    logits, dis_vars = jax.eval_shape(
        lambda k, x, y: dis.init_with_output(k, x, y, train=True), key, images, labels
    )
    return images, logits, gen_vars, dis_vars


def test_parameters_of_sngan_32_are_the_published_ones():
    """G: 4,276,739, as torch-mimicry (kwotsin/mimicry, sngan_32) has it; D by Miyato et al. 2018, table 4."""
    _, _, gen, dis = shapes(32)
    assert count(gen) == 4_276_739
    conv = lambda i, o, k: i * o * k * k + o
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    halving = 2 * conv(128, 128, 3) + conv(128, 128, 1)
    assert count(dis) == first + halving + 2 * 2 * conv(128, 128, 3) + 128 + 1 == 1_053_825


def test_labels_and_attention_add_the_parameters_they_should():
    base = [count(v) for v in shapes(32)[2:]]
    labelled = [count(v) for v in shapes(32, classes=10)[2:]]
    # Six norms of 256 channels get a scale and an offset for ten classes instead of one; D gets a row a class.
    assert labelled[0] - base[0] == 6 * 2 * 256 * 9
    assert labelled[1] - base[1] == 10 * 128
    looking = [count(v) for v in shapes(32, gen_args={"attention": 16}, dis_args={"attention": 16})[2:]]
    for extra, c in zip(np.subtract(looking, base), (256, 128), strict=True):
        assert extra == 2 * c * (c // 8) + 2 * c * (c // 2) + 1


@pytest.mark.parametrize(
    ("resolution", "msg", "classes"), list(itertools.product(GEN_TABLE, ("none", "simple"), (0, 5)))
)
def test_shapes_of_every_scale(resolution, msg, classes):
    small = {"width": 4, "attention": resolution // 2}
    small["width"] = 8
    images, logits, _, _ = shapes(resolution, msg, classes, 8, small, {**small, "minibatch_stddev": True})
    expected = sides(resolution) if msg != "none" else (resolution,)
    assert [image.shape for image in images] == [(4, side, side, 3) for side in expected]
    assert (logits.shape, logits.dtype) == ((4,), jnp.float32)


@pytest.mark.parametrize(("msg", "classes"), [(m, 3 if m in ("none", "cat_lin") else 0) for m in PHI])
@pytest.mark.parametrize("resolution", [8, 32])
def test_gradient_reaches_every_parameter_and_scale(resolution, msg, classes):
    options = {"width": 8, "attention": resolution // 2, "classes": classes}
    gen = ResNetGenerator(resolution, 1, msg=msg != "none", spectral=1, **options)
    dis = ResNetDiscriminator(resolution, msg=msg, **options)
    latents, labels = jax.random.normal(KEY, (6, 5)), jnp.arange(6) % 3
    scales = len(sides(resolution)) if msg != "none" else 1
    offsets = pyramid(jnp.zeros((6, resolution, resolution, 1)), scales)
    gen_vars = jax.jit(lambda: gen.init(KEY, latents, labels, train=True))()
    dis_vars = jax.jit(lambda: dis.init(KEY, offsets, labels, train=True))()
    dis_vars.pop("intermediates", None)
    # Attention starts switched off (γ = 0), which would hide everything inside it.
    on = lambda path, x: x + 0.5 if "gamma" in jax.tree_util.keystr(path) else x
    gen_params, dis_params = (jax.tree_util.tree_map_with_path(on, v["params"]) for v in (gen_vars, dis_vars))

    def loss(gen_params, dis_params, offsets):
        variables = {**gen_vars, "params": gen_params}
        images, _ = gen.apply(variables, latents, labels, train=True, mutable=["batch_stats"])
        images = tuple(x + o for x, o in zip(images, offsets, strict=True))
        logits = dis.apply({**dis_vars, "params": dis_params}, images, labels, train=True)
        return jnp.sum(logits * jnp.arange(1.0, 7.0))

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(gen_params, dis_params, offsets)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.max(jnp.abs(leaf))) > 0, jax.tree_util.keystr(path)


def test_conditional_batch_norm_against_numpy():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(2, 3, (6, 4, 4, 5)).astype(np.float32), np.array([0, 2, 1, 2, 0, 0])
    layer = ConditionalBatchNorm(3, train=True)
    variables = layer.init(KEY, x, labels)
    scale, bias = (rng.normal(size=(3, 5)).astype(np.float32) for _ in range(2))
    params = {"scale": {"embedding": scale}, "bias": {"embedding": bias}}
    out, _ = layer.apply({**variables, "params": params}, x, labels, mutable=["batch_stats"])
    normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    expected = normal * scale[labels][:, None, None] + bias[labels][:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_projection_against_numpy():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 6)).astype(np.float32), np.array([1, 0, 2, 1])
    plain, normal = Projection(3), Projection(3, spectral=1)
    variables = plain.init(KEY, x, labels)
    (table,) = map(np.asarray, jax.tree.leaves(variables["params"]))
    expected = np.einsum("nc,nc->n", table[labels], x)
    np.testing.assert_allclose(plain.apply(variables, x, labels), expected, rtol=1e-5, atol=1e-6)
    variables = normal.init(KEY, x, labels)
    (table,) = map(np.asarray, jax.tree.leaves(variables["params"]))
    expected = np.einsum("nc,nc->n", table[labels], x) / np.linalg.svd(table)[1][0]
    np.testing.assert_allclose(normal.apply(variables, x, labels), expected, rtol=1e-4, atol=1e-5)


def test_self_attention_against_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 16)).astype(np.float32)
    layer = SelfAttention()
    params = layer.init(KEY, x)["params"]
    np.testing.assert_array_equal(layer.apply({"params": params}, x), x)  # γ = 0
    out = layer.apply({"params": {**params, "gamma": jnp.float32(0.7)}}, x)
    kernel = lambda name: np.asarray(params[name]["Conv_0"]["kernel"])[0, 0]
    pooled = lambda y: y.reshape(2, 2, 2, 2, 2, -1).max(axis=(2, 4)).reshape(2, 4, -1)
    theta = (x @ kernel("theta")).reshape(2, 16, 2)
    scores = theta @ pooled(x @ kernel("phi")).transpose(0, 2, 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = (weights @ pooled(x @ kernel("g"))).reshape(2, 4, 4, 8)
    np.testing.assert_allclose(out, x + 0.7 * mixed @ kernel("o"), rtol=1e-5, atol=1e-5)


def labelled(**options):
    return small_config(model__name="resnet", model__conditional=True, **options)


def test_labels_reach_both_networks_in_the_step():
    config = labelled(model__attention=4, model__msg="none", penalty__name="r1")
    made, state, rows = run_steps(config, steps=3)
    assert made.classes == 10
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    first = jax.device_get(made.init())
    before, after = (
        jax.tree_util.tree_leaves_with_path((s.gen.params, s.dis.params)) for s in (first, state)
    )
    tables = 0
    for (path, old), (_, new) in zip(before, after, strict=True):
        if "embedding" in jax.tree_util.keystr(path):
            tables += 1
            assert (np.abs(new - old).max(axis=1) > 0).all(), jax.tree_util.keystr(path)
    assert tables == 2 * 2 + 1


@pytest.mark.parametrize(
    "options",
    [
        {"model__name": "dcgan", "model__conditional": True},
        {"model__name": "dcgan", "model__attention": 8},
        {"model__name": "resnet", "model__conditional": True, "dis__packing": 2},
    ],
)
def test_labels_and_attention_are_refused_where_they_cannot_be(options):
    with pytest.raises(UserError, match="labels"):
        small_config(**options)
