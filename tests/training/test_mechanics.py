"""Optimisers, averages, sizes, delivery and precision: what each option does to the step, held to NumPy.

The names and the linear D are those of `test_techniques.py`.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT
from small import points_config, small_config, small_dataset
from toy import Toy, image_of, weights_of

from ganjax.config.techniques import TECHNIQUES
from ganjax.data.images import pack
from ganjax.models.latents import make_latents
from ganjax.models.layers import plain
from ganjax.training.build import build
from ganjax.training.forward import discriminate
from ganjax.training.optim import make_schedule
from ganjax.training.step import train_step
from ganjax.training.update_ratio import movement, weights

R, F, W = np.array([1.0, 0.5]), np.array([-0.5, 1.0]), np.array([1.2, -1.6])
RATE, BETA1, BETA2, EPS, DECAY, GAMMA = 0.1, 0.6, 0.9, 0.05, 0.2, 0.7
STILL = {"gen__optimizer__learning_rate": 0.0, "dis__optimizer__learning_rate": 0.0}


def adam(g, w, s, t):
    s["m"] = BETA1 * s["m"] + (1 - BETA1) * g
    s["v"] = BETA2 * s["v"] + (1 - BETA2) * g**2
    return s["m"] / (1 - BETA1**t) / (np.sqrt(s["v"] / (1 - BETA2**t)) + EPS)


def adamw(g, w, s, t):
    return adam(g, w, s, t) + DECAY * w


def rmsprop(g, w, s, t):
    s["v"] = BETA2 * s["v"] + (1 - BETA2) * g**2
    return g / (np.sqrt(s["v"]) + EPS)


def sgd(g, w, s, t):
    s["m"] = BETA1 * s["m"] + g
    return s["m"]


def lion(g, w, s, t):
    direction = np.sign(BETA1 * s["m"] + (1 - BETA1) * g)
    s["m"] = BETA2 * s["m"] + (1 - BETA2) * g
    return direction + DECAY * w


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("rule", [adam, adamw, rmsprop, sgd, lion], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("net", ["gen", "dis"])
def test_an_optimiser_is_its_formula(net, rule, clip):
    """Three updates of D by the changing gradient F - R + γ·w, or of G by its constant one."""
    options = {
        "name": rule.__name__,
        "learning_rate": RATE,
        "beta1": BETA1,
        "beta2": BETA2,
        "eps": EPS,
        "weight_decay": DECAY,
        "clip_norm": clip,
    }
    toy = Toy(
        np.tile(R, (2, 1)),
        F,
        W,
        penalty__name="r1",
        penalty__weight=GAMMA,
        **{**STILL, **{f"{net}__optimizer__{name}": value for name, value in options.items()}},
    )
    states, rows = toy.run(3)
    value, moments = (F if net == "gen" else W), {"m": 0.0, "v": 0.0}
    for t in range(1, 4):
        g = -W if net == "gen" else F - R + GAMMA * value
        norm = np.linalg.norm(g)
        np.testing.assert_allclose(rows[t - 1][f"grad_norm/{net}"], norm, rtol=1e-4)  # before it is cut
        assert norm > 0.3  # so that it will be
        g = g * (clip / norm if clip else 1)
        value = value - RATE * rule(g, value, moments, t)
        got = image_of(states[t]) if net == "gen" else weights_of(states[t])
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)


# Warm-up of 2 steps, 6 in all, down to a quarter.
RATES = {
    "constant": [0.5, 1, 1, 1, 1, 1],
    "linear": [0.5, 1, 1, 0.8125, 0.625, 0.4375],
    "cosine": [0.5, 1, 1, *(0.25 + 0.375 * (1 + np.cos(np.pi * np.array([0.25, 0.5, 0.75]))))],
}


@pytest.mark.parametrize("kind", RATES)
def test_warm_up_and_schedule_set_the_rate_of_each_update(kind):
    own = {"learning_rate": RATE, "schedule": kind, "warmup_steps": 2, "final_scale": 0.25}
    options = {**STILL, "train__steps": 6, **{f"dis__optimizer__{name}": v for name, v in own.items()}}
    states, rows = Toy(np.tile(R, (2, 1)), F, W, **options).run(6)
    expected = RATE * np.array(RATES[kind])
    np.testing.assert_allclose([row["lr/dis"] for row in rows], expected, rtol=1e-5)
    steps = np.diff([weights_of(state) for state in states], axis=0)
    np.testing.assert_allclose(steps, expected[:, None] * (R - F), rtol=1e-4, atol=1e-6)
    schedule = make_schedule(kind, steps=6, warmup_steps=2, final_scale=0.25)
    for late in (6, 60):
        assert float(schedule(jnp.int32(late))) == pytest.approx(1.0 if kind == "constant" else 0.25)


def test_the_average_of_g_starts_with_a_short_half_life():
    """With two updates of 8 images and a ramp of ¼, the half-life after step t is 4·t images."""
    options = {**STILL, "gen__optimizer__learning_rate": RATE, "train__gen_steps": 2}
    ramp = {"ema__half_life_kimg": 0.01, "ema__rampup": 0.25}
    states, _ = Toy(np.tile(R, (8, 1)), F, W, **options, **ramp).run(4)
    average = F
    for t, state in enumerate(states[1:], start=1):
        half_life = min(10, 4 * t)  # images; the ramp ends at the third step
        kept = 0.5 ** (16 / half_life)
        average = kept * average + (1 - kept) * (F + 2 * t * RATE * W)
        np.testing.assert_allclose(state.ema["params"]["image"], average, rtol=1e-5)


def test_packing_puts_neighbours_side_by_side():
    images = np.arange(6 * 2 * 3 * 2, dtype=np.float32).reshape(6, 2, 3, 2)
    (packed,) = pack((jnp.asarray(images),), 3)
    np.testing.assert_array_equal(packed[0], np.concatenate(images[:3], axis=-1))
    np.testing.assert_array_equal(packed[1], np.concatenate(images[3:], axis=-1))


def test_a_d_with_packing_sees_all_of_a_group():
    """Penalties, too, are one for each group: drift is the mean square of the logits."""
    reals = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    weights = np.array([1.0, 2.0, -3.0, 0.5])
    toy = Toy(
        reals,
        F,
        weights,
        dis__packing=2,
        penalty__drift=1.0,
        penalty__name="r1",
        loss__name="non_saturating",
        loss__label_flip=0.3,
        **STILL,
    )
    _, (row,) = toy.run(1)
    order = toy.build.make_batch(
        (jnp.asarray(reals), None), toy.first.seed, toy.first.step, jnp.arange(8)
    ).reals[0][0]
    logits = np.asarray(order).reshape(4, 4) @ weights
    np.testing.assert_allclose(row["dis/drift"], np.mean(logits**2), rtol=1e-5)
    np.testing.assert_allclose(row["dis/penalty"], weights @ weights / 2, rtol=1e-5)
    np.testing.assert_allclose(row["logit/fake"], weights @ np.tile(F, 2), rtol=1e-5)


def kernels(config):
    """The shapes of the kernels of G and D, in the order of their names, and the whole state's shapes."""
    points = config.model.name == "mlp"
    state = build(config, small_dataset(points), axis_name=None).shapes()
    found = {}
    for net in ("gen", "dis"):
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, net).params)
        found[net] = [leaf.shape for path, leaf in leaves if path[-1].key == "kernel"]
    return found, state


