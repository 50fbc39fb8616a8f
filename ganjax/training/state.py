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
    """State of one network: parameters, every other collection (`spectral`, `batch_stats`), and optimiser state."""

    params: Tree
    stats: Tree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Tree]:
        """Variables in the form that Linen's `apply` takes."""
        return {"params": self.params, **self.stats}


@struct.dataclass
class GanState:
    """Values that go on from step to step.

    Attributes:
      step: the generator updates done, [] int32. No key is stored: it is `fold_in(seed, step)`.
      gen, dis: the two networks.
      ema: the averaged variables of G: `params` and `batch_stats`; `spectral` as G's own.
      control: the control values, which techniques carry from step to step (ADA's p, LeCam's averages, D's accuracy),
        float32 scalars, and `fault/dis`, `fault/gen`: int32, the first step with a non-finite loss or gradient, or -1.
      hyper: the float32 scalars and the uint32 `seed`; traced, so that runs which differ here share a program.
    """

    step: jax.Array
    gen: NetState
    dis: NetState
    ema: Tree
    control: dict[str, jax.Array]
    hyper: dict[str, jax.Array]

    @property
    def seed(self) -> jax.Array:
        """Seed of which every key is made, [] uint32."""
        return self.hyper["seed"]

    def net(self, name: str) -> NetState:
        """Returns the network `gen` or `dis`."""
        return {"gen": self.gen, "dis": self.dis}[name]

    def with_net(self, name: str, net: NetState) -> GanState:
        """Returns the state with another `gen` or `dis`."""
        changes: dict[str, Any] = {name: net}
        return dataclasses.replace(self, **changes)


def copy_tree(tree: Tree) -> Tree:
    """Returns new buffers with the same values: a donated pytree must not hold a buffer twice."""
    return jax.tree.map(jnp.copy, tree)


def count_parameters(params: Tree) -> int:
    """Returns the number of values in a pytree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
