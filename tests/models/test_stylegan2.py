"""StyleGAN2's layers against kernels a sample, SciPy and finite differences; its styles, and its place in the step."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal
from small import run_steps, small_config

from ganjax.losses.penalties import orthogonality, path_lengths
from ganjax.models.layers.equalized import (
    SMOOTH,
    EqualConv,
    EqualDense,
    convolve_down,
    convolve_up,
    fir_down,
    fir_up,
)
from ganjax.models.layers.layers import GroupedConv, _grouped_convolution, _grouped_products
from ganjax.models.stylegan2 import ModulatedConv, StyleGAN2Generator
from ganjax.runtime.keys import Stream, stream_keys
from ganjax.training.build import gen_objective

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def spread(x):
    """Zeros between the pixels."""
    n, h, w, c = x.shape
    out = np.zeros((n, 2 * h, 2 * w, c), x.dtype)
    out[:, ::2, ::2] = x
    return out


def convolved(x, kernel, around=1):
    """3×3 correlation with `around` zeros around, by SciPy."""
    x = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    out = np.zeros((len(x), x.shape[1] - 2, x.shape[2] - 2, kernel.shape[-1]))
    for n, i, o in np.ndindex(x.shape[0], kernel.shape[2], kernel.shape[3]):
        out[n, :, :, o] += signal.correlate2d(x[n, :, :, i], kernel[:, :, i, o], mode="valid")
    return out


def doubled(x, kernel):
    """What StyleGAN2 does on its way up: 2H + 1 samples, then the filter, which leaves 2H."""
    return filtered(convolved(spread(x)[:, :-1, :-1], kernel, 2), SMOOTH, 1, 1, 4)


def filtered(x, taps, before, after, gain):
    """The two-dimensional filter of `taps` with zeros around: what upfirdn does between its up and down."""
    f = np.outer(taps, taps) / np.sum(taps) ** 2 * gain
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    out = [
        [signal.correlate2d(padded[n, :, :, c], f, mode="valid") for c in range(x.shape[3])]
        for n in range(len(x))
    ]
    return np.moveaxis(np.array(out), 1, -1)


@pytest.mark.parametrize("taps", [SMOOTH, (1.0, 2.0, 1.0)])
def test_resampling_against_scipy(taps):
    x = RNG.normal(size=(2, 6, 4, 3)).astype(np.float32)
    size = len(taps)
    up = filtered(spread(x), taps, (size + 1) // 2, (size - 2) // 2, 4)
    np.testing.assert_allclose(fir_up(x, taps), up, rtol=1e-5, atol=1e-5)
    down = filtered(x, taps, (size - 1) // 2, (size - 2) // 2, 1)[:, ::2, ::2]
    np.testing.assert_allclose(fir_down(x, taps), down, rtol=1e-5, atol=1e-5)
    flat = np.ones((1, 8, 8, 1), np.float32)
    np.testing.assert_allclose(np.asarray(fir_up(flat, taps))[0, 3:-3, 3:-3], 1, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(fir_down(flat, taps))[0, 1:-1, 1:-1], 1, rtol=1e-6)


def test_convolutions_that_double_and_halve_against_scipy():
    x, kernel = (
        RNG.normal(size=(2, 6, 4, 3)).astype(np.float32),
        RNG.normal(size=(3, 3, 3, 5)).astype(np.float32),
    )
    up = doubled(x, kernel)
    np.testing.assert_allclose(convolve_up(jnp.asarray(x), jnp.asarray(kernel)), up, rtol=1e-4, atol=1e-4)
    down = convolved(filtered(x, SMOOTH, 2, 2, 1), kernel, 0)[:, ::2, ::2]
    np.testing.assert_allclose(convolve_down(jnp.asarray(x), jnp.asarray(kernel)), down, rtol=1e-4, atol=1e-4)
    line = lambda y: np.asarray(y)[0, :, y.shape[2] // 2, 0]
    ones = lambda side: jnp.ones((1, side, side, 1))
    # the official code's, along the middle
    np.testing.assert_allclose(
        line(convolve_up(ones(4), ones(3)[0, :, :, :, None])), [6, 8.25, 9, 9, 9, 9, 8.25, 6]
    )
    np.testing.assert_allclose(line(convolve_down(ones(8), ones(3)[0, :, :, :, None])), [7.125, 9, 9, 7.125])


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_a_kernel_for_each_sample(up, demodulate):
    """Karras et al. 2020, equations 1 to 3, in NumPy and SciPy."""
    x, w = RNG.normal(size=(3, 6, 6, 4)).astype(np.float32), RNG.normal(size=(3, 7)).astype(np.float32)
    layer = ModulatedConv(5, up=up, demodulate=demodulate)
    variables = layer.init(KEY, x, w)
    params = jax.tree.map(np.asarray, variables["params"])
    dense = params["EqualDense_0"]
    styles = w @ dense["kernel"] / 7**0.5 + dense["bias"]
    kernels = params["kernel"][None] / (9 * 4) ** 0.5 * styles[:, None, None, :, None]
    if demodulate:
        kernels = kernels / np.sqrt(np.square(kernels).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
    expected = [
        doubled(one, kernel) if up else convolved(one, kernel)
        for one, kernel in zip(x[:, None], kernels, strict=True)
    ]
    np.testing.assert_allclose(layer.apply(variables, x, w), np.concatenate(expected), rtol=1e-5, atol=1e-5)


def test_equalised_layers_scale_at_run_time():
    x = RNG.normal(size=(2, 9)).astype(np.float32)
    dense = EqualDense(4, gain=2.0, rate=0.1, bias=1.5)
    params = dense.init(KEY, x)["params"]
    assert 7 < float(jnp.std(params["kernel"])) < 13 and float(params["bias"][0]) == pytest.approx(15)
    expected = x @ np.asarray(params["kernel"]) * (2.0 * 0.1 / 3) + 1.5
    np.testing.assert_allclose(dense.apply({"params": params}, x), expected, rtol=1e-5)
    # What the spectral norm leaves has a largest singular value of one, whatever the scale would have been.
    normal = EqualConv(4, 1, spectral=1, gain=3.0)
    image = RNG.normal(size=(2, 3, 3, 9)).astype(np.float32)
    variables = normal.init(KEY, image)
    (kernel,) = (leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4)
    kernel = np.asarray(kernel)[0, 0]
    expected = image @ (kernel / np.linalg.svd(kernel)[1][0])
    np.testing.assert_allclose(normal.apply(variables, image), expected, rtol=1e-3, atol=1e-4)


def test_grouped_convolution_is_the_same_as_products():
    x, kernel = (
        RNG.normal(size=(2, 5, 5, 12)).astype(np.float32),
        RNG.normal(size=(3, 3, 4, 6)).astype(np.float32),
    )
    ours, theirs = _grouped_products(x, kernel, 3), _grouped_convolution(x, kernel, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    layer = GroupedConv(6, 3, 3, jax.nn.initializers.normal(), jnp.float32)
    params = layer.init(KEY, x)["params"]
    assert params["kernel"].shape == (3, 3, 4, 6)
    once, twice = (
        jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply({"params": p}, x))))(params)["kernel"] for _ in "ab"
    )
    np.testing.assert_array_equal(once, twice)


def small_gen(**options):
    sizes = {"width": 4, "max_width": 8, "style_dim": 6, "mapping_layers": 2}
    return StyleGAN2Generator(8, 1, (8,), **{**sizes, **options})


def woken(gen, latents):
    """G's variables with noise that can be seen, and a mean style."""
    variables = jax.jit(lambda: gen.init(KEY, latents, train=True))()
    lift = lambda path, x: x + 0.5 if "noise" in jax.tree_util.keystr(path) else x
    params = jax.tree_util.tree_map_with_path(lift, variables["params"])
    return {"params": params, "batch_stats": {"mean_style": jnp.full(6, 0.3)}}


