"""What the tests against the authors' code share: weights drawn by name, and relative errors.

`tests/oracles/*_authors.npz` hold what the authors' code gave, not weights: those are drawn here, by the names and
shapes of the authors' state dict, there and here alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from authors import error as error
from authors import load as load

from ganjax.models.mappings import Entry, export_weights, import_weights

# Compilation is most of what these tests take: XLA may leave out what only makes programs fast.
quick = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
KEPT = 64  # numbers of an array of gradients that are stored
Scale = Callable[[str, tuple[int, ...]], tuple[float, float]]


def draw(shapes: Mapping[str, tuple[int, ...]], scale: Scale, seed: int) -> dict[str, np.ndarray]:
    """Arrays by name, float32: one normal stream in the order of the names, times and plus what `scale` says."""
    rng, arrays = np.random.RandomState(seed), {}
    for name in sorted(shapes):
        factor, offset = scale(name, shapes[name])
        arrays[name] = np.asarray(offset + factor * rng.standard_normal(shapes[name]), np.float32)
    return arrays


def normal(*shape: int, seed: int) -> np.ndarray:
    """N(0, 1) float32."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def images(n: int, side: int, seed: int) -> np.ndarray:
    """U(-1, 1), [n, side, side, 3] float32."""
    return np.random.RandomState(seed).uniform(-1, 1, (n, side, side, 3)).astype(np.float32)


def kept(x: Any) -> np.ndarray:
    """At most `KEPT` numbers of an array, evenly spread."""
    flat = np.asarray(x, np.float32).ravel()
    return flat[:: max(1, -(-flat.size // KEPT))]


def empty(net: Any, *inputs: Any) -> Any:
    """The variables of a network, as zeros."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, train=True))
    kinds = {name: tree for name, tree in shapes.items() if name != "intermediates"}
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), kinds)


def filled(entries: list[Entry], variables: Any, scale: Scale, seed: int) -> Any:
    """`variables` with drawn weights, each of which has an entry."""
    shapes = {name: x.shape for name, x in export_weights(entries, variables).items()}
    theirs = draw(shapes, scale, seed)
    ours = import_weights(entries, theirs, variables)
    back = export_weights(entries, ours)
    assert all(error(back[name], theirs[name]) < 1e-6 for name in theirs)
    paths = {tuple(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)}
    assert paths == {entry.ours for entry in entries}
    return ours


def gradient_errors(oracle: Mapping[str, np.ndarray], prefix: str, entries: list[Entry], grads: Any) -> float:
    """The largest error of the gradients of parameters, relative to the largest of each array.

    An array counts as no smaller than 1 % of the largest one, whose rounding it has.
    """
    expected = {name[len(prefix) :]: x for name, x in oracle.items() if name.startswith(prefix)}
    trained = [entry for entry in entries if entry.ours[0] == "params" and entry.theirs in expected]
    assert {entry.theirs for entry in trained} == set(expected)
    found = export_slopes(trained, {"params": grads})
    largest = max(float(np.abs(x).max()) for x in expected.values())
    return max(
        float(np.abs(kept(found[name]) - x).max() / max(np.abs(x).max(), 0.01 * largest))
        for name, x in expected.items()
    )


def export_slopes(entries: list[Entry], grads: Any) -> dict[str, np.ndarray]:
    """Gradients in the layout of the authors; where a mapping scales by s, a gradient is scaled by 1/s."""
    found = {}
    for entry in entries:
        node = grads
        for key in entry.ours:
            node = node[key]
        array = np.asarray(node, np.float64)
        one = float(np.abs(entry.to_theirs(np.ones_like(array))).max())
        found[entry.theirs] = np.asarray(entry.to_theirs(array)) / one**2
    return found
