"""StyleGAN2 beside stylegan2-ada-pytorch: `oracles/stylegan2_authors.npz`; its entry `about` tells how it was made."""

from __future__ import annotations

from types import SimpleNamespace

import authors_weights as authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from authors_weights import error, images, kept, normal, quick
from small import small_config

from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import path_lengths, r1
from ganjax.models.layers import native
from ganjax.models.mappings import export_weights
from ganjax.models.mappings import stylegan2 as mapping
from ganjax.models.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from ganjax.runtime.keys import Stream, stream_keys
from ganjax.training.build import gen_objective
from ganjax.training.optim import Optimizer, make_chain

ORACLE = authors.load("stylegan2")
N, Z, CLASSES = 8, 12, 3
LABELS = jnp.arange(N, dtype=jnp.int32) % CLASSES
KEYS = jax.random.split(jax.random.key(0), N)  # of the noise of the path lengths
WIDTHS = {"width": 8, "max_width": 16}
unconditional_and_conditional = pytest.mark.parametrize("classes", [0, CLASSES])


def scale(name, shape):
    """Weights are N(0, 1), biases N(0, .1²), 1 more for those of styles; those of z → w are divided by their rate."""
    if name.endswith("noise_strength"):
        return 0.0, 0.0
    if name.endswith("w_avg"):
        return 0.3, 0.0
    if name.endswith("affine.bias"):
        return 0.1, 1.0
    if "mapping.fc" in name:
        return (100.0 if name.endswith("weight") else 10.0), 0.0
    return (0.1 if name.endswith("bias") else 1.0), 0.0


def generator(classes, **options):
    sizes = {**WIDTHS, "style_dim": Z, "mapping_layers": 2, "style_mixing": 0.0, **options}
    return StyleGAN2Generator(16, 3, (4, 8, 16), classes=classes, **sizes)


def discriminator(classes, **options):
    return StyleGAN2Discriminator(
        16, **{**WIDTHS, **options}, classes=classes, label_layers=8 if classes else 0
    )


def labels_of(classes):
    return LABELS if classes else None


def made_gen(classes):
    gen, entries = generator(classes), mapping.generator(16, mapping_layers=2, classes=classes)
    empty = authors.empty(gen, jnp.zeros((N, Z)), labels_of(classes))
    return gen, entries, authors.filled(entries, empty, scale, 24)


def made_dis(classes):
    dis, entries = discriminator(classes), mapping.discriminator(16, label_layers=8 if classes else 0)
    empty = authors.empty(dis, (jnp.zeros((N, 16, 16, 3)),), labels_of(classes))
    return dis, entries, authors.filled(entries, empty, scale, 25)


@pytest.fixture(params=["native", "xla"])
def kernels(request):
    if request.param == "native":
        if not native.in_use():
            pytest.skip("no native kernels here")
        yield
    else:
        with native.portable():
            yield


@unconditional_and_conditional
def test_images_of_each_level_and_their_gradients(classes, kernels):
    gen, entries, variables = made_gen(classes)
    labels, latents = labels_of(classes), normal(N, Z, seed=1)

    def run(params, z):
        made = gen.apply({**variables, "params": params}, z, labels, train=False)
        return jnp.sum(made[-1] * normal(N, 16, 16, 3, seed=2)), made

    (_, made), (by_params, by_latents) = quick(jax.value_and_grad(run, (0, 1), has_aux=True))(
        variables["params"], latents
    )
    prefix = f"c{classes}/gen"
    for image in made:
        assert error(image[:2], ORACLE[f"{prefix}/images{image.shape[1]}"]) < 1e-5
    assert error(by_latents, ORACLE[f"{prefix}/d_latents"]) < 1e-4
    assert authors.gradient_errors(ORACLE, f"{prefix}/grad/", entries, by_params) < 1e-4


@unconditional_and_conditional
def test_truncation_and_the_mean_style(classes):
    gen, _, variables = made_gen(classes)
    labels, latents, prefix = labels_of(classes), normal(N, Z, seed=1), f"c{classes}/gen"
    cut = quick(lambda z: gen.apply(variables, z, labels, train=False, truncation=0.5)[-1])(latents)
    assert error(cut[:2], ORACLE[f"{prefix}/truncated"]) < 1e-5
    move = quick(lambda z: gen.apply(variables, z, labels, train=True, mutable=["batch_stats"])[1])
    assert error(move(latents)["batch_stats"]["mean_style"], ORACLE[f"{prefix}/mean_style"]) < 1e-5