def test_a_sample_is_a_function_of_its_latents_alone():
    gen, latents = small_gen(), jax.random.normal(KEY, (6, 5))
    variables = woken(gen, latents)
    (whole,) = gen.apply(variables, latents, train=True)
    (part,) = gen.apply(variables, latents[2:4], train=True)
    np.testing.assert_allclose(part, whole[2:4], atol=1e-5)
    again = latents.at[:, 2].add(
        1e-3
    )  # the key is made of the first two coordinates: the same noise and mixing
    (near,) = gen.apply(variables, again, train=True)
    assert 0 < float(jnp.max(jnp.abs(near - whole))) < 0.1
    (other,) = gen.apply(variables, latents.at[:, 0].add(1e-3), train=True)
    assert float(jnp.max(jnp.abs(other - whole))) > 0.1


def test_truncation_goes_to_the_mean_style():
    gen, latents = small_gen(style_mixing=0.0), jax.random.normal(KEY, (4, 5))
    variables = woken(gen, latents)
    quiet = lambda path, x: x * 0 if "noise" in jax.tree_util.keystr(path) else x
    variables["params"] = jax.tree_util.tree_map_with_path(quiet, variables["params"])
    (mean,) = gen.apply(variables, latents, train=False, truncation=0.0)
    np.testing.assert_allclose(mean - mean[:1], np.zeros_like(mean), atol=1e-6)
    spreads = [
        float(jnp.std(gen.apply(variables, latents, train=False, truncation=psi)[0], axis=0).mean())
        for psi in (0.3, 0.7, 1.0)
    ]
    assert 0 < spreads[0] < spreads[1] < spreads[2]


