"""Penalties: closed forms, PyTorch's double backward, finite differences, and one device against two."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from paths import ORACLE_FILES
from small import run_steps, small_config
from toy import Toy

from ganjax.losses import penalties, terms
from ganjax.losses.objective import Plain
from ganjax.losses.penalties import PENALTIES
from ganjax.models.dcgan import DCGANDiscriminator
from ganjax.runtime.keys import Stream, image_keys, stream_keys, update_number
from ganjax.training.optim import make_progress

ORACLE = np.load(ORACLE_FILES / "penalties_torch.npz")


def points(seed=0, n=6):
    draws = np.random.RandomState(seed)
    return (jnp.asarray(draws.randn(n, 2), jnp.float32),)


def linear(images):
    """Slope (3, 4) everywhere: a gradient of norm 5."""
    return images[0] @ jnp.array([3.0, 4.0], jnp.float32)


def quadratic(images):
    """½‖x‖²: the gradient is x."""
    return 0.5 * jnp.sum(jnp.square(images[0]), axis=1)


FORMS = {
    # of the norms of D's gradient
    "r1": lambda norm: norm**2 / 2,
    "r2": lambda norm: norm**2 / 2,
    "r1_r2": lambda norm: norm**2,
    "wgan_gp": lambda norm: (norm - 1) ** 2,
    "wgan_gp_one_sided": lambda norm: np.maximum(norm - 1, 0) ** 2,
    "dragan": lambda norm: (norm - 1) ** 2,
}


def convolution(x, kernel, stride=1):
    padding = ((1, 1), (1, 1)) if kernel.shape[0] == 3 else "VALID"
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=dimensions)


def conv_dis(params, images):
    """The D of oracles/penalties_torch.py."""
    coarse, fine = images
    x = jax.nn.softplus(convolution(fine, params["first"]))
    x = convolution(x, params["second"], stride=2) + convolution(coarse, params["join"])
    return jnp.sum(jax.nn.softplus(x), axis=(1, 2)) @ params["last"]


def oracle():
    """(params, reals, fakes, noise) of the stored case."""
    get = lambda name: jnp.asarray(ORACLE[name])
    params = {name: get(f"params/{name}") for name in ("first", "second", "join", "last")}
    return params, *((get(f"{name}4"), get(f"{name}8")) for name in ("real", "fake", "noise"))


def penalty_of(name, dis, reals, fakes, keys, *, axis_name=None):
    """Returns the penalty [N] of a D that sees images as they are."""
    shown = {"plain_reals": Plain(reals, dis), "plain_fakes": Plain(fakes, dis)}
    inputs = SimpleNamespace(dis=dis, reals=reals, fakes=fakes, keys=keys, axis_name=axis_name, **shown)
    return PENALTIES[name](inputs)


def stored_penalty(name, params, reals, fakes, noise):
    dis = partial(conv_dis, params)
    alphas = jnp.asarray(ORACLE["alphas"])
    return {
        "r1": lambda: penalties.r1(dis, reals),
        "r2": lambda: penalties.r2(dis, fakes),
        "wgan_gp": lambda: penalties.wgan_gp(dis, reals, fakes, alphas),
        "wgan_gp_one_sided": lambda: penalties.wgan_gp(dis, reals, fakes, alphas, one_sided=True),
        "dragan": lambda: penalties.dragan(dis, reals, noise),
    }[name]()


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "r1_r2"])
def test_values_and_parameter_gradients_are_pytorchs(name):
    with jax.enable_x64(True):
        params, *images = oracle()

        def total(params):
            values = stored_penalty(name, params, *images)
            return jnp.mean(values), values

        grads, values = jax.grad(total, has_aux=True)(params)
        np.testing.assert_allclose(values, ORACLE[name], rtol=1e-9)
        for key, grad in grads.items():
            np.testing.assert_allclose(grad, ORACLE[f"{name}/d_{key}"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_parameter_gradients_are_finite_differences(name):
    with jax.enable_x64(True):
        draws = np.random.RandomState(2)
        weights, direction = jnp.asarray(draws.randn(2, 2, 5)), jnp.asarray(draws.randn(2, 2, 5))
        reals, fakes = (tuple(jnp.asarray(draws.randn(4, 2)) for _ in range(2)) for _ in range(2))
        keys = jax.random.split(jax.random.key(1), 4)

        def dis(weights, images):
            return jnp.sum(jnp.tanh(images[0] @ weights[0] + jnp.square(images[1]) @ weights[1]), axis=1)

        def total(weights):
            return jnp.mean(penalty_of(name, partial(dis, weights), reals, fakes, keys))

        value_and_grad = jax.jit(jax.value_and_grad(total))
        ahead, behind = (value_and_grad(weights + t * direction)[0] for t in (1e-5, -1e-5))
        slope = jnp.sum(value_and_grad(weights)[1] * direction)
        np.testing.assert_allclose((ahead - behind) / 2e-5, slope, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_uniform_shape(name):
    """Float32 [N], deterministic in the keys, jittable, each image by its own key."""
    reals, fakes, keys = points(0), points(1), jax.random.split(jax.random.key(1), 6)
    run = jax.jit(lambda r, f, k: penalty_of(name, quadratic, r, f, k))
    values = run(reals, fakes, keys)
    assert values.shape == (6,) and values.dtype == jnp.float32 and (values >= 0).all()
    if name != "dragan":  # whose noise scales with the batch
        back = run((reals[0][::-1],), (fakes[0][::-1],), keys[::-1])
        np.testing.assert_allclose(back, values[::-1], rtol=1e-5)


def test_closed_forms_on_a_linear_and_a_quadratic_d():
    reals, fakes = points(0), points(1)
    keys = jax.random.split(jax.random.key(0), 6)
    for name, form in FORMS.items():
        np.testing.assert_allclose(
            penalty_of(name, linear, reals, fakes, keys), np.full(6, form(5.0)), rtol=1e-4
        )
    squared_norm = np.sum(np.square(reals[0]), axis=1)
    np.testing.assert_allclose(penalties.r1(quadratic, reals), squared_norm / 2, rtol=1e-6)
    for alpha, end in ((0.0, reals), (1.0, fakes)):
        alphas = jnp.full((6,), alpha, jnp.float32)
        norm = np.linalg.norm(end[0], axis=1)
        got = penalties.wgan_gp(quadratic, reals, fakes, alphas)
        np.testing.assert_allclose(got, (norm - 1) ** 2, atol=1e-3)
        got = penalties.wgan_gp(quadratic, reals, fakes, alphas, one_sided=True)
        np.testing.assert_allclose(got, np.maximum(norm - 1, 0) ** 2, atol=1e-3)
        got = penalties.wgan_gp(quadratic, reals, fakes, alphas, target=750.0)
        np.testing.assert_allclose(got, (norm / 750 - 1) ** 2, atol=1e-3)


def test_penalties_are_means_over_scales():
    """A D that adds up scales with slopes 1 and 2: R1 = ½·(1 + 4)/2, GP = (0 + 1)/2."""
    images = (*points(0), *points(1))
    dis = lambda x: x[0][:, 0] + 2.0 * x[1][:, 1]
    norms = penalties.gradient_norms_squared(dis, images)
    np.testing.assert_allclose(norms, [np.full(6, 1.0), np.full(6, 4.0)])
    np.testing.assert_allclose(penalties.r1(dis, images), np.full(6, 1.25))
    alphas = jnp.full((6,), 0.5, jnp.float32)
    np.testing.assert_allclose(penalties.wgan_gp(dis, images, images, alphas), np.full(6, 0.5), rtol=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_is_the_mean_of_its_form_over_scales(name):
    """A linear D of images of 2, 4 and 8 pixels with gradients of norm ½, 2 and 5 there."""
    draws = np.random.RandomState(0)
    images = lambda: tuple(jnp.asarray(draws.randn(6, side, side, 3), jnp.float32) for side in (2, 4, 8))
    norms = (0.5, 2.0, 5.0)
    slopes = [
        slope[:1] * norm / np.linalg.norm(slope[0]) for slope, norm in zip(images(), norms, strict=True)
    ]

    def dis(images):
        return sum(jnp.sum(x * slope, axis=(1, 2, 3)) for x, slope in zip(images, slopes, strict=True))

    got = penalty_of(name, dis, images(), images(), jax.random.split(jax.random.key(0), 6))
    np.testing.assert_allclose(got, np.full(6, np.mean([FORMS[name](n) for n in norms])), rtol=1e-4)


def test_gradients_through_the_real_d_are_finite_differences(monkeypatch):
    """Spectral norm, minibatch stddev and discrimination, two scales: all of it twice differentiated, in float64."""
    tricks = {"spectral": 1, "minibatch_stddev": True, "minibatch_discrimination": 2}
    dis = DCGANDiscriminator(8, width=3, msg="simple", **tricks, dtype=jnp.float64)
    draws = np.random.RandomState(0)
    reals, fakes, noise = (
        tuple(draws.uniform(-1, 1, (4, side, side, 1)) for side in (4, 8)) for _ in range(3)
    )
    alphas = draws.uniform(size=4)
    with jax.enable_x64(True):
        # The networks keep parameters, σ and statistics in float32: let that be float64 here.
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        reals, fakes, noise, alphas = jax.tree.map(jnp.asarray, (reals, fakes, noise, alphas))
        shapes = jax.eval_shape(lambda: dis.init(jax.random.key(0), reals, train=True))
        variables = jax.tree.map(lambda x: jnp.asarray(0.3 * draws.randn(*x.shape)), dict(shapes))
        # Any vectors u and v make σ a differentiable function of the kernel; here, of the size of a true one.
        stats = {"spectral": jax.tree.map(lambda u: u / jnp.linalg.norm(u), variables["spectral"])}
        params = variables["params"]
        direction = jax.tree.map(lambda x: jnp.asarray(draws.randn(*x.shape)), params)

        def of(name, params):
            closure = lambda images: dis.apply({"params": params, **stats}, images, train=True)
            return jnp.mean(
                {
                    "r1": lambda: penalties.r1(closure, reals),
                    "r2": lambda: penalties.r2(closure, fakes),
                    "r1_r2": lambda: penalties.r1(closure, reals) + penalties.r2(closure, fakes),
                    "wgan_gp": lambda: penalties.wgan_gp(closure, reals, fakes, alphas),
                    "wgan_gp_one_sided": lambda: penalties.wgan_gp(
                        closure, reals, fakes, alphas, one_sided=True, target=1e-3
                    ),
                    "dragan": lambda: penalties.dragan(closure, reals, noise),
                }[name]()
            )

        @jax.jit
        def values(t):
            moved = jax.tree.map(lambda x, d: x + t * d, params, direction)
            return {name: of(name, moved) for name in PENALTIES}

        @jax.jit
        def slopes(params):
            grads = {name: jax.grad(partial(of, name))(params) for name in PENALTIES}
            dot = lambda grad: sum(
                jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), grad, direction))
            )
            return {name: dot(grad) for name, grad in grads.items()}

        ahead, behind, expected = values(1e-6), values(-1e-6), slopes(params)
        for name in PENALTIES:
            assert ahead[name].dtype == jnp.float64 and abs(expected[name]) > 1e-3 * ahead[name]
            np.testing.assert_allclose((ahead[name] - behind[name]) / 2e-6, expected[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["dragan", pytest.param("r1_r2", marks=pytest.mark.slow)])
def test_penalties_move_d_alike_on_one_device_and_on_two(name):
    """With all that ties the examples of a batch together, in groups that either device holds whole."""
    config = small_config(
        model__msg="none",
        gen__width=1,
        dis__width=4,
        train__batch_size=32,
        penalty__name=name,
        penalty__weight=5.0,
        dis__minibatch_discrimination=2,
        gen__norm="none",
        gen__optimizer__name="sgd",
        dis__optimizer__name="sgd",
        dis__optimizer__learning_rate=0.1,
    )
    (_, one, rows), (_, two, others) = (run_steps(config, devices=n, steps=1) for n in (1, 2))
    assert rows[0]["dis/penalty"] == pytest.approx(others[0]["dis/penalty"], rel=1e-4)
    assert rows[0]["grad_norm/dis"] > 0.1  # times the rate it is what the parameters moved by
    for a, b in zip(*(jax.tree.leaves(state.dis.params) for state in (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("packing", [1, 2])
@pytest.mark.parametrize("name", ["r1", "r2", "wgan_gp"])
def test_r1_and_r2_are_taken_before_the_augmentation(name, packing):
    """Of a linear D: ½‖Tᵀw‖², T the augmentation of an image; WGAN-GP asks D itself, whose gradient is w."""
    reals, fake = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)), np.full((8, 8, 1), 0.3)
    weights = np.random.default_rng(1).normal(size=64 * packing) * 0.5
    options = {"augment__policy": "color,translation,cutout", "noise__std": 0.1, "dis__packing": packing}
    toy = Toy(reals, fake, weights, penalty__name=name, **options)
    _, rows = toy.run(1)
    w = jnp.asarray(weights, jnp.float32).reshape(8, 8, packing)
    of_each = jnp.tile(jnp.moveaxis(w, -1, 0)[..., None], (8 // packing, 1, 1, 1))
    of_images = image_keys(toy.first.seed, toy.first.step, update_number("dis", 0), jnp.arange(8))
    keys = stream_keys(of_images, Stream.REALS if name == "r1" else Stream.FAKES)
    images = (jnp.asarray(reals, jnp.float32),)
    shown = lambda x: jnp.sum(toy.gan.transform(keys, (x,), toy.first)[0] * of_each)
    before = 0.5 * np.square(jax.grad(shown)(images[0])).sum() / (8 // packing)
    at_inputs = (np.sqrt(np.square(weights).sum() + 1e-4) - 1) ** 2
    assert not np.isclose(before, 0.5 * np.square(weights).sum(), rtol=0.03)
    expected = at_inputs if name == "wgan_gp" else before
    assert rows[0]["dis/penalty"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_flat_d_has_finite_gradients(name):
    """Without the 1e-4 inside the root, the gradient of ‖∇D‖ at 0 is not a number."""
    reals, keys = points(), jax.random.split(jax.random.key(0), 6)
    total = lambda w: jnp.mean(penalty_of(name, lambda x: x[0] @ w, reals, reals, keys))
    assert np.isfinite(jax.grad(total)(jnp.zeros((2,), jnp.float32))).all()


def test_what_is_no_tuple_or_no_logit_is_refused():
    with pytest.raises(ValueError, match="tuple"):
        penalties.r1(linear, points()[0])
    with pytest.raises(ValueError, match=r"\(6,\)"):
        penalties.r1(lambda x: x[0], points())


def test_penalty_keys_draw_an_alpha_per_image_uniformly():
    """With D = ½‖x‖², reals at 0 and fakes at (10, 0), the penalty gives α away."""
    n = 2000
    reals = (jnp.zeros((n, 2), jnp.float32),)
    fakes = (jnp.tile(jnp.array([[10.0, 0.0]], jnp.float32), (n, 1)),)
    values = penalty_of("wgan_gp", quadratic, reals, fakes, jax.random.split(jax.random.key(0), n))
    above = np.sort((1 + np.sqrt(values[values > 1])) / 10)  # norms above 2, of which α > .2 remains
    assert abs(above.size / n - 0.8) < 0.04
    np.testing.assert_allclose(above.mean(), 0.6, atol=0.02)


def test_dragan_perturbs_by_half_the_deviation_of_the_batch():
    """With D = ½‖x‖² the gradient is the perturbed point itself."""
    reals = (3.0 * points()[0] + 7.0,)
    noise = points(3)
    point = reals[0] + 0.5 * np.std(reals[0]) * noise[0]
    expected = np.square(np.linalg.norm(point, axis=1) - 1)
    np.testing.assert_allclose(penalties.dragan(quadratic, reals, noise), expected, rtol=1e-4)


@pytest.mark.parametrize("mapper", ["pmap", "shard_map"])
@pytest.mark.parametrize("name", ["wgan_gp", "dragan"])  # by their keys, by the batch's deviation
def test_two_devices_equal_one(name, mapper):
    reals, fakes = points(0, 8), points(1, 8)
    keys = jax.random.split(jax.random.key(0), 8)
    penalty = partial(penalty_of, name, quadratic)
    expected = penalty(reals, fakes, keys)
    devices, parallel = jax.devices()[:2], partial(penalty, axis_name="i")
    if mapper == "pmap":
        split = lambda tree: jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), tree)
        got = jax.pmap(parallel, "i", devices=devices)(split(reals), split(fakes), split(keys))
    else:
        mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,), devices=devices)
        each = PartitionSpec("i")
        run = jax.shard_map(parallel, mesh=mesh, in_specs=each, out_specs=each, check_vma=False)
        got = jax.jit(run)(reals, fakes, keys)
    np.testing.assert_allclose(np.asarray(got).reshape(-1), expected, rtol=1e-5)


def test_the_rest_are_their_formulas():
    logits = jnp.array([-2.0, 0.5, 3.0], jnp.float32)
    np.testing.assert_array_equal(penalties.drift(logits), [4.0, 0.25, 9.0])
    np.testing.assert_array_equal(penalties.consistency(logits, logits - 1.0), np.ones(3))
    tree = {"a": jnp.array([-1.0, 0.005, 1.0], jnp.float32), "b": (jnp.float32(0.02),)}
    clipped = penalties.clip_weights(tree, 0.01)
    np.testing.assert_allclose(clipped["a"], [-0.01, 0.005, 0.01])
    np.testing.assert_allclose(clipped["b"][0], 0.01)


def test_lecam_anchors_each_side_at_the_others_average():
    real, fake = jnp.array([2.0, -2.0], jnp.float32), jnp.array([-1.0, 3.0], jnp.float32)
    ema_real, ema_fake = jnp.float32(1.0), jnp.float32(-0.5)
    np.testing.assert_allclose(penalties.lecam(real, fake, ema_real, ema_fake), [2.5**2 + 2.0**2, 0.0])
    emas = (jnp.float32(0), jnp.float32(0))
    for _ in range(3):
        emas = penalties.lecam_update(emas, jnp.float32(2), jnp.float32(-4))
    np.testing.assert_allclose(emas, [2 * (1 - 0.99**3), -4 * (1 - 0.99**3)], rtol=1e-4)


def test_a_falling_penalty_goes_from_all_of_it_to_its_final_share_and_stays_there():
    term = terms.falling(lambda r: jnp.full(3, 2.0), make_progress("linear", steps=8, end=0.5), 0.25)
    for step, factor in ((0, 1.0), (1, 0.8125), (2, 0.625), (4, 0.25), (8, 0.25)):
        np.testing.assert_allclose(term(SimpleNamespace(step=jnp.asarray(step))), np.full(3, 2 * factor))
