"""Losses: PyTorch's values, the properties that define each family, and one device against two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from paths import ORACLE_FILES

from ganjax.losses.adversarial import LOSSES, flip_labels, scaled

ORACLE = np.load(ORACLE_FILES / "losses_torch.npz")
RELATIVISTIC = [name for name, loss in LOSSES.items() if loss.needs_reals]
WITH_TARGETS = [name for name, loss in LOSSES.items() if loss.has_targets]
SMOOTHED = [name + "/smooth" for name in WITH_TARGETS]


def player(name, who, **options):
    loss = LOSSES[name.removesuffix("/smooth")]
    if who == "dis" and name.endswith("/smooth"):
        options["smoothing"] = 0.1
    return partial(getattr(loss, who), **options)


def logits(seed=0, n=8):
    draws = np.random.RandomState(seed)
    return jnp.asarray(draws.randn(n), jnp.float32), jnp.asarray(draws.randn(n), jnp.float32)


@pytest.mark.parametrize(
    ("who", "name"), [tuple(key.split("/", 1)) for key in ORACLE.files if "/d_" not in key and "/" in key]
)
def test_values_and_gradients_are_pytorchs(who, name):
    fn = player(name, who)
    with jax.enable_x64(True):
        real, fake = jnp.asarray(ORACLE["real"]), jnp.asarray(ORACLE["fake"])
        np.testing.assert_allclose(fn(real, fake), ORACLE[f"{who}/{name}"], rtol=1e-10)
        grads = jax.grad(lambda r, f: jnp.mean(fn(r, f)), argnums=(0, 1))(real, fake)
    for side, grad in zip(("real", "fake"), grads, strict=True):
        np.testing.assert_allclose(grad, ORACLE[f"{who}/{name}/d_{side}"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("who", ["dis", "gen"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_are_float32_per_example(name, who):
    real, fake = logits()
    for dtype in (jnp.float32, jnp.bfloat16):
        values = player(name, who)(real.astype(dtype), fake.astype(dtype))
        assert values.shape == (8,) and values.dtype == jnp.float32


@pytest.mark.parametrize("who", ["dis", "gen"])
@pytest.mark.parametrize("name", [*LOSSES, *SMOOTHED])
def test_extreme_logits_have_finite_values_and_gradients(name, who):
    real = jnp.array([1e4, 1e4, -1e4, -1e4, 0.0], jnp.float32)
    fake = jnp.array([1e4, -1e4, 1e4, -1e4, 0.0], jnp.float32)
    total = lambda r, f: jnp.mean(player(name, who)(r, f))
    value, grads = jax.value_and_grad(total, argnums=(0, 1))(real, fake)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_moves_the_logits_the_right_way(name):
    """A D that is wrong raises r and lowers f; a G whose fakes are seen through raises f."""
    low, high = jnp.full((4,), -2.0, jnp.float32), jnp.full((4,), 2.0, jnp.float32)
    total = lambda who: lambda r, f: jnp.mean(player(name, who)(r, f))
    d_real, d_fake = jax.grad(total("dis"), argnums=(0, 1))(low, high)
    assert (d_real < 0).all() and (d_fake > 0).all()
    assert (jax.grad(total("gen"), argnums=1)(high, low) < 0).all()


@pytest.mark.parametrize("who", ["dis", "gen"])
@pytest.mark.parametrize("name", [*LOSSES, *SMOOTHED])
def test_gradients_are_finite_differences(name, who):
    """For those without an oracle too."""
    with jax.enable_x64(True):
        real, fake = (x.astype(jnp.float64) for x in logits(3))
        direction = 0.7 * jnp.arange(8, dtype=jnp.float64)
        total = lambda t: jnp.mean(player(name, who)(real + t, fake - t * direction))
        np.testing.assert_allclose(
            (total(1e-6) - total(-1e-6)) / 2e-6, jax.grad(total)(jnp.float64(0)), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize("who", ["dis", "gen"])
@pytest.mark.parametrize("name", LOSSES)
def test_only_relativistic_losses_ignore_a_common_shift(name, who):
    real, fake = logits()
    fn = player(name, who)
    moved = fn(real + 3.0, fake + 3.0)
    same = np.allclose(moved, fn(real, fake), atol=1e-5)
    assert same == (name in RELATIVISTIC or (name, who) == ("wasserstein", "dis"))


@pytest.mark.parametrize("name", LOSSES)
def test_needs_reals_says_whether_g_depends_on_them(name):
    real, fake = logits()
    if LOSSES[name].needs_reals:
        with pytest.raises(ValueError, match="needs the logits of reals"):
            LOSSES[name].gen(None, fake)
        # G plays D's game with the roles swapped
        np.testing.assert_array_equal(LOSSES[name].gen(real, fake), LOSSES[name].dis(fake, real))
    else:
        np.testing.assert_array_equal(LOSSES[name].gen(None, fake), LOSSES[name].gen(real, fake))


def test_the_two_goodfellow_losses_differ_for_g_alone():
    real, fake = logits()
    minimax, non_saturating = LOSSES["minimax"], LOSSES["non_saturating"]
    np.testing.assert_array_equal(minimax.dis(real, fake), non_saturating.dis(real, fake))
    np.testing.assert_allclose(minimax.gen(None, fake) + non_saturating.gen(None, fake), -fake, atol=1e-6)
    sure = jnp.array([-10.0], jnp.float32)  # D is sure of this fake
    slope = lambda loss: jax.grad(lambda f: loss.gen(None, f)[0])(sure)[0]
    assert -1e-4 < slope(minimax) < 0 and slope(non_saturating) < -0.999


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_the_optimal_d_under_smoothing(name):
    """D* = a·p/(p + q): at that logit the expected gradient vanishes (Salimans et al. 2016, sec. 3.4)."""
    p, q, smoothing = 0.7, 0.2, 0.1
    best = (1 - smoothing) * p / (p + q)
    logit = jnp.array([np.log(best / (1 - best))], jnp.float32)
    fn = player(name, "dis", smoothing=smoothing)
    d_real, d_fake = jax.grad(lambda r, f: jnp.sum(fn(r, f)), argnums=(0, 1))(logit, logit)
    np.testing.assert_allclose(p * d_real + q * d_fake, 0.0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_is_for_losses_with_targets(name):
    real, fake = logits()
    if LOSSES[name].has_targets:
        traced = jax.jit(lambda s: LOSSES[name].dis(real, fake, smoothing=s))
        plain = LOSSES[name].dis(real, fake)
        np.testing.assert_allclose(traced(jnp.float32(0)), plain, rtol=1e-6)
        assert not np.allclose(traced(jnp.float32(0.1)), plain)
    else:
        with pytest.raises(ValueError, match="minimax, non_saturating, least_squares"):
            LOSSES[name].dis(real, fake, smoothing=0.1)


@pytest.mark.parametrize("name", LOSSES)
def test_logits_that_would_broadcast_are_refused(name):
    real, fake = logits()
    with pytest.raises(ValueError, match=r"\[N\]"):
        LOSSES[name].dis(real, fake.reshape(-1, 1))
    with pytest.raises(ValueError, match=r"\[N\]"):
        LOSSES[name].gen(real, fake.reshape(-1, 1))


@pytest.mark.parametrize("name", LOSSES)
def test_scaling_the_logits(name):
    real, fake = logits()
    plain, tiny = LOSSES[name], scaled(LOSSES[name], 1e-3)
    np.testing.assert_array_equal(scaled(plain, 1.0).dis(real, fake), plain.dis(real, fake))
    np.testing.assert_allclose(
        scaled(plain, jnp.float32(3)).gen(real, fake) * 3, plain.gen(3 * real, 3 * fake), rtol=1e-5
    )
    # where the scale is small only the slope at 0 is left (least squares and hinge are not smooth or far from 0)
    grads = lambda loss, r, f: jax.grad(lambda r, f: jnp.sum(loss.dis(r, f)), argnums=(0, 1))(r, f)
    zero = jnp.zeros_like(real)
    for scaled_grad, at_zero in zip(grads(tiny, real, fake), grads(plain, zero, zero), strict=True):
        np.testing.assert_allclose(scaled_grad, at_zero, atol=5e-3)
    with pytest.raises(ValueError, match="logit_scale"):
        scaled(plain, 0.0)


def test_flipped_labels_swap_pairs():
    real, fake = logits(n=2000)
    keys = jax.random.split(jax.random.key(0), 2000)
    for probability, expected in ((0.0, (real, fake)), (1.0, (fake, real))):
        for got, want in zip(flip_labels(keys, real, fake, probability), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    new_real, new_fake = jax.jit(flip_labels)(keys, real, fake, jnp.float32(0.1))
    swapped = new_real == fake
    np.testing.assert_array_equal(new_fake, jnp.where(swapped, real, fake))
    np.testing.assert_array_equal(new_real, jnp.where(swapped, fake, real))
    assert abs(float(swapped.mean()) - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


@pytest.mark.parametrize("mapper", ["pmap", "shard_map"])
@pytest.mark.parametrize("who", ["dis", "gen"])
@pytest.mark.parametrize("name", [n for n in LOSSES if n.startswith("ra_")])
def test_two_devices_equal_one(name, who, mapper):
    """Values, and the averaged gradient of a parameter both sides depend on, as the step takes it."""
    real, fake = logits(n=8)

    def step(weight, real, fake, axis_name=None):
        def total(weight):
            values = player(name, who)(real * weight, jnp.tanh(fake * weight), axis_name=axis_name)
            return jnp.mean(values), values

        grad, values = jax.grad(total, has_aux=True)(weight)
        return values, grad if axis_name is None else jax.lax.pmean(grad, axis_name)

    values, grad = step(jnp.float32(0.7), real, fake)
    devices, parallel = jax.devices()[:2], partial(step, axis_name="i")
    if mapper == "pmap":
        run = jax.pmap(parallel, "i", in_axes=(None, 0, 0), out_axes=(0, None), devices=devices)
        got, got_grad = run(jnp.float32(0.7), real.reshape(2, 4), fake.reshape(2, 4))
    else:
        mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,), devices=devices)
        each, same = PartitionSpec("i"), PartitionSpec()
        run = jax.shard_map(
            parallel, mesh=mesh, in_specs=(same, each, each), out_specs=(each, same), check_vma=False
        )
        got, got_grad = jax.jit(run)(jnp.float32(0.7), real, fake)
    np.testing.assert_allclose(np.asarray(got).reshape(-1), values, rtol=1e-5)
    np.testing.assert_allclose(got_grad, grad, rtol=1e-5)
