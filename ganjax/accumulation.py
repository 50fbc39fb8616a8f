"""Gradients of a batch that is computed in parts, for what does not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.state import NetState

Metrics = dict[str, jax.Array]
Tree = Any


def accumulated(
    loss: Callable[..., Any], net: NetState, batch: tuple[Any, ...], parts: int
) -> tuple[Any, Tree, Metrics]:
    """Gradients, statistics and metrics of `loss`, the mean over `parts` equal parts of the batch.

    Spectral vectors move with the first part only, as they would in one pass over the whole batch.
    """
    gradient = jax.grad(loss, has_aux=True)
    stats: Tree = net.stats
    sums: Any = None
    for i in range(parts):
        grads, (stats, metrics) = gradient(net.params, stats, part_of(batch, i, parts), move=i == 0)
        sums = (grads, metrics) if sums is None else jax.tree.map(jnp.add, sums, (grads, metrics))
    grads, metrics = sums if parts == 1 else jax.tree.map(lambda x: x / parts, sums)
    return grads, stats, metrics


def part_of(batch: Tree, i: int, parts: int) -> Tree:
    """The `i`-th of `parts` equal parts of every array of `batch`."""

    def cut(x: jax.Array) -> jax.Array:
        size = x.shape[0] // parts
        return x[i * size : (i + 1) * size]

    return batch if parts == 1 else jax.tree.map(cut, batch)
