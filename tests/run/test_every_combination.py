"""Every loss × penalty × MSG × spectral norm trains for 20 steps without a NaN, or is refused with its reason.

A program for each of the 378 GANs would take an hour to compile. A GAN's loss and penalty are terms of its
objectives, so the games of one MSG and one spectral norm differ in nothing else: one program holds the terms of all
of them and picks by two numbers in `hyper`. `test_a_chosen_game_is_the_game` holds that to the plain program.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config, small_dataset

from ganjax.config.options import BY_KEY
from ganjax.config.rules import RULES
from ganjax.losses.objective import LossInputs, Objective
from ganjax.runtime.errors import UserError
from ganjax.training.build import Build, build
from ganjax.training.step import train_step

LOSSES = [str(name) for name in BY_KEY["loss.name"].choices]
PENALTIES = [str(name) for name in BY_KEY["penalty.name"].choices]
CLIP = "clip_weights"  # WGAN's first answer to the Lipschitz constraint: a row of its own
MSG = ["none", "simple"]
SPECTRAL = ["off", "dis", "both"]
STEPS = 20
# Most of the time is compilation: XLA may leave out what only makes programs fast.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# The combinations of the table that `config.check` refuses: all others train.
REFUSED = {
    (loss, CLIP, msg, spectral)
    for loss in LOSSES
    for msg in MSG
    for spectral in SPECTRAL
    if spectral != "off"
}


def config_of(loss: str, penalty: str, msg: str, spectral: str, **options: Any) -> Any:
    return small_config(
        model__latent_dim=4,
        model__msg=msg,
        gen__width=4,
        gen__spectral_norm=spectral == "both",
        dis__width=4,
        dis__spectral_norm=spectral != "off",
        dis__minibatch_stddev=False,
        train__batch_size=8,
        loss__name=loss,
        penalty__name="none" if penalty == CLIP else penalty,
        penalty__weight=10.0,
        penalty__clip_weights=0.01 if penalty == CLIP else 0.0,
        **options,
    )


def test_what_is_refused_says_why() -> None:
    reason = next(rule.reason for rule in RULES if rule.keys == ("penalty.clip_weights", "dis.spectral_norm"))
    found = set()
    for combination in itertools.product(LOSSES, [*PENALTIES, CLIP], MSG, SPECTRAL):
        try:
            config_of(*combination)
        except UserError as error:
            assert reason in str(error), combination
            found.add(combination)
    assert found == REFUSED


def pick(objectives: list[Objective], term: str, key: str) -> Any:
    """The term of the objective whose number is `hyper[key]`; 0 where that one has no such term."""
    zero = lambda r: jnp.zeros((), jnp.float32)

    def chosen(r: LossInputs) -> jax.Array:
        terms = [objective.terms.get(term, zero) for objective in objectives]
        return jax.lax.switch(r.hyper[key], [lambda t=t: jnp.mean(t(r)) for t in terms])

    return chosen


def all_in_one(builds: dict[tuple[str, str], Build]) -> Any:
    """The GAN whose loss and penalty are those of the build with the numbers in `hyper`."""
    any_penalty = next(penalty for _, penalty in builds)
    by_loss = [builds[loss, any_penalty].gan for loss in LOSSES]
    by_penalty = [made.gan for (loss, _), made in builds.items() if loss == LOSSES[0]]
    dis = [gan.dis.objective for gan in by_loss]
    gen = [gan.gen.objective for gan in by_loss]
    dis_objective = Objective(
        {
            "adversarial": pick(dis, "adversarial", "table/loss"),
            "penalty": pick([gan.dis.objective for gan in by_penalty], "penalty", "table/penalty"),
        },
        {"penalty": "penalty/weight"},
    )
    gen_objective = Objective(
        {"adversarial": pick(gen, "adversarial", "table/loss")},
        {},
        needs_reals=any(objective.needs_reals for objective in gen),
    )
    first = by_loss[0]
    return dataclasses.replace(
        first,
        gen=dataclasses.replace(first.gen, objective=gen_objective),
        dis=dataclasses.replace(first.dis, objective=dis_objective),
    )


def compiled(gan: Any, made: Build, state: Any) -> Any:
    dataset = small_dataset()
    data = (jnp.asarray(dataset.images), None)
    index = jnp.arange(8, dtype=jnp.int32)
    step = jax.jit(
        lambda s: train_step(gan, s, made.make_batch(data, s.seed, s.step, index)), compiler_options=QUICK
    )
    return step.lower(state).compile()


@cache
def first_state(msg: str, spectral: str) -> Any:
    return build(config_of("hinge", "none", msg, spectral), small_dataset(), axis_name=None).init()


def with_choice(state: Any, loss: int, penalty: int) -> Any:
    numbers = {"table/loss": jnp.int32(loss), "table/penalty": jnp.int32(penalty)}
    weight = {"penalty/weight": jnp.float32(10)}
    return dataclasses.replace(state, hyper={**state.hyper, **numbers, **weight})


def assert_sound(first: Any, last: Any, rows: list[dict[str, Any]], where: Any) -> None:
    """Nothing is NaN, no fault was noted, and both networks moved."""
    for name in rows[0]:
        assert np.isfinite([row[name] for row in rows]).all(), (where, name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(last):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert np.isfinite(leaf).all(), (where, jax.tree_util.keystr(path))
    assert last.control["fault/dis"] == last.control["fault/gen"] == -1, where
    assert last.step == len(rows)
    for net in ("gen", "dis"):
        before, after = (jax.tree.leaves(getattr(state, net).params) for state in (first, last))
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), (where, net)


# The quick two hold every loss with every penalty, both MSG, and spectral norm off and in D.
@pytest.mark.parametrize(
    ("msg", "spectral"),
    [
        pytest.param(m, s, marks=[] if (m, s) in (("none", "off"), ("simple", "dis")) else pytest.mark.slow)
        for m, s in itertools.product(MSG, SPECTRAL)
    ],
)
def test_every_loss_trains_with_every_penalty(msg: str, spectral: str) -> None:
    builds = {
        (loss, penalty): build(config_of(loss, penalty, msg, spectral), small_dataset(), axis_name=None)
        for loss, penalty in itertools.product(LOSSES, PENALTIES)
    }
    first = first_state(msg, spectral)
    step = compiled(all_in_one(builds), builds["hinge", "none"], with_choice(first, 0, 0))
    for (i, loss), (j, penalty) in itertools.product(enumerate(LOSSES), enumerate(PENALTIES)):
        state, rows = with_choice(first, i, j), []
        for _ in range(STEPS):
            state, metrics = step(state)
            rows.append(metrics)
        state, rows = jax.device_get((state, rows))
        assert_sound(jax.device_get(first), state, rows, (loss, penalty))
        costs = any(row["dis/penalty"] > 0 for row in rows)
        # The one-sided penalty is 0 while D is flatter than its target.
        assert costs == (penalty != "none") or penalty == "wgan_gp_one_sided", (loss, penalty)


@pytest.mark.parametrize("msg", MSG)
def test_every_loss_trains_with_clipped_weights(msg: str) -> None:
    builds = {
        (loss, CLIP): build(config_of(loss, CLIP, msg, "off"), small_dataset(), axis_name=None)
        for loss in LOSSES
    }
    first = first_state(msg, "off")
    step = compiled(all_in_one(builds), builds["hinge", CLIP], with_choice(first, 0, 0))
    for i, loss in enumerate(LOSSES):
        state, rows = with_choice(first, i, 0), []
        for _ in range(STEPS):
            state, metrics = step(state)
            rows.append(metrics)
        state, rows = jax.device_get((state, rows))
        assert_sound(jax.device_get(first), state, rows, loss)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.dis.params)) <= np.float32(0.01)


@pytest.mark.parametrize(
    ("loss", "penalty"),
    [("wasserstein", "wgan_gp"), pytest.param("ra_hinge", "r1_r2", marks=pytest.mark.slow)],
)
def test_a_chosen_game_is_the_game(loss: str, penalty: str) -> None:
    """The program of the table and that of the config alone make the same steps."""
    # Adam would turn rounding in a tiny gradient into a large relative change.
    sgd = {"gen__optimizer__name": "sgd", "dis__optimizer__name": "sgd"}
    pairs = [*((name, penalty) for name in LOSSES), (LOSSES[0], "none")]
    builds = {
        pair: build(config_of(*pair, "simple", "dis", **sgd), small_dataset(), axis_name=None)
        for pair in pairs
    }
    plain, ends = builds[loss, penalty], []
    first = plain.init()
    # Penalties are numbered in the order in which the first loss has them, so this one is 0.
    for gan, state in (
        (plain.gan, first),
        (all_in_one(builds), with_choice(first, LOSSES.index(loss), 0)),
    ):
        step = compiled(gan, plain, state)
        for _ in range(2):
            state, metrics = step(state)
        ends.append(jax.device_get((state.gen, state.dis, metrics)))
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