@unconditional_and_conditional
def test_logits_r1_and_their_gradients(classes, kernels):
    dis, entries, variables = made_dis(classes)
    x, prefix = images(N, 16, 3), f"c{classes}"
    judge = lambda params, x: dis.apply({"params": params}, x, labels_of(classes), train=True)

    def run(params, x):
        logits = judge(params, (x,))
        return jnp.sum(logits * normal(N, seed=4)), logits

    def penalty(params):
        values = r1(lambda x: judge(params, x), (x,))
        return jnp.mean(values), values

    (_, logits), (by_params, by_images) = quick(jax.value_and_grad(run, (0, 1), has_aux=True))(
        variables["params"], x
    )
    assert error(logits, ORACLE[f"{prefix}/dis/logits"]) < 1e-5
    assert error(kept(by_images), ORACLE[f"{prefix}/dis/d_images"]) < 1e-4
    assert authors.gradient_errors(ORACLE, f"{prefix}/dis/grad/", entries, by_params) < 1e-4
    (_, values), by_params = quick(jax.value_and_grad(penalty, has_aux=True))(variables["params"])
    assert error(values, ORACLE[f"{prefix}/r1/values"]) < 1e-5
    assert authors.gradient_errors(ORACLE, f"{prefix}/r1/grad/", entries, by_params) < 1e-4


def path_term():
    config = small_config(model__name="stylegan2", gen__norm="none", model__msg="none", loss__path_length=2.0)
    return gen_objective(config).terms["path_length"]


def path_round(gen, variables, params, latents, labels, mean):
    """What the term of path lengths reads of a round."""

    def restyle(offsets):
        told = None if labels is None else labels[: len(offsets)]
        bound = {**variables, "params": params}
        return gen.apply(bound, latents[: len(offsets)], told, train=False, style_offsets=offsets)

    return SimpleNamespace(
        restyle=restyle,
        style_shape=gen.style_shape,
        keys=KEYS,
        control={"path_length/mean": mean},
        step=jnp.int32(0),
        axis_name=None,
    )


@unconditional_and_conditional
def test_path_lengths_and_the_gradient_of_their_penalty(classes):
    gen, entries, variables = made_gen(classes)
    labels, latents, prefix, term = labels_of(classes), normal(N, Z, seed=1), f"c{classes}/path", path_term()

    def run(params):
        round_ = path_round(gen, variables, params, latents, labels, jnp.float32(0.7))
        value, numbers = term(round_)
        lengths = path_lengths(round_.restyle, stream_keys(KEYS, Stream.PATH_LENGTH)[:4], gen.style_shape)
        return value / 4, (lengths, numbers["path_length_mean"])  # for each fourth step

    (loss, (lengths, mean)), by_params = quick(jax.value_and_grad(run, has_aux=True))(variables["params"])
    assert error(lengths, ORACLE[f"{prefix}/lengths"]) < 1e-5
    assert error(mean, ORACLE[f"{prefix}/mean"]) < 1e-5
    assert error(loss, ORACLE[f"{prefix}/loss"]) < 1e-5
    assert authors.gradient_errors(ORACLE, f"{prefix}/grad/", entries, by_params) < 1e-4


@unconditional_and_conditional
def test_weights_start_as_the_authors(classes):
    """Standard deviations and means of every array, as far as chance allows, and the numbers of parameters."""
    sizes, labels = {"width": 64, "max_width": 64}, labels_of(classes)
    nets = {
        "gen": (generator(classes, style_dim=64, **sizes), jnp.zeros((N, 64))),
        "dis": (discriminator(classes, **sizes), (jnp.zeros((N, 16, 16, 3)),)),
    }
    entries = {
        "gen": mapping.generator(16, mapping_layers=2, classes=classes),
        "dis": mapping.discriminator(16, label_layers=8 if classes else 0),
    }
    for name, (net, given) in nets.items():
        start = quick(lambda key, net=net, given=given: net.init(key, given, labels, train=True))
        trained = [entry for entry in entries[name] if entry.ours[0] == "params"]
        found = export_weights(trained, jax.device_get(start(jax.random.key(1))))
        prefix = f"c{classes}/{name}/start/"
        assert {key[len(prefix) :] for key in ORACLE if key.startswith(prefix)} == set(found)
        for key, x in found.items():
            deviation, mean = ORACLE[prefix + key]
            if (
                key == "mapping.embed.weight"
            ):  # ours have no scale at run time; the rows are normalised anyway
                x = x / CLASSES**0.5
            near = 8 / x.size**0.5 * max(deviation, 1e-6)
            assert abs(np.std(x) - deviation) < near and abs(np.mean(x) - mean) < near, key
    counts = [
        sum(x.size for x in jax.tree.leaves(made(classes)[2]["params"])) for made in (made_gen, made_dis)
    ]
    shared = np.array([Z, WIDTHS["max_width"]]) * (classes > 0)  # the authors' bias of all rows of labels
    np.testing.assert_array_equal(counts + shared, ORACLE[f"c{classes}/parameters"])


