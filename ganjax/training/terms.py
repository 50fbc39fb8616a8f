"""The terms of D's and G's objectives that a config asks for.

Each term that draws folds its round's keys with a number of its own, so that no two share their draws.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.data.augment import diff_augment
from ganjax.losses.adversarial import LOSSES, flip_labels, scaled
from ganjax.losses.objective import LossInputs, Objective, Term, Value, values_of
from ganjax.losses.penalties import PENALTIES, consistency, drift, lecam, orthogonality, path_lengths
from ganjax.runtime.keys import Stream, stream_keys
from ganjax.training.schedules import progress_of


def dis_objective(config: ConfigDict) -> Objective:
    """D's objective: the adversarial loss and the penalties whose weight is not zero."""
    terms: dict[str, Term] = {"adversarial": _dis_loss(config)}
    weights: dict[str, str] = {}

    def add(name: str, term: Term, weight: str) -> None:
        terms[name] = term
        weights[name] = weight

    options = config.penalty
    if options.name != "none":
        term = _falling(config, PENALTIES[options.name])
        add("penalty", _lazily(term, options.every), "penalty/weight")
    if options.drift:
        add("drift", lambda r: drift(r.real_logits), "penalty/drift")
    if options.lecam:
        add("lecam", _lecam(options.lecam_start), "penalty/lecam")
    if options.consistency:
        add("consistency", _consistency(options.consistency_fakes), "penalty/consistency")
    if config.loss.auxiliary_classifier:
        add("classes", lambda r: _class_loss(r, reals=True), "loss/auxiliary_classifier")
    return Objective(terms=terms, weights=weights, needs_sown="classes" in terms)


def gen_objective(config: ConfigDict) -> Objective:
    """G's objective: the adversarial loss and, where asked for, feature matching."""
    loss = LOSSES[config.loss.name]
    matching = config.loss.feature_matching > 0

    def adversarial(r: LossInputs) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        return by_alpha.gen(r.real_logits, r.fake_logits, axis_name=r.axis_name)

    terms: dict[str, Term] = {"adversarial": adversarial}
    weights = {}
    if matching:
        terms["feature_matching"] = _feature_matching
        weights["feature_matching"] = "loss/feature_matching"
    classify = config.loss.auxiliary_classifier > 0
    if classify:
        terms["classes"] = lambda r: _class_loss(r, reals=False)
        weights["classes"] = "loss/auxiliary_classifier"
    if config.loss.path_length:
        terms["path_length"] = _path_length(config)
        weights["path_length"] = "loss/path_length"
    if config.penalty.orthogonal:
        terms["orthogonal"] = lambda r: orthogonality(r.params)
        weights["orthogonal"] = "penalty/orthogonal"
    return Objective(
        terms, weights, needs_reals=loss.needs_reals or matching, needs_sown=matching or classify
    )


def _dis_loss(config: ConfigDict) -> Term:
    loss = LOSSES[config.loss.name]
    flip = config.loss.label_flip > 0

    def adversarial(r: LossInputs) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        real, fake = r.real_logits, r.fake_logits
        if flip:
            real, fake = flip_labels(
                stream_keys(r.keys, Stream.LABEL_FLIP), real, fake, r.hyper["loss/label_flip"]
            )
        if loss.has_targets:
            smoothing = r.hyper["loss/label_smoothing"]
            return by_alpha.dis(real, fake, smoothing=smoothing, axis_name=r.axis_name)
        return by_alpha.dis(real, fake, axis_name=r.axis_name)

    return adversarial


def _falling(config: ConfigDict, term: Term) -> Term:
    """The term times a factor that goes from 1 to `penalty.final_scale` as D's learning rate goes to its end."""
    final = config.penalty.final_scale
    if final == 1.0:
        return term
    progress = progress_of(config, "dis")
    return lambda r: values_of(term(r)) * (1.0 + (final - 1.0) * progress(r.step))


