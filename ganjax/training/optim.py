"""One network's optimiser: an optax chain whose learning rate is set anew at each step.

The rate is a traced value (`peak × schedule(step)`), so runs that differ in it share one program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any


@dataclass(frozen=True)
class Optimizer:
    """Optimiser of one network: an optax chain, its schedule, and the projection of the parameters after an update.

    Attributes:
      tx: the chain, built with `optax.inject_hyperparams`, with `learning_rate` among them.
      schedule: the function from a step [] int32 to the factor on the peak rate, [] float32.
      beta2: the function from a step to the optimiser's β₂ where it changes, else None.
      project: the function from new parameters to parameters (weight clipping), or the identity.
    """

    tx: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]
    project: Callable[[Tree], Tree] = lambda params: params
    beta2: Callable[[jax.Array], jax.Array] | None = None

    def update(
        self, grads: Tree, opt_state: Any, params: Tree, *, step: jax.Array, peak: jax.Array
    ) -> tuple[Tree, Any, jax.Array]:
        """Returns the new parameters, the new optimiser state and the learning rate that was used."""
        rate = peak * self.schedule(step)
        hyper = {**opt_state.hyperparams, "learning_rate": rate}
        if self.beta2 is not None:
            hyper["beta2"] = self.beta2(step)
        opt_state = opt_state._replace(hyperparams=hyper)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, opt_state = self.tx.update(grads, opt_state, params)
        return self.project(optax.apply_updates(params, updates)), opt_state, rate


# name → (rate, β₁, β₂, ε, decay) → the optax rule.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate, beta1, beta2, eps, decay: optax.adam(rate, beta1, beta2, eps),
    "adamw": lambda rate, beta1, beta2, eps, decay: optax.adamw(rate, beta1, beta2, eps, weight_decay=decay),
    # optax adds eps inside the root by default: 1e-8 would be 1e-4 there
    "rmsprop": lambda rate, beta1, beta2, eps, decay: optax.rmsprop(
        rate, decay=beta2, eps=eps, eps_in_sqrt=False
    ),
    "sgd": lambda rate, beta1, beta2, eps, decay: optax.sgd(rate, momentum=beta1 or None),
    "lion": lambda rate, beta1, beta2, eps, decay: optax.lion(rate, beta1, beta2, weight_decay=decay),
}


def make_chain(
    name: str,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    inject_beta2: bool = False,
) -> optax.GradientTransformation:
    """Returns the optax chain of an optimiser.

    Args:
      name: the key in `OPTIMIZERS`; rmsprop decays by `beta2`, sgd has momentum `beta1`.
      beta1, beta2, eps: the numbers of Adam.
      weight_decay: the decoupled weight decay, for adamw and lion.
      clip_norm: the largest global norm of the gradient; 0 for none.
      inject_beta2: True if β₂ too is set anew at each step.
    """

    def chain(learning_rate: float, beta2: float = beta2) -> optax.GradientTransformation:
        rule = OPTIMIZERS[name](learning_rate, beta1, beta2, eps, weight_decay)
        return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule

    fixed = () if inject_beta2 else ("beta2",)
    inject = optax.inject_hyperparams(chain, static_args=fixed, hyperparam_dtype=jnp.float32)
    return inject(learning_rate=1.0, beta2=beta2)


def make_progress(
    kind: str, *, steps: int, warmup_steps: int = 0, end: float = 1.0
) -> Callable[[jax.Array], jax.Array]:
    """Makes the function that says how far a schedule has come, 0 to 1.

    It stays 0 for constant; else it is linear or half a cosine after the warm-up.

    Args:
      kind: one of constant, linear and cosine.
      steps: the number of steps of the run.
      warmup_steps: the number of steps before it starts.
      end: the share of `steps` at which it reaches 1.
    """
    length = max(end * steps - warmup_steps, 1.0)

    def progress(step: jax.Array) -> jax.Array:
        done = jnp.clip((step.astype(jnp.float32) - warmup_steps) / length, 0.0, 1.0)
        if kind == "constant":
            return jnp.zeros_like(done)
        return done if kind == "linear" else 0.5 * (1.0 - jnp.cos(jnp.pi * done))

    return progress


def make_schedule(
    kind: str, *, steps: int, warmup_steps: int, final_scale: float, end: float = 1.0
) -> Callable[[jax.Array], jax.Array]:
    """Makes the function of the factor on the peak rate: linear warm-up, then from 1 to `final_scale`.

    After the warm-up it falls as `make_progress` says.

    The first warm-up step already moves: 1/warmup.
    """
    progress = make_progress(kind, steps=steps, warmup_steps=warmup_steps, end=end)

    def schedule(step: jax.Array) -> jax.Array:
        warm = jnp.minimum((step.astype(jnp.float32) + 1.0) / max(warmup_steps, 1), 1.0)
        return warm * (1.0 + (final_scale - 1.0) * progress(step))

    return schedule
