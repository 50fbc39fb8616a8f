"""Translates between the state on the devices and the arrays that orbax stores."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.experimental.v1._src.saving import execution

from ganjax.runtime.checkpoint import manifest
from ganjax.runtime.checkpoint.manifest import Arrays, Damaged

_ORBAX_LOCK = threading.Lock()


def _key_path(path: Sequence[Any]) -> tuple[str, ...]:
    """Returns the names on the way to a leaf. A name such as `fault/dis`, as metrics have, counts as two."""
    names = (jax.tree_util.keystr((key,), simple=True) for key in path)
    return tuple(part for name in names for part in name.split("/"))


def host_copy(state: Any) -> Arrays:
    """Returns path → host array that shares no memory with `state`. Blocks until the state is computed and copied."""
    leaves = [(_key_path(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(state)]
    paths = {path for path, _ in leaves}
    inside_another = any(path[:n] in paths for path in paths for n in range(len(path)))
    if () in paths or inside_another or len(paths) != len(leaves):
        raise ValueError("expected a state of named leaves, each with a path of its own")
    shards = [_whole_shard(leaf) for _, leaf in leaves]
    arrays: Arrays = {}
    for (path, _), shard, copy in zip(leaves, shards, jax.device_get(shards), strict=True):
        # From another device the transfer was the copy; on the CPU it is a view of the buffer to be donated.
        shares = not isinstance(shard, jax.Array) or next(iter(shard.devices())).platform == "cpu"
        arrays[path] = np.array(copy) if shares else np.asarray(copy)
    return arrays


def _whole_shard(leaf: Any) -> Any:
    """Returns one device's copy of a replicated array, whatever the number of devices and processes."""
    if not isinstance(leaf, jax.Array):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
            "the state holds a PRNG key; keys come from the seed and the step, they are never stored"
        )
    if not leaf.is_fully_replicated:
        raise ValueError(f"checkpoints take replicated arrays, got {leaf.sharding}")
    return leaf.addressable_data(0)


def write(folder: Path, arrays: Arrays) -> None:
    """Writes the arrays. `folder` appears, complete, when orbax has written all of them."""
    with _orbax():
        ocp.save(folder, _nest(arrays))


@contextlib.contextmanager
def _orbax() -> Iterator[None]:
    """Yields orbax to one caller in this process at a time.

    In orbax 0.12.8 a load removes the folder that a save in another thread is writing.

    With several processes orbax is set up as if this one were alone; else it would wait for the others to call it.
    """
    context = ocp.Context()
    with _ORBAX_LOCK, contextlib.ExitStack() as stack:
        if jax.process_count() > 1:
            context.multiprocessing.primary_host = jax.process_index()
            context.multiprocessing.active_processes = {jax.process_index()}
            # 0.12.8 compares the folder over all processes whatever it was told: a collective that only we enter.
            stack.enter_context(mock.patch.object(execution, "_check_directory_consistency", lambda _: None))
        stack.enter_context(context)
        yield


def _nest(arrays: Arrays) -> dict[str, Any]:
    """Returns plain dicts, which orbax reads back without our classes.

    Empty arrays are left out, since orbax refuses them.
    """
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        if array.size:
            branch = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = array
    return tree


def read(path: Path, leaves: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """Returns what orbax finds in the folder, with the empty arrays that it could not store.

    Raises:
      Damaged: orbax cannot read it, or holds other arrays than `leaves` says. Then none is read: zeros take no room
        on the disk, however many they are.
    """
    declared = {
        name: manifest.signature(leaf["dtype"], leaf["shape"])
        for name, leaf in leaves.items()
        if 0 not in leaf["shape"]
    }
    try:
        with _orbax():
            if signatures(ocp.metadata(path).metadata) != declared:
                raise Damaged("it holds other arrays than its manifest says")
            tree = ocp.load(path)
    except Damaged:
        raise
    except Exception as error:  # orbax raises whatever its parts raise
        raise Damaged(f"orbax cannot read it ({error})") from error
    arrays = {_key_path(keys): np.asarray(leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name, leaf in leaves.items():
        if 0 in leaf["shape"]:
            arrays[tuple(name.split("/"))] = np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
    return arrays


def _signature(leaf: Any) -> str:
    """Returns the signature of an array, a `jax.ShapeDtypeStruct` or a Python number, such as `float32[3, 3, 8, 8]`."""
    shaped = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return manifest.signature(np.dtype(shaped.dtype).name, shaped.shape)


def signatures(template: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(template)
    return {"/".join(_key_path(keys)): _signature(leaf) for keys, leaf in leaves}


def fill(template: Any, arrays: Arrays) -> Any:
    """Returns the arrays in the template's structure, with a Python number where the template has one."""

    def leaf(keys: Sequence[Any], wanted: Any) -> Any:
        array = arrays[_key_path(keys)]
        return array.item() if isinstance(wanted, bool | int | float | complex) else array

    return jax.tree_util.tree_map_with_path(leaf, template)


def quieten_orbax() -> None:
    """Silences what orbax logs needlessly.

    Orbax logs every phase through absl. It also logs tracebacks of errors that reach us as exceptions anyway.

    When one file of a save cannot be written, 0.12.8 closes its event loop and raises that error; the threads that
    write the other files then find the loop closed, each with a traceback that nobody can catch.
    """
    logger = logging.getLogger("absl")
    if _not_from_orbax not in logger.filters:
        logger.addFilter(_not_from_orbax)
    _quieten_late_writes()


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


@functools.cache
def _quieten_late_writes() -> None:
    """Hides errors of writes that outlived their event loop.

    All else that cannot be raised goes where it went before.
    """
    before = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        late = isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"
        if not (late and found.object is None):  # tensorstore names no object, Python's own finalizers do
            before(found)

    sys.unraisablehook = hook