def test_the_mean_style_follows_the_styles_in_training():
    gen, latents = small_gen(style_mixing=0.0), jax.random.normal(KEY, (64, 5))
    variables = woken(gen, latents)
    _, moved = gen.apply(variables, latents, train=True, mutable=["batch_stats"])
    _, kept = gen.apply(variables, latents, train=False, mutable=["batch_stats"])
    assert not np.array_equal(moved["batch_stats"]["mean_style"], variables["batch_stats"]["mean_style"])
    np.testing.assert_array_equal(kept["batch_stats"]["mean_style"], variables["batch_stats"]["mean_style"])


def test_path_lengths_against_the_jacobian():
    gen, latents = small_gen(style_mixing=0.0), jax.random.normal(KEY, (3, 5))
    variables = woken(gen, latents)
    keys = jax.random.split(KEY, 3)
    restyle = lambda offsets: gen.apply(variables, latents, train=True, style_offsets=offsets)
    found = path_lengths(restyle, keys, gen.style_shape)
    jacobian = jax.jacobian(lambda o: restyle(o)[-1])(
        jnp.zeros((3, *gen.style_shape))
    )  # [3, 8, 8, 1, 3, 4, 6]
    for i in range(3):
        y = np.asarray(jax.random.normal(keys[i], (8, 8, 1))) / 8
        slope = np.einsum("hwc,hwcls->ls", y, np.asarray(jacobian)[i, :, :, :, i])
        np.testing.assert_allclose(found[i], np.sqrt(np.square(slope).sum(1).mean()), rtol=1e-4)


def test_orthogonality_against_numpy():
    kernel, other = (
        RNG.normal(size=(3, 3, 4, 5)).astype(np.float32),
        RNG.normal(size=(6, 2)).astype(np.float32),
    )
    params = {"a": {"kernel": kernel, "bias": np.ones(5, np.float32)}, "b": {"kernel": other}}
    expected = 0.0
    for matrix in (kernel.reshape(-1, 5), other):
        products = matrix.T @ matrix
        expected += np.square(products - np.diag(np.diag(products))).sum()
    np.testing.assert_allclose(orthogonality(params), expected, rtol=1e-5)
    assert float(orthogonality({"kernel": jnp.eye(4)})) == pytest.approx(0, abs=1e-6)


def test_orthogonal_regularisation_is_a_term_of_g():
    _, _, rows = run_steps(small_config(penalty__orthogonal=0.5), steps=2)
    assert rows[0]["gen/orthogonal"] > rows[1]["gen/orthogonal"] > 0
    np.testing.assert_allclose(
        rows[0]["loss/gen"], rows[0]["gen/adversarial"] + 0.5 * rows[0]["gen/orthogonal"], rtol=1e-5
    )


