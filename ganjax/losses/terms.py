"""The terms of objectives: plain functions of `LossInputs`, or of numbers that give such a function.

Each term that draws folds the keys it gets with a `Stream` of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ganjax.data.augment import diff_augment
from ganjax.losses.adversarial import Loss, flip_labels, scaled
from ganjax.losses.objective import LossInputs, Term, Value, values_of
from ganjax.losses.penalties import consistency, lecam, path_lengths
from ganjax.runtime.keys import Stream, stream_keys


def dis_adversarial(loss: Loss, *, flip: bool) -> Term:
    """Returns D's term of an adversarial loss; with `flip` some pairs swap labels (`hyper["loss/label_flip"]`)."""

    def term(r: LossInputs) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        real, fake = r.real_logits, r.fake_logits
        if flip:
            keys = stream_keys(r.keys, Stream.LABEL_FLIP)
            real, fake = flip_labels(keys, real, fake, r.hyper["loss/label_flip"])
        if loss.has_targets:
            smoothing = r.hyper["loss/label_smoothing"]
            return by_alpha.dis(real, fake, smoothing=smoothing, axis_name=r.axis_name)
        return by_alpha.dis(real, fake, axis_name=r.axis_name)

    return term


def gen_adversarial(loss: Loss) -> Term:
    """Returns G's term of an adversarial loss."""

    def term(r: LossInputs) -> jax.Array:
        by_alpha = scaled(loss, r.hyper["loss/scale"])
        return by_alpha.gen(r.real_logits, r.fake_logits, axis_name=r.axis_name)

    return term


def falling(term: Term, progress: Callable[[jax.Array], jax.Array], final: float) -> Term:
    """Returns the term times a factor that goes from 1 to `final` as `progress` of the step goes from 0 to 1."""
    if final == 1.0:
        return term
    return lambda r: values_of(term(r)) * (1.0 + (final - 1.0) * progress(r.step))


def class_loss(r: LossInputs, *, reals: bool) -> jax.Array:
    """Returns the cross-entropy of D's classes on fakes, and with `reals` on reals (Odena et al. 2017, eq. 2)."""
    sown = [r.fake_sown, r.real_sown] if reals else [r.fake_sown]
    assert r.labels is not None
    losses = [-jnp.take_along_axis(jax.nn.log_softmax(s["class_logits"]), r.labels[:, None], 1) for s in sown]
    return jnp.stack(losses).sum(axis=0)


def path_length(every: int) -> Term:
    """Returns (‖Jᵀy‖ − a)² at every k-th step, times k (Karras et al. 2020, sec. 3.2).

    a is the running mean of the lengths ‖Jᵀy‖.

    As in the authors' code half of the batch is used, the lengths are those of G's images before any transform, and the
    gradient also goes through what this step adds to a.
    """

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


def lazily(term: Term, every: int) -> Term:
    """Returns the term times `every`, at each `every`-th step only (Karras et al. 2020, appendix B).

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


def lecam_term(start: int) -> Term:
    """Returns LeCam's term, 0 before the step `start` (its averages gather from the first)."""

    def term(r: LossInputs) -> jax.Array:
        value = lecam(r.real_logits, r.fake_logits, r.control["lecam/real"], r.control["lecam/fake"])
        return value * (r.step >= start).astype(jnp.float32)

    return term


def consistency_term(fakes_too: bool) -> Term:
    """Returns D's change of logits by a small shift: on reals (Zhang et al. 2020), and on fakes (Zhao et al. 2021)."""

    def term(r: LossInputs) -> jax.Array:
        shifted = lambda stream, images: diff_augment(stream_keys(r.keys, stream), images, ("translation",))
        total = consistency(r.real_logits, r.dis(shifted(Stream.CONSISTENCY_REALS, r.reals)))
        if fakes_too:
            total += consistency(r.fake_logits, r.dis(shifted(Stream.CONSISTENCY_FAKES, r.fakes)))
        return total

    return term


def feature_matching(r: LossInputs) -> jax.Array:
    """Returns ‖E f(real) − E f(fake)‖² of D's last features, per feature (Salimans et al. 2016, section 3.1)."""
    real = jnp.mean(jax.lax.stop_gradient(r.real_sown["features"]).astype(jnp.float32), axis=0)
    fake = jnp.mean(r.fake_sown["features"].astype(jnp.float32), axis=0)
    if r.axis_name is not None:
        real, fake = jax.lax.pmean((real, fake), r.axis_name)
    return jnp.square(real - fake)
