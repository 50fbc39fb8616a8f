"""The step: pure, the same on any number of devices, and what each network's update may touch."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from small import points_config, run_steps, small_config
from toy import Toy

from ganjax.training.state import count_parameters


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    flat_a, flat_b = (dict(jax.tree_util.tree_leaves_with_path(x)) for x in (a, b))
    assert flat_a.keys() == flat_b.keys()
    for path, leaf in flat_a.items():
        np.testing.assert_allclose(
            np.asarray(leaf),
            np.asarray(flat_b[path]),
            rtol=rtol,
            atol=atol,
            err_msg=jax.tree_util.keystr(path),
        )


def assert_equal(a, b):
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


# Adam divides by the root of the second moment, so rounding in a tiny gradient becomes a large relative change:
# SGD lets rounding stay rounding.
SGD = {"gen__optimizer__name": "sgd", "dis__optimizer__name": "sgd"}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("norm", ["batch", "pixel"])
def test_the_run_is_the_same_on_any_number_of_devices(devices, norm):
    config = small_config(gen__norm=norm, gen__spectral_norm=True, **SGD)
    _, one, _ = run_steps(config, devices=1)
    _, several, _ = run_steps(config, devices=devices)
    assert_close(one, several)


@pytest.mark.slow
def test_adam_too_is_the_same_up_to_rounding():
    config = small_config(gen__norm="pixel", gen__optimizer__eps=1e-4, dis__optimizer__eps=1e-4)
    _, one, _ = run_steps(config, devices=1)
    _, two, _ = run_steps(config, devices=2)
    assert_close(one, two, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("devices", [1, 2])
def test_pmap_and_shard_map_are_the_same_program(devices):
    config = small_config()
    _, pmapped, _ = run_steps(config, devices=devices, mode="pmap")
    _, sharded, _ = run_steps(config, devices=devices, mode="shard_map")
    assert_close(pmapped, sharded, rtol=1e-5, atol=1e-6)


def test_a_step_is_a_pure_function_of_state_and_data():
    config = small_config()
    assert_equal(run_steps(config, devices=2)[1], run_steps(config, devices=2)[1])


def test_going_on_from_a_state_equals_going_through():
    config = small_config()
    _, whole, _ = run_steps(config, steps=4, devices=2)
    _, half, _ = run_steps(config, steps=2, devices=2)
    _, rest, _ = run_steps(config, steps=2, devices=2, state=half)
    assert_equal(whole, rest)


@pytest.mark.parametrize("scan", [True, False])
def test_several_steps_a_call_are_the_same_steps(scan):
    config = points_config(**SGD)
    _, single, rows = run_steps(config, steps=4)
    _, many, means = run_steps(config, steps=4, per_call=4, scan=scan)
    assert_close(single, many, rtol=1e-5, atol=1e-6)
    assert means[0]["loss/dis"] == pytest.approx(np.mean([row["loss/dis"] for row in rows]), rel=1e-4)


def spectral(state, net):
    return {k: v for k, v in getattr(state, net).stats.items() if k == "spectral"}


def test_only_its_own_update_moves_a_networks_spectral_vectors():
    config = small_config(gen__spectral_norm=True, gen__optimizer__learning_rate=0.0)
    made, state, _ = run_steps(config, steps=1)
    assert_equal(state.gen.params, made.init().gen.params)
    quiet = small_config(gen__spectral_norm=True, dis__optimizer__learning_rate=0.0)
    made, state, _ = run_steps(quiet, steps=1)
    # D's weights stay, so its converged vectors stay but for rounding, however often they move.
    assert_close(spectral(state, "dis"), spectral(jax.device_get(made.init()), "dis"), rtol=0, atol=1e-3)
    assert_equal(state.ema["spectral"], state.gen.stats["spectral"])


@pytest.mark.slow
def test_the_generators_update_leaves_everything_of_the_discriminator_alone():
    from small import small_dataset

    from ganjax.training.build import build
    from ganjax.training.step import inputs_of, update

    config = small_config()
    made = build(config, small_dataset(), axis_name=None)
    state = made.init()
    index = np.arange(16, dtype=np.int32)
    batch = made.make_batch(
        jax.tree.map(jax.numpy.asarray, (small_dataset().images, None)),
        state.seed,
        state.step,
        jax.numpy.asarray(index),
    )
    after, _ = update(made.gan, made.gan.gen, state, inputs_of(state, batch, 0, 1))
    assert_equal(after.dis, state.dis)
    after, _ = update(made.gan, made.gan.dis, state, inputs_of(state, batch, 0, 0))
    assert_equal(after.gen, state.gen)
    assert_equal(after.ema, state.ema)


def test_learning_rates_are_those_of_the_config_and_its_schedule():
    config = small_config(
        gen__optimizer__learning_rate=1e-3,
        dis__optimizer__learning_rate=2e-3,
        dis__optimizer__schedule="linear",
        train__steps=10,
    )
    _, _, rows = run_steps(config, steps=3)
    assert [row["lr/gen"] for row in rows] == pytest.approx([1e-3] * 3)
    assert [row["lr/dis"] for row in rows] == pytest.approx([2e-3, 1.8e-3, 1.6e-3])


def test_ema_follows_its_half_life():
    config = small_config(ema__half_life_kimg=0.016, ema__rampup=0.0, gen__norm="batch")
    made, first, _ = run_steps(config, steps=1)
    start = jax.device_get(made.init())
    for name in ("params", "batch_stats"):  # one step of 16 images is one half-life
        expected = jax.tree.map(lambda a, b: 0.5 * (a + b), start.ema[name], first.gen.variables[name])
        assert_close(first.ema[name], expected, rtol=1e-5, atol=1e-7)


def test_ema_off_is_the_generator_itself_and_survives_donation():
    _, state, _ = run_steps(small_config(ema__half_life_kimg=0.0), steps=3, devices=2)
    assert_equal(state.ema, state.gen.variables)


def test_a_fault_is_noted_with_its_step_and_network():
    config = small_config(gen__optimizer__learning_rate=1e30, gen__norm="none", gen__optimizer__name="sgd")
    _, state, _ = run_steps(config, steps=4)
    faults = {name: int(state.control[f"fault/{name}"]) for name in ("dis", "gen")}
    assert min(step for step in faults.values() if step >= 0) >= 1  # the first step was still finite


@pytest.mark.slow
def test_accumulated_parts_give_the_gradients_of_the_whole_batch():
    whole = small_config(gen__norm="pixel", gen__spectral_norm=True, train__batch_size=16, **SGD)
    parts = small_config(gen__norm="pixel", gen__spectral_norm=True, train__accumulate=4, **SGD)
    assert_close(run_steps(whole)[1], run_steps(parts)[1])


@pytest.mark.parametrize("loss", ["hinge", "ra_non_saturating"])
def test_a_shared_forward_gives_both_gradients_at_the_old_parameters(loss):
    """By SGD at rate 1 the moves are the gradients, which the plain formulas give as well."""
    from small import small_dataset

    from ganjax.losses.adversarial import LOSSES
    from ganjax.runtime.keys import image_keys
    from ganjax.training.build import build
    from ganjax.training.forward import Variables, discriminate, generate
    from ganjax.training.step import train_step

    rates = {"gen__optimizer__learning_rate": 1.0, "dis__optimizer__learning_rate": 1.0}
    config = small_config(
        train__shared_forward=True,
        loss__name=loss,
        gen__norm="pixel",
        gen__spectral_norm=True,
        **SGD,
        **rates,
    )
    dataset = small_dataset()
    made = build(config, dataset, axis_name=None)
    state, index = made.init(), jax.numpy.arange(16, dtype=jax.numpy.int32)
    data = tuple(map(jax.numpy.asarray, (dataset.images, dataset.labels)))

    @jax.jit
    def moves(state):
        after, _ = train_step(made.gan, state, made.make_batch(data, state.seed, state.step, index))
        return [
            jax.tree.map(lambda a, b: a - b, getattr(state, n).params, getattr(after, n).params)
            for n in ("dis", "gen")
        ]

    @jax.jit
    def gradients(state):
        batch = made.make_batch(data, state.seed, state.step, index)
        reals, keys = tuple(x[0] for x in batch.reals), image_keys(state.hyper["seed"], state.step, 0, index)

        def logits(gen, dis):
            gen, own = Variables(gen, state.gen.stats), Variables(dis, state.dis.stats)
            fakes, _ = generate(made.gan, gen, keys, None, update_stats=True)
            (real,), stats = discriminate(made.gan, own, [reals], None, update_stats=True)
            own = Variables(dis, stats)
            (fake,), _ = discriminate(made.gan, own, [fakes], None, update_stats=False)
            return real.logits, fake.logits

        return [
            jax.grad(lambda d: LOSSES[loss].dis(*logits(state.gen.params, d)).mean())(state.dis.params),
            jax.grad(lambda g: LOSSES[loss].gen(*logits(g, state.dis.params)).mean())(state.gen.params),
        ]

    for moved, expected in zip(moves(state), gradients(state), strict=True):
        assert_close(moved, expected, rtol=1e-3, atol=1e-6)


def test_the_step_is_traced_once(monkeypatch):
    from ganjax.training import parallel

    traces = []
    step = parallel.train_step
    monkeypatch.setattr(parallel, "train_step", lambda *args: traces.append(1) or step(*args))
    run_steps(points_config(), steps=6, devices=2)
    assert len(traces) == 1


@pytest.mark.parametrize("points", [False, True])
def test_an_update_is_one_all_reduce_of_its_gradients(points):
    """Nothing else crosses devices: neither u and v nor the average of G; a few metrics ride along."""
    made, text = compiled_step(
        points_config() if points else small_config(gen__norm="pixel", gen__spectral_norm=True)
    )
    found = re.findall(r"= (.+?) (all-[a-z-]+|reduce-scatter|collective-[a-z-]+)\(", text)
    assert [kind for _, kind in found] == ["all-reduce", "all-reduce"]
    sizes = [int(re.fullmatch(r"f32\[(\d+)\]\S*", shape)[1]) for shape, _ in found]
    for net, size in zip(("dis", "gen"), sizes, strict=True):
        metrics = size - count_parameters(getattr(made.shapes(), net).params)
        assert 0 < metrics < 16


def test_the_compiled_step_keeps_to_float32_the_device_and_its_donated_buffers():
    """No float64, nothing asked of the host, and the whole state written where it lay."""
    made, text = compiled_step(points_config(dis__spectral_norm=True))
    assert "f64[" not in text
    assert not re.search(r"callback|infeed|outfeed|host_compute", text)
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", text)[1]
    unread = 2  # the optimisers' last learning rates
    assert len(re.findall(r"(?:may|must)-alias", aliases)) == len(jax.tree.leaves(made.shapes())) - unread


def compiled_step(config):
    """The build, and the HLO of its step on two devices."""
    from small import small_dataset

    from ganjax.training import parallel
    from ganjax.training.build import build

    dataset = small_dataset(config.model.name == "mlp")
    made = build(config, dataset)
    share = config.train.batch_size // 2

    def one(state, data, device):
        index = device * share + jax.numpy.arange(share, dtype=jax.numpy.int32)
        return parallel.train_step(made.gan, state, made.make_batch(data, state.seed, state.step, index))

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (dataset.images, dataset.labels))
    mapped = parallel.map_over_devices(one, jax.devices()[:2], "shard_map")
    numbers = jax.ShapeDtypeStruct((2,), jax.numpy.int32)
    return made, mapped.lower(made.shapes(), shapes, numbers).compile().as_text()


def test_fresh_reals_are_the_next_ones_and_g_is_paired_with_them():
    reals, weights = np.random.default_rng(0).normal(size=(64, 2)), np.array([0.7, -1.2])
    fixed = {"dis__optimizer__learning_rate": 0.0, "loss__name": "rp_non_saturating"}
    toy = Toy(reals, [0.3, 0.1], weights, train__fresh_reals=True, train__gen_steps=2, **fixed)
    toy_reals = toy.build.make_batch(
        (jax.numpy.asarray(reals, np.float32), None), toy.first.seed, toy.first.step, jax.numpy.arange(64)
    ).reals[0]
    assert toy_reals.shape == (3, 64, 2)
    order = [tuple(map(float, x)) for x in np.asarray(toy_reals).reshape(-1, 2)]
    assert len(set(order[:64])) == len(set(order[64:128])) == 64 and order[:64] != order[64:128]
    _, rows = toy.run(1)
    first, last = np.asarray(toy_reals, np.float64)[[0, 2]] @ weights
    softplus = lambda x: np.log1p(np.exp(x)).mean()
    assert rows[0]["dis/adversarial"] == pytest.approx(
        softplus(np.array([0.3, 0.1]) @ weights - first), rel=1e-4
    )
    gen = np.asarray(toy.first.gen.params["image"], np.float64)
    second = np.asarray(toy_reals, np.float64)[1] @ weights
    slope = lambda image, real: -(1 / (1 + np.exp(image @ weights - real))).mean() * weights
    gen = gen - rows[0]["lr/gen"] * slope(gen, second)
    assert rows[0]["gen/adversarial"] == pytest.approx(softplus(last - gen @ weights), rel=1e-4)
