"""Adversarial losses, per example.

Logits are the unsquashed outputs of D: `real_logits` and `fake_logits` are float [N] (N images of this device),
positive where D believes the image real. Every loss gives float32 [N] (float64 in, float64 out) and leaves the mean
over the batch to the caller. D values are the sum of the real and the fake part of pair i, halved for the
relativistic average losses. D and G both *minimise* what they get.

With sp = softplus, r = D(real), f = D(fake), a = 1 - smoothing:

| name | D | G | source |
|---|---|---|---|
| minimax | a·sp(-r) + (1-a)·sp(r) + sp(f) | -sp(f) | Goodfellow et al. 2014, eq. 1 |
| non_saturating | as minimax | sp(-f) | Goodfellow et al. 2014, sec. 3 |
| least_squares | ½(r-a)² + ½f² | ½(f-1)² | Mao et al. 2017, eq. 9 |
| hinge | relu(1-r) + relu(1+f) | -f | Lim & Ye 2017; Miyato et al. 2018, eq. 16-17 |
| wasserstein | f - r | -f | Arjovsky et al. 2017, alg. 1 |
| ra_* | ½·(real part of r-E[f], fake part of f-E[r]) | the roles swapped | Jolicoeur-Martineau 2018, sec. 4 |
| rp_non_saturating | sp(f-r) | sp(r-f) | Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024 |
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ganjax.config import plugins
from ganjax.runtime.errors import UserError

_Part = Callable[[Array], Array]


class DisLoss(Protocol):
    """Type of D's loss: logits [N] each, `smoothing` in [0, 1), values [N]."""

    def __call__(
        self,
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array: ...


class GenLoss(Protocol):
    """Type of G's loss: logits [N] each, values [N]. `real_logits` may be None unless the loss needs the reals."""

    def __call__(
        self, real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None
    ) -> Array: ...


@dataclass(frozen=True)
class Loss:
    """Losses of D and G, and what a config has to know about them (`config/names.py` reads the last three).

    Attributes:
        dis, gen: D's loss and G's loss.
        needs_reals: True if G's update must run D on reals as well.
        has_targets: True if one-sided label smoothing is defined.
        whole_batch: True if a value depends on the mean over the whole batch, which no part of it knows.
    """

    dis: DisLoss
    gen: GenLoss
    needs_reals: bool = False
    has_targets: bool = False
    whole_batch: bool = False


def _at_least_float32(logits: Array) -> Array:
    return logits if jnp.finfo(logits.dtype).bits >= 32 else logits.astype(jnp.float32)


def _pair(real_logits: Array | None, fake_logits: Array) -> tuple[Array, Array]:
    if real_logits is None:
        raise ValueError("a relativistic loss needs the logits of reals in G's step; got real_logits=None")
    if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"expected logits of one shape [N], got real {real_logits.shape}, fake {fake_logits.shape}"
        )
    return _at_least_float32(real_logits), _at_least_float32(fake_logits)


def _refuse_smoothing(smoothing: float | Array) -> None:
    if not (isinstance(smoothing, (int, float)) and smoothing == 0):
        names = ", ".join(name for name, loss in LOSSES.items() if loss.has_targets)
        raise ValueError(f"label smoothing is defined for {names}; this loss has no targets")


def _cross_entropy_dis(
    real_logits: Array,
    fake_logits: Array,
    *,
    smoothing: float | Array = 0.0,
    axis_name: str | None = None,
) -> Array:
    del axis_name
    real, fake = _pair(real_logits, fake_logits)
    # a·sp(-r) + (1-a)·sp(r) = sp(-r) + (1-a)·r, without the cancellation of the latter at large |r|
    real_part = (1.0 - smoothing) * jax.nn.softplus(-real) + smoothing * jax.nn.softplus(real)
    return real_part + jax.nn.softplus(fake)


def _least_squares_dis(
    real_logits: Array,
    fake_logits: Array,
    *,
    smoothing: float | Array = 0.0,
    axis_name: str | None = None,
) -> Array:
    del axis_name
    real, fake = _pair(real_logits, fake_logits)
    return 0.5 * jnp.square(real - (1.0 - smoothing)) + 0.5 * jnp.square(fake)


