"""Layers that labels and distant pixels reach, against NumPy, and labels through the whole program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import run_steps, small_config

from ganjax.models.layers.conditional import ConditionalBatchNorm, Projection, SelfAttention
from ganjax.runtime.errors import UserError

KEY = jax.random.key(0)


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


def test_weights_of_classes_mix_their_rows():
    layer, x = ConditionalBatchNorm(3, train=False), jnp.ones((2, 4, 4, 5))
    variables = layer.init(KEY, x, jnp.array([0, 1]))
    tables = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), variables["params"])
    call = lambda labels: layer.apply({**variables, "params": tables}, x, labels)
    np.testing.assert_array_equal(call(jnp.eye(3)[jnp.array([2, 0])]), call(jnp.array([2, 0])))
    halves = (call(jnp.array([2, 0])) + call(jnp.array([1, 1]))) / 2
    np.testing.assert_allclose(call(jnp.array([[0, 0.5, 0.5], [0.5, 0.5, 0]])), halves, rtol=1e-5)


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


def test_a_packed_group_has_no_one_label():
    with pytest.raises(UserError, match="D is told one label"):
        labelled(dis__packing=2)
