"""Measures how far a step moves the weights, on the call before a log line, beside the compiled step.

Inside the step it would cost memory: the weights before and after would lie in memory together at every step.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.training.state import GanState

Tree = Any
NETS = ("gen", "dis")


@jax.jit
def weights(state: GanState) -> dict[str, Tree]:
    """Copies the parameters of both networks to buffers of their own, which outlive the donated state."""
    return {net: jax.tree.map(jnp.copy, getattr(state, net).params) for net in NETS}


@functools.partial(jax.jit, static_argnames=("steps", "lead"))
def movement(before: dict[str, Tree], state: GanState, *, steps: int, lead: int = 0) -> dict[str, jax.Array]:
    """Returns `update_ratio/gen` and `/dis`: ‖after − before‖ / (√steps · ‖before‖), some .001 in a steady run.

    The root makes it the ratio of one step, if the steps of a call go each its own way.

    Args:
      before: the `weights` of the state before a call.
      state: the state after the call.
      steps: the number of steps of the call.
      lead: the axes of the leaves that number runs trained side by side; the results have them too.
    """

    def norm(tree: Tree) -> jax.Array:
        squares = [jnp.sum(jnp.square(x), axis=tuple(range(lead, x.ndim))) for x in jax.tree.leaves(tree)]
        return jnp.sqrt(sum(squares[1:], start=squares[0]))

    def ratio(net: str) -> jax.Array:
        change = jax.tree.map(jnp.subtract, getattr(state, net).params, before[net])
        return norm(change) / (steps**0.5 * jnp.maximum(norm(before[net]), 1e-12))

    return {f"update_ratio/{net}": ratio(net) for net in NETS}
