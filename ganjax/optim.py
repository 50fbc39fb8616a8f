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
    """An optax chain, its schedule, and the projection of the parameters after an update.

    Attributes:
      tx: built with `optax.inject_hyperparams`, with `learning_rate` among them.
      schedule: step [] int32 → factor on the peak rate, [] float32.
      project: new parameters → parameters (weight clipping), or the identity.
    """

    tx: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]
    project: Callable[[Tree], Tree] = lambda params: params

    def update(
        self, grads: Tree, opt_state: Any, params: Tree, *, step: jax.Array, peak: jax.Array
    ) -> tuple[Tree, Any, jax.Array]:
        """New parameters, new optimiser state and the learning rate that was used."""
        rate = peak * self.schedule(step)
        opt_state = opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, opt_state = self.tx.update(grads, opt_state, params)
        return self.project(optax.apply_updates(params, updates)), opt_state, rate


def make_chain(
    name: str,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """The optax chain `name`: adam, adamw, rmsprop, sgd or lion.

    Args:
      name: of the optimiser; rmsprop decays by `beta2`, sgd has momentum `beta1`.
      beta1, beta2, eps: as in Adam.
      weight_decay: decoupled, for adamw and lion.
      clip_norm: largest global norm of the gradient; 0 for none.
    """

    def chain(learning_rate: float) -> optax.GradientTransformation:
        rule = {
            "adam": lambda: optax.adam(learning_rate, beta1, beta2, eps),
            "adamw": lambda: optax.adamw(learning_rate, beta1, beta2, eps, weight_decay=weight_decay),
            # optax adds eps inside the root by default: 1e-8 would be 1e-4 there
            "rmsprop": lambda: optax.rmsprop(learning_rate, decay=beta2, eps=eps, eps_in_sqrt=False),
            "sgd": lambda: optax.sgd(learning_rate, momentum=beta1 or None),
            "lion": lambda: optax.lion(learning_rate, beta1, beta2, weight_decay=weight_decay),
        }[name]()
        return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule

    return optax.inject_hyperparams(chain, hyperparam_dtype=jnp.float32)(learning_rate=1.0)


def make_schedule(
    kind: str, *, steps: int, warmup_steps: int, final_scale: float
) -> Callable[[jax.Array], jax.Array]:
    """Factor on the peak rate: linear warm-up, then constant, linear or cosine to `final_scale` at `steps`.

    The first warm-up step already moves: 1/warmup.
    """

    def schedule(step: jax.Array) -> jax.Array:
        done = step.astype(jnp.float32)
        warm = jnp.minimum((done + 1.0) / max(warmup_steps, 1), 1.0)
        rest = jnp.clip((done - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        shape = {
            "constant": lambda: jnp.ones_like(rest),
            "linear": lambda: 1.0 - rest * (1.0 - final_scale),
            "cosine": lambda: final_scale + (1.0 - final_scale) * 0.5 * (1.0 + jnp.cos(jnp.pi * rest)),
        }[kind]()
        return warm * shape

    return schedule