def test_path_length_regularisation_moves_its_mean_every_few_steps():
    config = small_config(
        model__name="stylegan2",
        gen__norm="none",
        gen__style_dim=8,
        gen__mapping_layers=2,
        loss__path_length=2.0,
        loss__path_length_every=2,
        model__msg="none",
    )
    _, state, rows = run_steps(config, steps=4)
    means = [row["gen/path_length_mean"] for row in rows]
    assert 0 < means[0] == means[1] < means[2] == means[3]
    assert [row["gen/path_length"] > 0 for row in rows] == [True, False, True, False]
    assert float(state.control["path_length/mean"]) == pytest.approx(means[-1])
    # an average already: the average of G has G's
    styles = [state.ema["batch_stats"]["mean_style"], state.gen.stats["batch_stats"]["mean_style"]]
    np.testing.assert_array_equal(*styles)


def test_the_gradient_of_path_lengths_goes_through_the_running_mean_too():
    """Of an image that is `size` times a fixed function of the styles: lengths l become size·l."""
    config = small_config(model__name="stylegan2", gen__norm="none", model__msg="none", loss__path_length=2.0)
    term, keys = gen_objective(config).terms["path_length"], jax.random.split(KEY, 8)
    weights = jnp.asarray(RNG.normal(size=(4, 15, 12)), jnp.float32)

    def restyle(offsets, size=1.0):
        n = offsets.shape[0]
        return (size * jnp.einsum("nl,nlp->np", offsets.reshape(n, 15), weights[:n]).reshape(n, 2, 2, 3),)

    def value(size):
        shown = {"keys": keys, "step": jnp.int32(0), "control": {"path_length/mean": jnp.float32(2.0)}}
        restyled = partial(restyle, size=size)
        return term(SimpleNamespace(restyle=restyled, style_shape=(3, 5), axis_name=None, **shown))[0]

    size, lengths = 1.5, np.asarray(path_lengths(restyle, stream_keys(keys, Stream.PATH_LENGTH)[:4], (3, 5)))
    mean = 2.0 + 0.01 * (size * lengths.mean() - 2.0)
    expected = 4 * np.mean(2 * (size * lengths - mean) * (lengths - 0.01 * lengths.mean()))
    np.testing.assert_allclose(jax.grad(value)(jnp.float32(size)), expected, rtol=1e-4)


def test_auxiliary_classifier_learns_the_classes():
    config = small_config(
        model__conditional=True, loss__auxiliary_classifier=1.0, dis__optimizer__learning_rate=5e-3
    )
    _, state, rows = run_steps(config, steps=100)
    assert rows[0]["dis/classes"] == pytest.approx(2 * np.log(10), rel=0.3)  # of reals and of fakes
    assert rows[-1]["dis/classes"] < 0.95 * rows[0]["dis/classes"]
    assert "gen/classes" in rows[0]
    assert not any(
        "Projection" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.dis)
    )


def test_r3gan_schedules_go_together():
    """Rate, β₂, γ and ADA's p all follow half a cosine to the schedule's end, and then stay."""
    options = {
        "schedule": "cosine",
        "final_scale": 0.25,
        "beta2": 0.9,
        "final_beta2": 0.99,
        "schedule_end": 0.5,
    }
    config = small_config(
        penalty__name="r1",
        penalty__final_scale=0.1,
        augment__policy="ada",
        augment__final_p=0.3,
        train__steps=8,
        **{f"{net}__optimizer__{key}": value for net in ("gen", "dis") for key, value in options.items()},
    )
    _, state, rows = run_steps(config, steps=6)
    progress = np.minimum(np.arange(6) / 4, 1)
    progress = 0.5 * (1 - np.cos(np.pi * progress))
    np.testing.assert_allclose([row["lr/dis"] for row in rows], 8e-4 * (1 - 0.75 * progress), rtol=1e-5)
    assert float(state.control["ada/p"]) == pytest.approx(0.3)
    assert float(state.dis.opt_state.hyperparams["beta2"]) == pytest.approx(0.99)
