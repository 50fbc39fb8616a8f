"""The state of a run: one pytree that a step takes and gives back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

Tree = Any


@struct.dataclass
class NetState:
    """One network: parameters, every other collection (`spectral`, `batch_stats`), and its optimiser's state."""

    params: Tree
    stats: Tree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Tree]:
        """What Linen's `apply` takes."""
        return {"params": self.params, **self.stats}


@struct.dataclass
class GanState:
    """Everything that goes on from step to step.

    Attributes:
      step: [] int32, generator updates done. No key is stored: it is `fold_in(seed, step)`.
      gen, dis: the two networks.
      ema: averaged variables of G: `params` and `batch_stats`; `spectral` as G's own.
      control: what techniques carry from step to step (ADA's p, LeCam's averages, D's accuracy), float32 scalars,
        and `fault/dis`, `fault/gen`: int32, the first step with a non-finite loss or gradient, or -1.
      hyper: float32 scalars and the uint32 `seed`; traced, so that runs which differ here share a program.
    """

    step: jax.Array
    gen: NetState
    dis: NetState
    ema: Tree
    control: dict[str, jax.Array]
    hyper: dict[str, jax.Array]

    @property
    def seed(self) -> jax.Array:
        """[] uint32, of which every key is made."""
        return self.hyper["seed"]

    def net(self, name: str) -> NetState:
        """Returns the network `gen` or `dis`."""
        return {"gen": self.gen, "dis": self.dis}[name]

    def with_net(self, name: str, net: NetState) -> GanState:
        """Returns the state with another `gen` or `dis`."""
        changes: dict[str, Any] = {name: net}
        return dataclasses.replace(self, **changes)


def copy_tree(tree: Tree) -> Tree:
    """New buffers with the same values: a donated pytree must not hold a buffer twice."""
    return jax.tree.map(jnp.copy, tree)


def count_parameters(params: Tree) -> int:
    """Numbers in a pytree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
