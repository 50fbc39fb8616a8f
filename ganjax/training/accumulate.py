"""Computes gradients of a batch in parts: one after another, for want of memory, or on several devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ganjax.training.state import NetState

Metrics = dict[str, jax.Array]
Tree = Any


def accumulate(
    loss: Callable[..., Any], net: NetState, inputs: Tree, parts: int
) -> tuple[Any, Tree, Metrics]:
    """Returns gradients, statistics and metrics of `loss`, the mean over `parts` equal parts of the batch.

    Spectral vectors move with the first part only, as they would in one pass over the whole batch.
    """
    gradient = jax.grad(loss, has_aux=True)
    stats: Tree = net.stats
    sums: Any = None
    for i in range(parts):
        grads, (stats, metrics) = gradient(net.params, stats, part_of(inputs, i, parts), update_stats=i == 0)
        sums = (grads, metrics) if sums is None else jax.tree.map(jnp.add, sums, (grads, metrics))
    grads, metrics = sums if parts == 1 else jax.tree.map(lambda x: x / parts, sums)
    return grads, stats, metrics


def part_of(inputs: Tree, i: int, parts: int) -> Tree:
    """Returns the `i`-th of `parts` equal parts of every array of `inputs`."""

    def cut(x: jax.Array) -> jax.Array:
        size = x.shape[0] // parts
        return x[i * size : (i + 1) * size]

    return inputs if parts == 1 else jax.tree.map(cut, inputs)


def mean_over_devices(
    grads: Tree, metrics: Metrics, stats: Tree, axis_name: str | None
) -> tuple[Tree, Metrics, Tree]:
    """Averages gradients, metrics and batch statistics over devices in one exchange.

    Without an axis they stay as they are.

    They travel as one vector: left to itself, XLA joins them by what waits for them, in two or three all-reduces.
    Spectral vectors are not sent, since they depend on the weights alone.
    """
    if axis_name is None:
        return grads, metrics, stats
    batch_stats = {name: value for name, value in stats.items() if name == "batch_stats"}
    vector, unravel = ravel_pytree((grads, metrics, batch_stats))
    grads, metrics, batch_stats = unravel(jax.lax.pmean(vector, axis_name))
    return grads, metrics, {**stats, **batch_stats}