def test_the_bias_of_label_rows_is_folded_into_them():
    weight, bias = normal(4, CLASSES, seed=0), normal(4, seed=1)
    state_dict = {"mapping.embed.weight": weight, "mapping.embed.bias": bias, "other": bias}
    found = mapping.folded(state_dict)
    assert set(found) == {"mapping.embed.weight", "other"}
    rows = weight.T / CLASSES**0.5 + bias
    np.testing.assert_allclose(found["mapping.embed.weight"].T / CLASSES**0.5, rows, rtol=1e-5)


def test_ten_steps_of_both_optimisers():
    """D with R1, then G with path lengths, each at each step; the noise stays off."""
    (gen, _, g), (dis, _, d) = made_gen(0), made_dis(0)
    loss, term = LOSSES["non_saturating"], path_term()
    chain = make_chain("adam", beta1=0.0, beta2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    optimizer = Optimizer(chain, lambda step: jnp.float32(1.0))
    make = lambda params, z: gen.apply({**g, "params": params}, z, None, train=False)[-1]
    judge = lambda params, x: dis.apply({"params": params}, x, None, train=True)
    quiet = lambda path, x: x * 0 if "noise" in jax.tree_util.keystr(path) else x

    def dis_loss(params, fakes, reals):
        value = jnp.mean(loss.dis(judge(params, (reals,)), judge(params, (fakes,))))
        penalty = jnp.mean(r1(lambda x: judge(params, x), (reals,)))
        return value + penalty, (value, penalty)

    def gen_loss(params, judging, z, mean):
        value = jnp.mean(loss.gen(None, judge(judging, (make(params, z),))))
        lengths, numbers = term(path_round(gen, g, params, z, None, mean))
        return value + 2 * lengths / 4, (value, lengths / 4, numbers["path_length_mean"])

    @quick
    def step(state, z_dis, reals, z_gen):
        (params_g, opt_g), (params_d, opt_d), mean = state
        grads, of_dis = jax.grad(dis_loss, has_aux=True)(params_d, make(params_g, z_dis), reals)
        given = {"step": jnp.int32(0), "peak": jnp.float32(2e-3)}
        params_d, opt_d, _ = optimizer.update(grads, opt_d, params_d, **given)
        grads, (*of_gen, mean) = jax.grad(gen_loss, has_aux=True)(params_g, params_d, z_gen, mean)
        grads = jax.tree_util.tree_map_with_path(quiet, grads)
        params_g, opt_g, _ = optimizer.update(grads, opt_g, params_g, **given)
        return ((params_g, opt_g), (params_d, opt_d), mean), jnp.stack([*of_dis, *of_gen])

    state: object = (
        (g["params"], chain.init(g["params"])),
        (d["params"], chain.init(d["params"])),
        jnp.float32(0),
    )
    rows = []
    for i in range(10):
        latents = normal(N, Z, seed=100 + i), normal(N, Z, seed=300 + i)
        state, row = step(state, latents[0], images(N, 16, 200 + i), latents[1])
        rows.append(row)
    (params_g, _), (params_d, _), mean = state
    assert error(np.asarray(rows)[0], ORACLE["steps/rows"][0]) < 1e-5
    assert error(rows, ORACLE["steps/rows"]) < 1e-3
    assert error(mean, ORACLE["steps/path_mean"]) < 1e-3
    assert error(make(params_g, normal(N, Z, seed=1))[:2], ORACLE["steps/images"]) < 1e-2
    assert error(judge(params_d, (images(N, 16, 3),)), ORACLE["steps/logits"]) < 1e-2