def _class_loss(r: LossInputs, *, reals: bool) -> jax.Array:
    """Cross-entropy of D's classes, on fakes and with `reals` on reals too (Odena et al. 2017, equation 2)."""
    sown = [r.fake_sown, r.real_sown] if reals else [r.fake_sown]
    assert r.labels is not None
    losses = [-jnp.take_along_axis(jax.nn.log_softmax(s["class_logits"]), r.labels[:, None], 1) for s in sown]
    return jnp.stack(losses).sum(axis=0)


def _path_length(config: ConfigDict) -> Callable[[LossInputs], Value]:
    """(‖Jᵀy‖ − a)² at every k-th step, times k; a is the running mean of the lengths (Karras et al. 2020, section 3.2).

    As in the authors' code half of the batch is used, the lengths are those of G's images before any transform, and the
    gradient also goes through what this step adds to a.
    """
    every = config.loss.path_length_every

    def term(r: LossInputs) -> Value:
        assert r.restyle is not None and r.style_shape is not None
        restyle, shape = r.restyle, r.style_shape
        keys = stream_keys(r.keys, Stream.PATH_LENGTH)[: max(1, r.keys.shape[0] // 2)]
        mean = r.control["path_length/mean"]

        def due() -> tuple[jax.Array, jax.Array]:
            lengths = path_lengths(restyle, keys, shape)
            batch_mean = jnp.mean(lengths)
            if r.axis_name is not None:
                batch_mean = jax.lax.pmean(batch_mean, r.axis_name)
            now = mean + 0.01 * (batch_mean - mean)
            return jnp.mean(jnp.square(lengths - now)) * every, jax.lax.stop_gradient(now)

        value, now = jax.lax.cond(r.step % every == 0, due, lambda: (jnp.zeros((), jnp.float32), mean))
        return value, {"path_length_mean": now}

    return term


def _lazily(term: Term, every: int) -> Term:
    """The term times `every`, at each `every`-th step only (Karras et al. 2020, appendix B).

    It joins the ordinary update of that step, so the optimiser makes no extra updates, and the correction of
    its rate and decays by k/(k+1), which StyleGAN2's separate update needs, is 1 here.
    """
    if every == 1:
        return term

    def lazy(r: LossInputs) -> jax.Array:
        due = r.step % every == 0
        return jax.lax.cond(
            due, lambda: jnp.mean(values_of(term(r))) * every, lambda: jnp.zeros((), jnp.float32)
        )

    return lazy


def _lecam(start: int) -> Term:
    def term(r: LossInputs) -> jax.Array:
        value = lecam(r.real_logits, r.fake_logits, r.control["lecam/real"], r.control["lecam/fake"])
        return value * (r.step >= start).astype(jnp.float32)

    return term


def _consistency(fakes_too: bool) -> Callable[[LossInputs], jax.Array]:
    """D's logits should not mind a small shift (Zhang et al. 2020), on fakes neither (Zhao et al. 2021)."""

    def term(r: LossInputs) -> jax.Array:
        shifted = lambda stream, images: diff_augment(stream_keys(r.keys, stream), images, ("translation",))
        total = consistency(r.real_logits, r.dis(shifted(Stream.CONSISTENCY_REALS, r.reals)))
        if fakes_too:
            total += consistency(r.fake_logits, r.dis(shifted(Stream.CONSISTENCY_FAKES, r.fakes)))
        return total

    return term


def _feature_matching(r: LossInputs) -> jax.Array:
    """‖E f(real) − E f(fake)‖² of D's last features, per feature (Salimans et al. 2016, section 3.1)."""
    real = jnp.mean(jax.lax.stop_gradient(r.real_sown["features"]).astype(jnp.float32), axis=0)
    fake = jnp.mean(r.fake_sown["features"].astype(jnp.float32), axis=0)
    if r.axis_name is not None:
        real, fake = jax.lax.pmean((real, fake), r.axis_name)
    return jnp.square(real - fake)