def test_width_and_depth_are_those_of_the_layers():
    sizes = {"gen__width": 3, "gen__depth": 2, "dis__width": 5, "dis__depth": 3, "gen__norm": "none"}
    found, _ = kernels(points_config(**sizes, model__latent_dim=7))
    assert found["gen"] == [(7, 3), (3, 3), (3, 2)]
    assert found["dis"] == [(2, 5), (5, 5), (5, 5), (5, 1)]
    # 8×8 images: a level of 4 pixels with twice the channels, up to max_width, and one of 8.
    limits = {"gen__max_width": 5, "dis__max_width": 8}
    more = {"model__msg": "none", "dis__minibatch_stddev": False, **limits}
    found, _ = kernels(small_config(**{**sizes, **more}))
    channels = lambda net: sorted(shape[2:] for shape in found[net] if len(shape) == 4)
    assert channels("gen") == sorted([(5, 5), (5, 3), (3, 3), (3, 1)])
    assert channels("dis") == sorted([(1, 5), (5, 8)] + [(8, 8)] * 5)


def test_minibatch_features_join_d_where_they_should():
    without, _ = kernels(small_config(dis__minibatch_stddev=False))
    shapes = lambda **options: kernels(small_config(**options))[0]["dis"]
    more = lambda shape, axis, n: (*shape[:axis], shape[axis] + n, *shape[axis + 1 :])
    # A map of deviations at every block with MSG, at the last without.
    wide = [s for s in without["dis"] if len(s) == 4 and s[0] == 3]
    assert sorted(s for s in shapes() if len(s) == 4 and s[0] == 3) == sorted(more(s, 2, 1) for s in wide)
    single = shapes(model__msg="none", dis__minibatch_stddev=False)
    assert sum(a != b for a, b in zip(shapes(model__msg="none"), single, strict=True)) == 1
    # Seven kernels of closeness beside the last features.
    last = next(s for s in without["dis"] if len(s) == 2)
    found = shapes(dis__minibatch_stddev=False, dis__minibatch_discrimination=7)
    assert more(last, 0, 7) in found and (last[0], 7 * 5) in found


@pytest.mark.parametrize(
    "options",
    [{"dis__minibatch_discrimination": 3, "dis__minibatch_stddev": False}, {"dis__minibatch_stddev": True}],
)
def test_d_never_compares_reals_with_fakes(options):
    """Statistics of groups that held both would tell D what is what, and G's update would see other groups."""
    made = build(small_config(gen__norm="none", gen__width=1, **options), small_dataset(), axis_name=None)
    dis = made.init().dis
    draws = [
        tuple(jax.random.normal(jax.random.key(seed), (16, side, side, 1)) for side in (4, 8))
        for seed in range(3)
    ]
    run = jax.jit(lambda batches: discriminate(made.gan, dis, batches, None, update_stats=False)[0][0].logits)
    for size in (6, 16):
        reals, *fakes = (tuple(scale[:size] for scale in images) for images in draws)
        np.testing.assert_allclose(run([reals, fakes[0]]), run([reals, fakes[1]]), rtol=1e-5)
        others = tuple(jnp.concatenate([x[:-1], y[-1:]]) for x, y in zip(reals, fakes[0], strict=True))
        assert abs(run([reals])[-2] - run([others])[-2]) > 1e-6  # but reals with reals


@pytest.mark.parametrize("net", ["gen", "dis"])
def test_spectral_norm_is_of_the_network_that_asked_for_it(net):
    other = {"gen": "dis", "dis": "gen"}[net]
    config = small_config(**{f"{net}__spectral_norm": True, f"{other}__spectral_norm": False})
    found, state = kernels(config)
    assert len(jax.tree.leaves(getattr(state, net).stats["spectral"])) == 2 * len(found[net])
    assert "spectral" not in getattr(state, other).stats
    for iterations in (1, 3):
        own = {"spectral_norm": True, "spectral_iterations": iterations}
        config = small_config(**{f"{net}__{name}": value for name, value in own.items()})
        assert getattr(build(config, small_dataset()).gan, net).net.spectral == iterations


def test_latent_distributions():
    keys = jax.random.split(jax.random.key(0), 4000)
    for name, deviation in (("normal", 1.0), ("sphere", 1.0), ("uniform", 3**-0.5)):
        z = np.asarray(make_latents(16, name)(keys))
        assert z.shape == (4000, 16) and z.dtype == np.float32
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=4 / 4000**0.5)
        np.testing.assert_allclose(z.std(axis=0), deviation, rtol=0.06)
        lengths = np.linalg.norm(z, axis=1)
        if name == "sphere":
            np.testing.assert_allclose(lengths, 4, rtol=1e-5)
        else:
            assert lengths.std() > 0.2
        assert (np.abs(z).max() <= 1) == (name == "uniform")


