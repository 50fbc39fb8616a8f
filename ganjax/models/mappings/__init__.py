"""Names and layouts of a family's parameters in its authors' PyTorch code, one file a family.

A mapping is a list of entries. It copies weights both ways: from a state dict of theirs to variables of ours, and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganjax.runtime.errors import UserError

Tree = Any
Change = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
    """Returns the array as it is."""
    return x


def conv_to_ours(x: np.ndarray) -> np.ndarray:
    """Returns a kernel [O, I, kh, kw] as [kh, kw, I, O]."""
    return x.transpose(2, 3, 1, 0)


def conv_to_theirs(x: np.ndarray) -> np.ndarray:
    """Returns a kernel [kh, kw, I, O] as [O, I, kh, kw]."""
    return x.transpose(3, 2, 0, 1)


def dense(x: np.ndarray) -> np.ndarray:
    """Returns a matrix [O, I] as [I, O], or the other way round."""
    return x.T


@dataclass(frozen=True)
class Entry:
    """Array of ours and its counterpart in the authors' code.

    Attributes:
      ours: the path in the variables, the collection first: `("params", "Conv_0", "kernel")`.
      theirs: the name in the state dict.
      to_ours, to_theirs: the functions from the one layout to the other, each the other's inverse.
      part: (i, n) where ours is the i-th of n equal pieces of theirs along its second axis, else None.
    """

    ours: tuple[str, ...]
    theirs: str
    to_ours: Change = same
    to_theirs: Change = same
    part: tuple[int, int] | None = None


def conv(ours: tuple[str, ...], theirs: str) -> Entry:
    """Returns the entry of a convolution's kernel."""
    return Entry(ours, theirs, conv_to_ours, conv_to_theirs)


def matrix(ours: tuple[str, ...], theirs: str) -> Entry:
    """Returns the entry of a dense layer's kernel."""
    return Entry(ours, theirs, dense, dense)


def import_weights(entries: Iterable[Entry], state_dict: Mapping[str, np.ndarray], variables: Tree) -> Tree:
    """Returns `variables` with every array that has an entry replaced by the authors' array.

    Args:
      entries: the entries of one network.
      state_dict: names → arrays; names without an entry are left out.
      variables: nested dicts of arrays, whose shapes and types the result has.

    Raises:
      UserError: the state dict lacks a name, or has another shape.
    """
    result = _copy(variables)
    for entry in entries:
        if entry.theirs not in state_dict:
            raise UserError(f"the weights have no {entry.theirs}; they are those of another network.")
        *above, name = entry.ours
        node = result
        for key in above:
            node = node[key]
        array = np.asarray(state_dict[entry.theirs])
        if entry.part:
            array = np.split(array, entry.part[1], axis=1)[entry.part[0]]
        value, old = entry.to_ours(array), node[name]
        if value.shape != old.shape:
            raise UserError(
                f"{entry.theirs} of the weights is {value.shape} for {'/'.join(entry.ours)}, which is {old.shape}; "
                "choose the options of the network that they belong to."
            )
        node[name] = value.astype(old.dtype)
    return result


def export_weights(entries: Iterable[Entry], variables: Tree) -> dict[str, np.ndarray]:
    """Returns `variables` under the names and in the layouts of the state dict; the inverse of `import_weights`."""
    arrays: dict[str, np.ndarray] = {}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        node = variables
        for key in entry.ours:
            node = node[key]
        array = np.asarray(entry.to_theirs(np.asarray(node)), order="C")
        if entry.part:
            pieces.setdefault(entry.theirs, {})[entry.part[0]] = array
        else:
            arrays[entry.theirs] = array
    joined = {name: np.concatenate([some[i] for i in sorted(some)], axis=1) for name, some in pieces.items()}
    return arrays | joined


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree
