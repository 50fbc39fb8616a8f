"""What each option of the game does to the step, followed by hand with a linear D and a G of one image.

`R` is every real, `F` the first fake and `W` D's first weights, so D's logits are r = W·R and f = W·F, and with the
Wasserstein loss D's gradient is F - R and G's -W.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, image_of, weights_of

R, F, W = np.array([1.0, 0.5]), np.array([-0.5, 1.0]), np.array([1.2, -1.6])
RATE = 0.1
RATES = {"gen__optimizer__learning_rate": RATE, "dis__optimizer__learning_rate": RATE}
STILL = {"gen__optimizer__learning_rate": 0.0, "dis__optimizer__learning_rate": 0.0}


def softplus(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def constant(n=4):
    return np.tile(R, (n, 1))


def test_logit_scale_and_label_smoothing():
    toy = Toy(
        constant(),
        F,
        W,
        loss__name="non_saturating",
        loss__scale=3.0,
        loss__label_smoothing=0.1,
        **RATES,
    )
    (_, after), (row,) = toy.run(1)
    r, f = 3 * W @ R, 3 * W @ F
    np.testing.assert_allclose(
        row["loss/dis"], (0.9 * softplus(-r) + 0.1 * softplus(r) + softplus(f)) / 3, rtol=1e-5
    )
    moved = W - RATE * ((sigmoid(r) - 0.9) * R + sigmoid(f) * F)
    np.testing.assert_allclose(weights_of(after), moved, rtol=1e-5)
    # G answers the D that has just moved, and its targets are not smoothed.
    f = 3 * moved @ F
    np.testing.assert_allclose(row["loss/gen"], softplus(-f) / 3, rtol=1e-5)
    np.testing.assert_allclose(image_of(after), F + RATE * sigmoid(-f) * moved, rtol=1e-5)


def test_flipped_labels_are_a_share_of_the_pairs_and_d_s_alone():
    n, share = 256, 0.2
    toy = Toy(constant(n), F, W / 4, loss__name="hinge", loss__label_flip=share, **STILL)
    _, rows = toy.run(8)
    r, f = W / 4 @ R, W / 4 @ F
    right, wrong = 2 - r + f, 2 - f + r
    flipped = [(row["loss/dis"] - right) / (wrong - right) * n for row in rows]
    np.testing.assert_allclose(flipped, np.rint(flipped), atol=0.01)
    assert abs(np.mean(flipped) / n - share) < 4 * (share * (1 - share) / (8 * n)) ** 0.5
    assert len(set(np.rint(flipped))) > 1  # other pairs at other steps
    np.testing.assert_allclose([row["loss/gen"] for row in rows], -f, rtol=1e-5)


def test_feature_matching_pulls_g_to_the_mean_feature_of_reals():
    reals = constant() + np.array([[1, 0], [-1, 0], [0, 2], [0, -2]])  # their mean is R
    toy = Toy(reals, F, W, loss__feature_matching=3.0, **{**RATES, "dis__optimizer__learning_rate": 0.0})
    (before, after), (row,) = toy.run(1)
    np.testing.assert_allclose(row["gen/feature_matching"], np.mean((R - F) ** 2), rtol=1e-5)
    np.testing.assert_allclose(row["loss/gen"], -W @ F + 3 * np.mean((R - F) ** 2), rtol=1e-5)
    np.testing.assert_allclose(image_of(after), F - RATE * (-W + 3 * (F - R)), rtol=1e-5)
    np.testing.assert_array_equal(weights_of(after), weights_of(before))


NORM = np.sqrt(W @ W + 1e-4)  # as the root of WGAN-GP has it
TO_ONE = (NORM - 1) ** 2, 2 * (NORM - 1) * W / NORM
HALF = W @ W / 2, W
# The option, the value of its term and the term's gradient. The weight is 3.
TERMS = {
    "r1": ({"penalty__name": "r1", "penalty__weight": 3.0}, *HALF),
    "r2": ({"penalty__name": "r2", "penalty__weight": 3.0}, *HALF),
    "r1_r2": ({"penalty__name": "r1_r2", "penalty__weight": 3.0}, W @ W, 2 * W),
    "wgan_gp": ({"penalty__name": "wgan_gp", "penalty__weight": 3.0}, *TO_ONE),
    "wgan_gp_one_sided": ({"penalty__name": "wgan_gp_one_sided", "penalty__weight": 3.0}, *TO_ONE),
    "dragan": ({"penalty__name": "dragan", "penalty__weight": 3.0}, *TO_ONE),
    "drift": ({"penalty__drift": 3.0}, (W @ R) ** 2, 2 * (W @ R) * R),
    "lecam": (
        {"penalty__lecam": 3.0, "penalty__lecam_start": 0},
        max(W @ R, 0) ** 2 + max(-(W @ F), 0) ** 2,  # both averages start at 0
        2 * max(W @ R, 0) * R - 2 * max(-(W @ F), 0) * F,
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_penalty_enters_d_s_loss_and_gradient_with_its_weight(name):
    options, value, gradient = TERMS[name]
    (_, after), (row,) = Toy(constant(), F, W, **options, **RATES).run(1)
    term = (options.get("penalty__name") and "penalty") or name
    np.testing.assert_allclose(row[f"dis/{term}"], value, rtol=1e-4)
    np.testing.assert_allclose(row["dis/adversarial"], W @ (F - R), rtol=1e-4)
    np.testing.assert_allclose(row["loss/dis"], W @ (F - R) + 3 * value, rtol=1e-4)
    np.testing.assert_allclose(row["grad_norm/dis"], np.linalg.norm(F - R + 3 * gradient), rtol=1e-4)
    np.testing.assert_allclose(weights_of(after), W - RATE * (F - R + 3 * gradient), rtol=1e-4)
    # G's loss has no penalty: it moves along the new weights.
    np.testing.assert_allclose(image_of(after), F + RATE * weights_of(after), rtol=1e-4)


def test_a_lazy_penalty_comes_every_third_step_three_times_as_strong():
    options = {**RATES, "gen__optimizer__learning_rate": 0.0}
    states, rows = Toy(
        constant(), F, W, penalty__name="r1", penalty__weight=0.5, penalty__every=3, **options
    ).run(5)
    for t, row in enumerate(rows):
        w, due = weights_of(states[t]), 3 * (t % 3 == 0)
        np.testing.assert_allclose(row["dis/penalty"], due * w @ w / 2, rtol=1e-5)
        np.testing.assert_allclose(
            weights_of(states[t + 1]), w - RATE * (F - R + 0.5 * due * w), rtol=1e-5, atol=1e-6
        )


def test_lecam_waits_for_its_start_while_its_averages_gather():
    states, rows = Toy(constant(), F, W, penalty__lecam=3.0, penalty__lecam_start=2, **STILL).run(4)
    r, f = W @ R, W @ F
    for t, row in enumerate(rows):
        real, fake = ((1 - 0.99**t) * x for x in (r, f))
        for name, expected in (("real", real), ("fake", fake)):
            np.testing.assert_allclose(states[t].control[f"lecam/{name}"], expected, rtol=1e-4, atol=1e-7)
        value = max(r - fake, 0) ** 2 + max(real - f, 0) ** 2
        np.testing.assert_allclose(row["dis/lecam"], value if t >= 2 else 0, rtol=1e-4)


def test_weights_are_clipped_after_each_update_of_d():
    toy = Toy(constant(), F, W, penalty__clip_weights=0.25, train__dis_steps=2, **RATES)
    (_, after), (row,) = toy.run(1)
    once = np.clip(W - RATE * (F - R), -0.25, 0.25)
    np.testing.assert_allclose(row["logit/real"], once @ R, rtol=1e-5)  # of the second update
    np.testing.assert_allclose(weights_of(after), np.clip(once - RATE * (F - R), -0.25, 0.25), rtol=1e-5)
    np.testing.assert_allclose(image_of(after), F + RATE * weights_of(after), rtol=1e-5)


def ones(n, value=1.0):
    return np.full((n, 8, 8, 1), value, np.float32)


MEAN = np.full(64, 1 / 64)  # D is the mean pixel


@pytest.mark.parametrize("fakes_too", [False, True])
def test_consistency_is_the_cost_of_a_shift_by_at_most_a_pixel(fakes_too):
    """A shift (i, j) of an 8×8 image of ones leaves (1 - |i|/8)(1 - |j|/8) of it."""
    toy = Toy(
        ones(2048),
        ones(1, 2.0)[0],
        MEAN,
        penalty__consistency=10.0,
        penalty__consistency_fakes=fakes_too,
        **STILL,
    )
    _, (row,) = toy.run(1)
    lost = [1 - (1 - abs(i) / 8) * (1 - abs(j) / 8) for i, j in itertools.product((-1, 0, 1), repeat=2)]
    expected = np.mean(np.square(lost)) * (1 + 4 * fakes_too)
    np.testing.assert_allclose(row["dis/consistency"], expected, rtol=0.08)
    np.testing.assert_allclose(row["loss/dis"], 2 - 1 + 10 * row["dis/consistency"], rtol=1e-5)


LENGTHS = np.minimum(np.arange(9) + 2, 8) - np.maximum(np.arange(9) - 2, 0)  # of cutout's box along an axis
LEFT = {
    "brightness": 1 + np.linspace(-0.5, 0.5, 2001),
    "cutout": 1 - np.outer(LENGTHS, LENGTHS) / 64,
    "translation": np.outer([7, 8, 7], [7, 8, 7]) / 64,
}


@pytest.mark.parametrize("policy", LEFT)
def test_reals_and_fakes_are_augmented_alike_in_both_updates(policy):
    """Images of ones, D their mean pixel, least squares: the losses tell the moments of the logits."""
    toy = Toy(ones(4096), ones(1)[0], MEAN, loss__name="least_squares", augment__policy=policy, **STILL)
    _, rows = toy.run(2)
    left = LEFT[policy]
    to_one, square = np.mean((left - 1) ** 2), np.mean(left**2)
    for row in rows:
        for net in ("real", "fake"):
            np.testing.assert_allclose(row[f"logit/{net}"], np.mean(left), atol=0.025)
        np.testing.assert_allclose(row["loss/dis"], (to_one + square) / 2, atol=0.04)
        np.testing.assert_allclose(row["loss/gen"], to_one / 2, rtol=0.1)
    assert rows[0]["logit/real"] != rows[0]["logit/fake"]  # each with draws of its own
    assert rows[0]["logit/real"] != rows[1]["logit/real"]


# How strongly the mean pixel of what D sees follows that of G's image.
FOLLOWED = {
    "color": ({"augment__policy": "color"}, 1.0),
    "cutout": ({"augment__policy": "cutout"}, np.mean(LEFT["cutout"])),
    "translation": ({"augment__policy": "translation"}, np.mean(LEFT["translation"])),
    "noise": ({"noise__std": 0.5}, 1.0),
    "ada": ({"augment__policy": "ada"}, None),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_g_learns_through_augmentation_and_noise(name):
    options, slope = FOLLOWED[name]
    rates = {**STILL, "gen__optimizer__learning_rate": RATE}
    toy = Toy(ones(1024), ones(1)[0], MEAN, **options, **rates)
    state = toy.controlled(ada__p=0.5) if name == "ada" else toy.first
    (_, after), _ = toy.run(1, state)
    moved = image_of(after) - 1
    assert (moved > 0).all()  # every pixel, towards a higher logit
    if slope is not None:  # ADA's flips of sign and contrast have no such simple mean
        np.testing.assert_allclose(moved.sum() / RATE, slope, rtol=0.02)


def test_ada_steers_p_by_the_sign_of_d_on_reals():
    """64 images, 2 updates, 4 steps: 512 images a move, and 5.12 kimg from 0 to 1 make it a tenth."""
    options = {"augment__policy": "ada", "augment__speed_kimg": 5.12, "augment__target": 0.6}
    toy = Toy(ones(64), ones(1, -1.0)[0], MEAN, train__dis_steps=2, **options, **STILL)
    states, rows = toy.run(9)
    np.testing.assert_allclose([s.control["ada/p"] for s in states], [0] * 4 + [0.1] * 4 + [0.2] * 2)
    signs = [row["dis/sign_real"] for row in rows]
    assert signs[:4] == [1] * 4 and min(signs[4:]) < 1  # augmented from the fifth step on: luma flips
    np.testing.assert_allclose(states[7].control["ada/sign"], sum(signs[4:7]) / 4, rtol=1e-5)
    for start, end in ((0.95, 0.85), (0.05, 0.0)):
        # Three steps of the four have passed; their mean sign of -1 outweighs whatever the fourth brings.
        state = dataclasses.replace(toy.controlled(ada__p=start, ada__sign=-0.75), step=jnp.int32(3))
        np.testing.assert_allclose(toy.run(1, state)[0][1].control["ada/p"], end, atol=1e-6)
    state = dataclasses.replace(toy.controlled(ada__p=0.95, ada__sign=1.0), step=jnp.int32(3))
    np.testing.assert_allclose(toy.run(1, state)[0][1].control["ada/p"], 1.05, rtol=1e-6)  # it may pass 1


SCHEDULES = {
    "constant": [1, 1, 1, 1, 1, 1],
    "linear": [1, 0.75, 0.5, 0.25, 0, 0],
    "cosine": [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_instance_noise_on_all_that_d_sees_and_its_schedule(schedule):
    """At the origin with unit weights the logits are the noise, and least squares shows its variance."""
    n, std = 16384, 0.5
    options = {"noise__schedule": schedule, "noise__end": 0.5, "noise__std": std, "train__steps": 8}
    toy = Toy(
        np.zeros((n, 2)),
        [0, 0],
        [0.6, -0.8],
        loss__name="least_squares",
        penalty__drift=1.0,
        **options,
        **STILL,
    )
    _, rows = toy.run(6)
    for row, level in zip(rows, SCHEDULES[schedule], strict=True):
        variance = (std * level) ** 2
        np.testing.assert_allclose(row["dis/drift"], variance, rtol=0.05, atol=1e-12)
        np.testing.assert_allclose(row["dis/adversarial"], 0.5 + variance, atol=0.025 * level + 1e-6)
        np.testing.assert_allclose(row["loss/gen"], 0.5 + variance / 2, atol=0.025 * level + 1e-6)


def test_noise_may_follow_ada():
    toy = Toy(ones(8), ones(1)[0], MEAN, augment__policy="ada", noise__std=0.5, noise__schedule="ada")
    keys, black = jax.random.split(jax.random.key(0), 256), (jnp.zeros((256, 8, 8, 1), jnp.float32),)
    for p in (0.0, 0.3):
        (noisy,) = toy.gan.transform(keys, black, toy.controlled(ada__p=p))
        # Colour changes a black image as a whole; what differs within it is the noise.
        spread = np.asarray(noisy).std(axis=(1, 2, 3)).mean()
        np.testing.assert_allclose(spread, 0.5 * p, rtol=0.05)


def test_every_update_of_d_sees_new_reals_and_g_makes_its_own_number():
    """Two steps of four updates of D with 8 of 64 points are one epoch."""
    reals = np.random.default_rng(0).normal(size=(64, 2))
    rates = {"dis__optimizer__learning_rate": RATE, "gen__optimizer__learning_rate": 0.0}
    toy = Toy(reals, F, W, train__batch_size=8, train__dis_steps=4, train__gen_steps=3, **rates)
    (_, half, whole), _ = toy.run(2)
    np.testing.assert_allclose(
        weights_of(whole), W - RATE * (8 * F - 8 * reals.mean(axis=0)), rtol=1e-4, atol=1e-5
    )
    assert np.abs(weights_of(half) - W + RATE * (4 * F - 4 * reals.mean(axis=0))).max() > 1e-3
    hyper = {"dis/learning_rate": jnp.float32(0), "gen/learning_rate": jnp.float32(RATE)}
    state = dataclasses.replace(toy.first, hyper={**toy.first.hyper, **hyper})
    (*_, after), _ = toy.run(2, state)
    np.testing.assert_allclose(image_of(after), F + 2 * 3 * RATE * W, rtol=1e-5)


def test_every_update_within_a_step_draws_anew():
    """With rates of 0 and equal reals, the last of two updates differs from the only one by its noise alone."""
    seen = set()
    for updates in (1, 2):
        counts = {"train__dis_steps": updates, "train__gen_steps": updates}
        _, (row,) = Toy(constant(), F, W, noise__std=0.5, **counts, **STILL).run(1)
        seen |= {float(row["logit/fake"]), float(-row["loss/gen"])}
    assert len(seen) == 4


def test_the_adaptive_balance_lets_the_winner_rest():
    adam = {"gen__optimizer__name": "adam", "dis__optimizer__name": "adam"}
    band = {"train__balance_low": 0.6, "train__balance_high": 0.85}
    toy = Toy(constant(), F, W, train__balance="adaptive", **band, **adam, **STILL)
    same = lambda a, b: all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )

    def moves(**control):
        """Which of D and G move at each of two steps, by their optimisers' states too."""
        states, _ = toy.run(2, toy.controlled(**control))
        return [
            tuple(not same(getattr(a, net), getattr(b, net)) for net in ("dis", "gen"))
            for a, b in itertools.pairwise(states)
        ]

    # D is right on all: its running accuracy goes to 1 - (1 - a)·.9 with each step, from a.
    assert moves(balance__accuracy=0.95) == [(True, True), (False, True)]
    assert moves(balance__accuracy=0.7) == [(True, True), (True, True)]
    assert moves(balance__accuracy=0.3) == [(True, True), (True, False)]
    states, _ = toy.run(9, toy.controlled(balance__accuracy=0.7))
    rests = [t for t, state in enumerate(states) if state.control["rest/dis"]]
    assert rests[0] == next(t for t in range(99) if 1 - 0.3 * 0.9**t > 0.85) == 7
