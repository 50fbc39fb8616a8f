"""The terms of D's and G's objectives that a config asks for.

Each term that draws folds its round's keys with a number of its own, so that no two share their draws.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.augment import diff_augment
from ganjax.losses import LOSSES, flip_labels, scaled
from ganjax.objective import Objective, Round, Term
from ganjax.penalties import PENALTIES, consistency, drift, lecam
from ganjax.step import purpose_keys


def dis_objective(config: ConfigDict) -> Objective:
    """D's objective: the adversarial loss and the penalties whose weight is not zero."""
    terms: dict[str, Term] = {"adversarial": _dis_loss(config)}
    weights: dict[str, str] = {}

    def add(name: str, term: Term, weight: str) -> None:
        terms[name] = term
        weights[name] = weight

    options = config.penalty
    if options.name != "none":
        add("penalty", _lazily(_gradient_penalty(options.name), options.every), "penalty/weight")
    if options.drift:
        add("drift", lambda r: drift(r.real_logits), "penalty/drift")
    if options.lecam:
        add("lecam", _lecam(options.lecam_start), "penalty/lecam")
    if options.consistency:
        add("consistency", _consistency(options.consistency_fakes), "penalty/consistency")
    return Objective(terms=terms, weights=weights)


def gen_objective(config: ConfigDict) -> Objective:
    """G's objective: the adversarial loss and, where asked for, feature matching."""
    loss = LOSSES[config.loss.name]
    matching = config.loss.feature_matching > 0

    def adversarial(r: Round) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        return by_alpha.gen(r.real_logits, r.fake_logits, axis_name=r.axis_name)

    terms: dict[str, Term] = {"adversarial": adversarial}
    weights = {}
    if matching:
        terms["feature_matching"] = _feature_matching
        weights["feature_matching"] = "loss/feature_matching"
    return Objective(terms, weights, needs_reals=loss.needs_reals or matching, needs_features=matching)


def _dis_loss(config: ConfigDict) -> Term:
    loss = LOSSES[config.loss.name]
    flip = config.loss.label_flip > 0

    def adversarial(r: Round) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        real, fake = r.real_logits, r.fake_logits
        if flip:
            real, fake = flip_labels(purpose_keys(r.keys, 0), real, fake, r.hyper["loss/label_flip"])
        if loss.has_targets:
            smoothing = r.hyper["loss/label_smoothing"]
            return by_alpha.dis(real, fake, smoothing=smoothing, axis_name=r.axis_name)
        return by_alpha.dis(real, fake, axis_name=r.axis_name)

    return adversarial


def _gradient_penalty(name: str) -> Term:
    penalty = PENALTIES[name]
    return lambda r: penalty(r.dis, r.reals, r.fakes, purpose_keys(r.keys, 1), axis_name=r.axis_name)


def _lazily(term: Term, every: int) -> Term:
    """The term times `every`, at each `every`-th step only (Karras et al. 2020, appendix B).

    It joins the ordinary update of that step, so the optimiser makes no extra updates, and the correction of
    its rate and decays by k/(k+1), which StyleGAN2's separate update needs, is 1 here.
    """
    if every == 1:
        return term

    def lazy(r: Round) -> jax.Array:
        due = r.step % every == 0
        return jax.lax.cond(due, lambda: jnp.mean(term(r)) * every, lambda: jnp.zeros((), jnp.float32))

    return lazy


def _lecam(start: int) -> Term:
    def term(r: Round) -> jax.Array:
        value = lecam(r.real_logits, r.fake_logits, r.control["lecam/real"], r.control["lecam/fake"])
        return value * (r.step >= start).astype(jnp.float32)

    return term


def _consistency(fakes_too: bool) -> Callable[[Round], jax.Array]:
    """D's logits should not mind a small shift (Zhang et al. 2020), on fakes neither (Zhao et al. 2021)."""

    def term(r: Round) -> jax.Array:
        moved = r.dis(diff_augment(purpose_keys(r.keys, 2), r.reals, ("translation",)))
        total = consistency(r.real_logits, moved)
        if fakes_too:
            total += consistency(
                r.fake_logits, r.dis(diff_augment(purpose_keys(r.keys, 3), r.fakes, ("translation",)))
            )
        return total

    return term


def _feature_matching(r: Round) -> jax.Array:
    """‖E f(real) − E f(fake)‖² of D's last features, per feature (Salimans et al. 2016, section 3.1)."""
    real = jnp.mean(jax.lax.stop_gradient(r.real_features).astype(jnp.float32), axis=0)
    fake = jnp.mean(r.fake_features.astype(jnp.float32), axis=0)
    if r.axis_name is not None:
        real, fake = jax.lax.pmean((real, fake), r.axis_name)
    return jnp.square(real - fake)
