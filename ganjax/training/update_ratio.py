"""How far a step moves the weights, measured on the call before a log line, beside the compiled step.

In the step it would cost: what is before and what is after would have to lie in memory together at every step.
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
    """The parameters of both networks in buffers of their own, which outlive the donated state."""
    return {net: jax.tree.map(jnp.copy, getattr(state, net).params) for net in NETS}


@functools.partial(jax.jit, static_argnames=("steps", "lead"))
def movement(before: dict[str, Tree], state: GanState, *, steps: int, lead: int = 0) -> dict[str, jax.Array]:
    """`update_ratio/gen` and `/dis`: ‖after − before‖ / (√steps · ‖before‖), some .001 in a steady run.

    The root makes it that of one step, if the steps of a call go each its own way.

    Args:
      before: `weights` of the state before a call.
      state: after it.
      steps: of the call.
      lead: axes of the leaves that number runs trained side by side; the results have them too.
    """

    def norm(tree: Tree) -> jax.Array:
        squares = [jnp.sum(jnp.square(x), axis=tuple(range(lead, x.ndim))) for x in jax.tree.leaves(tree)]
        return jnp.sqrt(sum(squares[1:], start=squares[0]))

    def ratio(net: str) -> jax.Array:
        change = jax.tree.map(jnp.subtract, getattr(state, net).params, before[net])
        return norm(change) / (steps**0.5 * jnp.maximum(norm(before[net]), 1e-12))

    return {f"update_ratio/{net}": ratio(net) for net in NETS}