def test_flipping_mirrors_half_of_the_images_anew_in_each_epoch():
    originals = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype(np.float32)
    toy = Toy(originals, originals[0], np.zeros(64), data__flip=True)
    data, mirrored = (jnp.asarray(originals), None), []
    for step in (0, 1):
        now = dataclasses.replace(toy.first, step=jnp.int32(step))
        (reals,) = toy.build.make_batch(data, now.seed, now.step, jnp.arange(64)).reals
        distance = lambda a, b: np.abs(np.asarray(a)[:, None] - b[None]).max(axis=(2, 3, 4))
        plain, flipped = distance(reals[0], originals), distance(reals[0], originals[:, :, ::-1])
        assert (np.minimum(plain.min(axis=1), flipped.min(axis=1)) < 1e-5).all()
        order = np.argmin(np.minimum(plain, flipped), axis=1)
        assert sorted(order) == list(range(64))
        mirrored.append((flipped.min(axis=1) < 1e-5)[np.argsort(order)])
        assert 16 < mirrored[-1].sum() < 48
    assert (mirrored[0] != mirrored[1]).any()


def test_bfloat16_is_for_the_arithmetic_alone():
    config = small_config(train__precision="bfloat16", gen__spectral_norm=True, penalty__name="r1")
    made = build(config, small_dataset(), axis_name=None)
    computed = {}

    def watch(next_method, args, kwargs, context):
        out = next_method(*args, **kwargs)
        if isinstance(context.module, plain.Conv | plain.Dense) and context.method_name == "__call__":
            computed[context.module.path, out.shape] = out.dtype
        return out

    def step(state):
        data = jax.tree.map(jnp.asarray, (small_dataset().images, None))
        return train_step(made.gan, state, made.make_batch(data, state.seed, state.step, jnp.arange(16)))

    # Flax's batch normalisation promotes, which the tests' strictness forbids and a user's run does not.
    with jax.numpy_dtype_promotion("standard"), nn.intercept_methods(watch):
        state = made.shapes()
        computed.clear()  # what is made at the start
        after, metrics = jax.eval_shape(step, state)
    assert len(computed) > 6 and set(computed.values()) == {jnp.dtype("bfloat16")}
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(after) == types(state)
    floats = {x.dtype for x in jax.tree.leaves((after, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {jnp.dtype("float32")}


@pytest.mark.parametrize("net", ["gen", "dis"])
def test_a_nan_is_noted_in_bfloat16_too(net):
    config = points_config(train__precision="bfloat16", gen__width=4, dis__width=4)
    made = build(config, small_dataset(points=True), axis_name=None)
    state = made.init()
    broken = dataclasses.replace(
        getattr(state, net), params=jax.tree.map(lambda x: x * jnp.nan, getattr(state, net).params)
    )
    data = jax.tree.map(jnp.asarray, (small_dataset(points=True).images, None))
    step = jax.jit(
        lambda s: train_step(made.gan, s, made.make_batch(data, s.seed, s.step, jnp.arange(16)))[0].control
    )
    fine = dataclasses.replace(state, step=jnp.int32(5))
    assert [int(step(fine)[f"fault/{name}"]) for name in ("dis", "gen")] == [-1, -1]
    control = step(dataclasses.replace(fine, **{net: broken}))
    assert [int(control[f"fault/{name}"]) for name in ("dis", "gen")] == [5, 5]


def test_how_far_a_call_moves_the_weights():
    dataset = small_dataset(points=True)
    made = build(points_config(gen__width=4, dis__width=4), dataset, axis_name=None)
    data = jax.tree.map(jnp.asarray, (dataset.images, None))
    step = jax.jit(
        lambda s: train_step(made.gan, s, made.make_batch(data, s.seed, s.step, jnp.arange(16)))[0]
    )
    before = made.init()
    after = step(step(before))
    flat = lambda params: np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)]).astype(np.float64)
    ratios = movement(weights(before), after, steps=2)
    several = jax.tree.map(lambda *x: jnp.stack(x), before, after)
    members = movement(weights(several), jax.tree.map(lambda x: x[::-1], several), steps=2, lead=1)
    for net in ("gen", "dis"):
        old, new = flat(getattr(before, net).params), flat(getattr(after, net).params)
        expected = np.linalg.norm(new - old) / np.linalg.norm(old) / np.sqrt(2)
        np.testing.assert_allclose(ratios[f"update_ratio/{net}"], expected, rtol=1e-4)
        assert expected > 0
        np.testing.assert_allclose(members[f"update_ratio/{net}"][0], expected, rtol=1e-4)
        back = expected * np.linalg.norm(old) / np.linalg.norm(new)
        np.testing.assert_allclose(members[f"update_ratio/{net}"][1], back, rtol=1e-4)


