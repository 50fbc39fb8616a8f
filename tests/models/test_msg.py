"""G's images of several scales: running sums with tanh, or ProGAN's own ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from nets import awake, initialise, inputs_of, pair

from ganjax.models import MODELS, revisions
from ganjax.models.blocks import add_scale
from ganjax.models.layers.convolution import downsample, upsample
from ganjax.runtime.checkpoint import OtherArchitecture
from ganjax.runtime.errors import UserError

SUMMING = ("dcgan", "resnet", "biggan", "biggan_deep", "progan", "r3gan")


def made(name, **options):
    """(G, its variables, latents, labels) for 16 pixels with MSG."""
    config, gen, dis, sides = pair(name, 16, "simple", 3, gen__width=16, gen__max_width=16, **options)
    latents, images, labels = inputs_of(config, sides, classes=3)
    variables, _ = initialise(gen, dis, latents, images, labels)
    return gen, awake(variables), latents, labels


def heads(params):
    """Paths of the kernels that make RGB of 3 channels, and of their biases, from the coarsest scale to the finest."""
    flat = flatten_dict(params)
    kernels = [path for path, value in flat.items() if value.ndim == 4 and value.shape[-1] == 3]
    kernels.sort(key=lambda path: int(path[0].rpartition("_")[2]))
    return [[path, *({(*path[:-1], "bias")} & flat.keys())] for path in kernels]


def times(params, scales, factor):
    """`params` with the heads of some scales multiplied."""
    flat, chosen = flatten_dict(params), [path for i in scales for path in heads(params)[i]]
    return unflatten_dict({path: value * factor if path in chosen else value for path, value in flat.items()})


@pytest.mark.parametrize("name", SUMMING)
def test_a_scale_is_the_one_below_and_a_correction(name):
    """Without the corrections each scale is the coarsest, doubled; with them all stay within [-1, 1]."""
    gen, variables, latents, labels = made(name)
    images = jax.jit(lambda v: gen.apply(v, latents, labels, train=False))(variables)
    assert all(float(jnp.max(jnp.abs(image))) <= 1 for image in images)
    finer = range(1, len(images))
    flat = {**variables, "params": times(variables["params"], finer, 0.0)}
    first, *rest = jax.jit(lambda v: gen.apply(v, latents, labels, train=False))(flat)
    assert float(jnp.max(jnp.abs(first))) > 1e-3
    for image in rest:
        first = upsample(first)
        np.testing.assert_allclose(image, first, atol=1e-6)


def test_separate_images_are_linear_and_know_nothing_of_each_other():
    gen, variables, latents, labels = made("progan", model__msg_images="separate")
    apply = jax.jit(lambda v: gen.apply(v, latents, labels, train=False))
    params = variables["params"]
    assert [flatten_dict(params)[head[0]].shape[:2] for head in heads(params)] == [(1, 1)] * 3
    first, *rest = apply({**variables, "params": times(params, (1, 2), 0.0)})
    assert float(jnp.max(jnp.abs(first))) > 1e-3
    assert all(float(jnp.max(jnp.abs(image))) == 0 for image in rest)
    assert float(jnp.max(jnp.abs(apply({**variables, "params": times(params, (2,), 50.0)})[-1]))) > 1


def test_sums_agree_with_the_pooled_pyramid_of_reals():
    """What is added to a doubled image leaves its pooling as it was but for the pooled correction."""
    below = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    correction = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    pooled = downsample(downsample(add_scale(below, correction)))
    np.testing.assert_allclose(pooled, below + downsample(downsample(correction)), atol=1e-6)
    np.testing.assert_array_equal(add_scale(None, correction), correction)


def test_scales_of_the_residual_families_begin_after_the_first_block():
    for name in ("resnet", "biggan", "biggan_deep"):
        assert MODELS[name].sides(32) == (8, 16, 32)
        with pytest.raises(UserError, match=r"for 8 pixels has \(8,\).*model.msg=none"):
            pair(name, 8, "simple")


def test_a_refused_checkpoint_says_what_the_family_has_come_to_hold():
    with (
        pytest.raises(UserError, match=r"(?s)another architecture.*earlier ganjax.*adds up the images"),
        revisions.explained("dcgan"),
    ):
        raise OtherArchitecture("x is a checkpoint of another architecture")
    with pytest.raises(OtherArchitecture), revisions.explained("mlp"):
        raise OtherArchitecture("x is a checkpoint of another architecture")
