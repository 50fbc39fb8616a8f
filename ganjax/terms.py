"""The terms of D's and G's objectives that a config asks for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.augment import diff_augment
from ganjax.losses import LOSSES, flip_labels
from ganjax.objective import Objective, Round, Term
from ganjax.penalties import PENALTIES, consistency, drift, lecam


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
        real = None if r.real_logits is None else r.real_logits * r.hyper["loss/scale"]
        return loss.gen(real, r.fake_logits * r.hyper["loss/scale"], axis_name=r.axis_name)

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
        real, fake = r.real_logits, r.fake_logits
        if flip:
            real, fake = flip_labels(r.keys, real, fake, r.hyper["loss/label_flip"])
        real, fake = real * r.hyper["loss/scale"], fake * r.hyper["loss/scale"]
        if loss.has_targets:
            return loss.dis(real, fake, smoothing=r.hyper["loss/label_smoothing"], axis_name=r.axis_name)
        return loss.dis(real, fake, axis_name=r.axis_name)

    return adversarial


def _gradient_penalty(name: str) -> Term:
    penalty = PENALTIES[name]
    return lambda r: penalty(r.dis, r.reals, r.fakes, r.keys, axis_name=r.axis_name)


def _lazily(term: Term, every: int) -> Term:
    """The term times `every`, at each `every`-th step only (Karras et al. 2020, appendix B)."""
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
        moved = r.dis(diff_augment(r.keys, r.reals, ("translation",)))
        total = consistency(r.real_logits, moved)
        if fakes_too:
            total += consistency(r.fake_logits, r.dis(diff_augment(r.keys, r.fakes, ("translation",))))
        return total

    return term


def _feature_matching(r: Round) -> jax.Array:
    """‖E f(real) − E f(fake)‖² of D's last features, per feature (Salimans et al. 2016, section 3.1)."""
    real = jnp.mean(jax.lax.stop_gradient(r.real_features).astype(jnp.float32), axis=0)
    fake = jnp.mean(r.fake_features.astype(jnp.float32), axis=0)
    if r.axis_name is not None:
        real, fake = jax.lax.pmean((real, fake), r.axis_name)
    return jnp.square(real - fake)