# Where each technique's effect is held to an oracle. A new technique needs a line, and its options a test.
ORACLES = {
    "capacity": "test_mechanics::test_width_and_depth_are_those_of_the_layers",
    "remat": "test_models::test_blocks_computed_anew_give_the_same_gradients_under_the_same_names",
    "ema": "test_mechanics::test_the_average_of_g_starts_with_a_short_half_life",
    "loss": "test_losses::test_values_and_gradients_are_pytorchs",
    "loss_scale": "test_techniques::test_logit_scale_and_label_smoothing",
    "updates": "test_techniques::test_every_update_of_d_sees_new_reals_and_g_makes_its_own_number",
    "adaptive_balance": "test_techniques::test_the_adaptive_balance_lets_the_winner_rest",
    "schedule": "test_mechanics::test_warm_up_and_schedule_set_the_rate_of_each_update",
    "optimizer": "test_mechanics::test_an_optimiser_is_its_formula",
    "clip_norm": "test_mechanics::test_an_optimiser_is_its_formula",
    "accumulate": "test_step::test_accumulated_parts_give_the_gradients_of_the_whole_batch",
    "feature_matching": "test_techniques::test_feature_matching_pulls_g_to_the_mean_feature_of_reals",
    "minibatch_discrimination": "test_models::test_minibatch_discrimination_against_numpy",
    "minibatch_stddev": "test_models::test_minibatch_stddev_against_numpy_and_over_split_batches",
    "packing": "test_mechanics::test_a_d_with_packing_sees_all_of_a_group",
    "noise": "test_techniques::test_instance_noise_on_all_that_d_sees_and_its_schedule",
    "diff_augment": "test_techniques::test_reals_and_fakes_are_augmented_alike_in_both_updates",
    "ada": "test_techniques::test_ada_steers_p_by_the_sign_of_d_on_reals",
    "label_smoothing": "test_techniques::test_logit_scale_and_label_smoothing",
    "label_flip": "test_techniques::test_flipped_labels_are_a_share_of_the_pairs_and_d_s_alone",
    "msg": "test_models::test_gradient_reaches_every_parameter_and_scale",
    "ttur": "test_step::test_learning_rates_are_those_of_the_config_and_its_schedule",
    "spectral_norm": "test_spectral_norm::test_sigma_after_warm_up_is_the_largest_singular_value",
    "penalty": "test_techniques::test_a_penalty_enters_d_s_loss_and_gradient_with_its_weight",
    "lazy_penalty": "test_techniques::test_a_lazy_penalty_comes_every_third_step_three_times_as_strong",
    "drift": "test_techniques::test_a_penalty_enters_d_s_loss_and_gradient_with_its_weight",
    "weight_clipping": "test_techniques::test_weights_are_clipped_after_each_update_of_d",
    "lecam": "test_techniques::test_lecam_waits_for_its_start_while_its_averages_gather",
    "consistency": "test_techniques::test_consistency_is_the_cost_of_a_shift_by_at_most_a_pixel",
    "labels": "test_labels::test_labels_reach_both_networks_in_the_step",
    "auxiliary_classifier": "test_stylegan2::test_auxiliary_classifier_learns_the_classes",
    "orthogonal": "test_stylegan2::test_orthogonality_against_numpy",
    "path_length": "test_stylegan2::test_path_lengths_against_the_jacobian",
}


def test_every_technique_has_an_oracle():
    texts = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert {technique.name for technique in TECHNIQUES} == ORACLES.keys()
    for name, where in ORACLES.items():
        file, _, test = where.partition("::")
        assert f"def {test}(" in texts[file], name
    # And every one of its options is set by a test here; `"NAME"` is for those that each network has.
    text = "".join(
        texts[f"test_{name}"]
        for name in ("techniques", "mechanics", "step", "models", "stylegan2", "msg", "augment")
    )
    for key in {key for technique in TECHNIQUES for key in technique.keys}:
        name = key.rpartition(".")[2]
        assert key.replace(".", "__") in text or f'"{name}"' in text or f" {name}=" in text, key