def _sum_of(real_part: _Part, fake_part: _Part) -> DisLoss:
    """Makes D's loss from its two parts, for losses without targets."""

    def dis(
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array:
        del axis_name
        _refuse_smoothing(smoothing)
        real, fake = _pair(real_logits, fake_logits)
        return real_part(real) + fake_part(fake)

    return dis


def _on_fakes(part: _Part) -> GenLoss:
    """Makes G's loss, a function of the fakes alone."""

    def gen(real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None) -> Array:
        del real_logits, axis_name
        if fake_logits.ndim != 1:
            raise ValueError(f"expected fake_logits of shape [N], got {fake_logits.shape}")
        return part(_at_least_float32(fake_logits))

    return gen


def _global_mean(logits: Array, axis_name: str | None) -> Array:
    mean = jnp.mean(logits, keepdims=True)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _relativistic_average(real_part: _Part, fake_part: _Part) -> tuple[DisLoss, GenLoss]:
    """Makes the loss that judges each side against the mean of the other over the *global* batch.

    Source: Jolicoeur-Martineau 2018, sec. 4.

    G's loss is D's with the roles of reals and fakes swapped. The gradient flows through the means, and through
    `pmean` to the other devices' images, so that N devices with averaged gradients equal one.
    """

    def dis(
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array:
        _refuse_smoothing(smoothing)
        real, fake = _pair(real_logits, fake_logits)
        real_relative = real - _global_mean(fake, axis_name)
        fake_relative = fake - _global_mean(real, axis_name)
        return 0.5 * (real_part(real_relative) + fake_part(fake_relative))

    def gen(real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None) -> Array:
        real, fake = _pair(real_logits, fake_logits)
        return dis(fake, real, axis_name=axis_name)

    return dis, gen


def _relativistic_pairing(part: _Part) -> tuple[DisLoss, GenLoss]:
    """Makes the loss of real i against fake i (R3GAN, Huang et al. 2024, eq. 2): D part(r-f), G part(f-r)."""

    def dis(
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array:
        del axis_name
        _refuse_smoothing(smoothing)
        real, fake = _pair(real_logits, fake_logits)
        return part(real - fake)

    def gen(real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None) -> Array:
        del axis_name
        real, fake = _pair(real_logits, fake_logits)
        return part(fake - real)

    return dis, gen


def _log_real(logits: Array) -> Array:
    """Returns -log of the probability that the example is real: sp(-x)."""
    return jax.nn.softplus(-logits)


def _hinge_real(logits: Array) -> Array:
    return jax.nn.relu(1.0 - logits)


def _hinge_fake(logits: Array) -> Array:
    return jax.nn.relu(1.0 + logits)


def _half_square_from_one(logits: Array) -> Array:
    return 0.5 * jnp.square(logits - 1.0)


def _square_from_one(logits: Array) -> Array:
    return jnp.square(logits - 1.0)


def _square_from_minus_one(logits: Array) -> Array:
    return jnp.square(logits + 1.0)


LOSSES: dict[str, Loss] = {
    "minimax": Loss(_cross_entropy_dis, _on_fakes(lambda f: -jax.nn.softplus(f)), has_targets=True),
    "non_saturating": Loss(_cross_entropy_dis, _on_fakes(_log_real), has_targets=True),
    "hinge": Loss(_sum_of(_hinge_real, _hinge_fake), _on_fakes(jnp.negative)),
    "least_squares": Loss(_least_squares_dis, _on_fakes(_half_square_from_one), has_targets=True),
    "wasserstein": Loss(_sum_of(jnp.negative, lambda f: f), _on_fakes(jnp.negative)),
    "ra_non_saturating": Loss(
        *_relativistic_average(_log_real, jax.nn.softplus), needs_reals=True, whole_batch=True
    ),
    "ra_hinge": Loss(*_relativistic_average(_hinge_real, _hinge_fake), needs_reals=True, whole_batch=True),
    # targets +1 and -1 and no ½: the form of the relativistic paper, halved once like its siblings
    "ra_least_squares": Loss(
        *_relativistic_average(_square_from_one, _square_from_minus_one), needs_reals=True, whole_batch=True
    ),
    "rp_non_saturating": Loss(*_relativistic_pairing(_log_real), needs_reals=True),
}


def register_loss(
    name: str,
    *,
    dis: Callable[..., Array] | None = None,
    gen: Callable[..., Array] | None = None,
    needs_reals: bool = False,
    has_targets: bool = False,
    whole_batch: bool = False,
) -> Any:
    """Adds an adversarial loss of one's own to the choices of `loss.name`.

    Without `dis` and `gen` it decorates a class that has both as functions.

    Args:
      name: a name of its own.
      dis: D's loss: `(real_logits, fake_logits)`, float32 [N] each, to the values [N] that D minimises.
      gen: G's loss, of the same two; `real_logits` is None unless `needs_reals`.
      needs_reals: True if G's update must run D on reals as well.
      has_targets: True if one-sided label smoothing is defined; `dis` then takes `smoothing=`, a number in [0, 1).
      whole_batch: True if a value depends on the mean over the whole batch; both then take `axis_name=`, to take means
        over the devices with.

    Raises:
      UserError: the name is none or taken, or a part is missing.
    """

    facts = {"needs_reals": needs_reals, "has_targets": has_targets, "whole_batch": whole_batch}

    def add(parts: Any) -> Any:
        place = plugins.place_of_caller()
        found = [vars(parts).get(part) for part in ("dis", "gen")]
        calls = [call.__func__ if isinstance(call, staticmethod) else call for call in found]
        if not all(map(callable, calls)):
            raise UserError(f"{place}: the loss {name!r} needs two functions, dis and gen.")
        plugins.register("loss", name, LOSSES, _of_plugin(name, place, calls, **facts), place)
        return parts

    return add if dis is None and gen is None else add(types.SimpleNamespace(dis=dis, gen=gen))


def _of_plugin(name: str, place: plugins.Place, calls: Sequence[Any], **facts: bool) -> Loss:
    """Makes the loss of a plugin's two functions, which take the keywords that they need and no others."""

    def problem(found: Any, _: Any, logits: Array, **__: Any) -> str:
        array = hasattr(found, "shape") and hasattr(found, "dtype")
        if array and found.shape == logits.shape and jnp.issubdtype(found.dtype, jnp.floating):
            return ""
        return (
            f"takes logits {plugins.shown(logits)} and gives as many float values, whose mean ganjax takes; it gave "
            f"{plugins.shown(found)}"
        )

    own_dis, own_gen = (plugins.checked("loss", name, place, call, problem) for call in calls)

    def over(axis_name: str | None) -> dict[str, Any]:
        return {"axis_name": axis_name} if facts["whole_batch"] else {}

    def dis(
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array:
        if not facts["has_targets"]:
            _refuse_smoothing(smoothing)
        real, fake = _pair(real_logits, fake_logits)
        targets = {"smoothing": smoothing} if facts["has_targets"] else {}
        return _at_least_float32(own_dis(real, fake, **targets, **over(axis_name)))

    def gen(real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None) -> Array:
        real = None if real_logits is None else _at_least_float32(real_logits)
        fake = _at_least_float32(fake_logits)
        return _at_least_float32(own_gen(real, fake, **over(axis_name)))

    return Loss(dis, gen, **facts)


def scaled(loss: Loss, logit_scale: float | Array) -> Loss:
    """Returns the loss at α times the logits, divided by α: L(α·r, α·f)/α (Qin, Mitra & Wonka 2020).

    Division keeps the slope at 0, so α alone decides how much of the loss's curve a Lipschitz D can reach: below 1
    it becomes nearly linear, above 1 its bends come back. Smoothing keeps its meaning (a target of the scaled logit).

    Args:
        loss: one of `LOSSES`.
        logit_scale: the factor α > 0, a number or a traced float32 scalar.

    Raises:
        ValueError: α is a number and not positive.
    """
    if isinstance(logit_scale, (int, float)) and logit_scale <= 0:
        raise ValueError(f"expected logit_scale > 0, got {logit_scale}")

    def dis(
        real_logits: Array,
        fake_logits: Array,
        *,
        smoothing: float | Array = 0.0,
        axis_name: str | None = None,
    ) -> Array:
        real, fake = _pair(real_logits, fake_logits)
        values = loss.dis(logit_scale * real, logit_scale * fake, smoothing=smoothing, axis_name=axis_name)
        return values / logit_scale

    def gen(real_logits: Array | None, fake_logits: Array, *, axis_name: str | None = None) -> Array:
        real = None if real_logits is None else logit_scale * _at_least_float32(real_logits)
        fake = logit_scale * _at_least_float32(fake_logits)
        return loss.gen(real, fake, axis_name=axis_name) / logit_scale

    return dataclasses.replace(loss, dis=dis, gen=gen)


def flip_labels(
    keys: Array, real_logits: Array, fake_logits: Array, probability: float | Array
) -> tuple[Array, Array]:
    """Adds label noise in D's step: with `probability`, pair i calls its real fake and its fake real.

    Swapping the logits of a pair is swapping its labels, for every loss (Chintala et al. 2016, "How to train a GAN",
    tip 6; Salimans et al. 2016 smooth instead). Not for G's step.

    Args:
        keys: the PRNG keys [N], one an image.
        real_logits, fake_logits: D's logits, [N] each.
        probability: a number in [0, 1], may be traced (annealed). 0 swaps none, exactly.

    Returns:
        (real_logits, fake_logits), [N] each, with the flipped pairs swapped.
    """
    threshold = jnp.asarray(probability, jnp.float32)
    flip = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32) < threshold)(keys)
    return jnp.where(flip, fake_logits, real_logits), jnp.where(flip, real_logits, fake_logits)
