"""Devices: how many, and how one per-device step becomes one call over all of them.

The step is written for one device with an `axis_name`; only this file knows how it is mapped, how many steps
a call makes, and which backend wants what.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ganjax.errors import UserError
from ganjax.state import GanState
from ganjax.step import Batch, Game, Metrics, train_step

AXIS = "devices"
MIN_IMAGES_PER_CPU_DEVICE = 16
Tree = Any
Update = Callable[[GanState, Tree], tuple[GanState, Metrics]]


def prepare_backend(batch_size: int, unit: int, devices: int) -> None:
    """To be called before JAX touches a device: chooses how many CPU devices there are.

    One per core pays off on CPU as long as each keeps a batch worth having. XLA's thread pool is as large as
    the machine, and collectives of several calls in flight can block all its threads: `PJRT_NPROC` enlarges it.
    What took a second or more to compile is kept in `~/.cache/ganjax/jax` (or `JAX_COMPILATION_CACHE_DIR`).

    Args:
      batch_size: images per update over all devices.
      unit: a device's share must be a multiple of this.
      devices: asked for; 0 chooses.
    """
    os.environ.setdefault("PJRT_NPROC", "16")
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "ganjax", "jax"))
    count = devices or cpu_devices(batch_size, unit, os.cpu_count() or 1)
    if jax.config.values["jax_num_cpu_devices"] != count:  # it may not be set, not even to the same, later on
        with contextlib.suppress(
            RuntimeError
        ):  # a notebook has used JAX before: its devices stay as they are
            jax.config.update("jax_num_cpu_devices", count)


def cpu_devices(batch_size: int, unit: int, cores: int) -> int:
    """The most devices, up to one a core, that split the batch evenly and keep 16 images or more each."""
    fitting = (
        n
        for n in range(cores, 1, -1)
        if batch_size % (n * unit) == 0 and batch_size // n >= MIN_IMAGES_PER_CPU_DEVICE
    )
    return next(fitting, 1)


def choose_devices(batch_size: int, unit: int, wanted: int) -> list[jax.Device]:
    """The devices of a run.

    Raises:
      UserError: fewer devices than wanted, or a batch that does not divide among them.
    """
    available = jax.devices()
    if wanted > len(available):
        raise UserError(
            f"parallel.devices={wanted}, and this machine has {len(available)} ({available[0].platform})."
        )
    count = wanted or len(available)
    if batch_size % (count * unit):
        raise UserError(
            f"train.batch_size={batch_size} does not divide among {count} devices in multiples of {unit} "
            f"(accumulation × packing); use a multiple of {count * unit}, or set --config.parallel.devices."
        )
    return available[:count]


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of one axis over `devices`."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Every leaf on every device, in buffers of its own, as `pmap` and `shard_map` both take it."""
    sharding = NamedSharding(make_mesh(devices), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), sharding), tree)


def make_update(
    game: Game,
    deliver: Callable[[Tree, GanState, jax.Array], Batch],
    devices: Sequence[jax.Device],
    *,
    batch_size: int,
    mode: str,
    steps: int,
    scan: bool,
) -> Update:
    """The compiled call `(state, data) -> (state, metrics)`: `steps` train steps over all devices.

    State and data are replicated, the state is donated; metrics are means over the steps. Nothing is
    transferred from the host.

    Args:
      game, deliver: see `factory.build`.
      devices: to use.
      batch_size: images over all devices.
      mode: `pmap` or `shard_map`; the same program either way.
      steps: train steps a call.
      scan: a loop on the device; otherwise the steps are unrolled (on CPU, where convolutions in a loop crawl).
    """
    share = batch_size // len(devices)

    def several(state: GanState, data: Tree, device: jax.Array) -> tuple[GanState, Metrics]:
        def one(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
            index = device * share + jnp.arange(share, dtype=jnp.int32)
            return train_step(game, state, deliver(data, state, index))

        return several_steps(one, steps, scan)(state, data)

    numbers = np.arange(len(devices), dtype=np.int32)
    sharded = jax.device_put(numbers, NamedSharding(make_mesh(devices), PartitionSpec(AXIS)))
    mapped = map_over_devices(several, devices, mode)
    return lambda state, data: mapped(state, data, sharded)


def map_over_devices(
    function: Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]],
    devices: Sequence[jax.Device],
    mode: str,
) -> Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]]:
    """`function(state, data, device number [])` over all devices; state and data replicated, state donated."""
    if mode == "pmap":
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )
    return jax.jit(
        jax.shard_map(
            lambda state, data, device: function(state, data, device[0]),
            mesh=make_mesh(devices),
            in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec()),
            check_vma=False,
        ),
        donate_argnums=0,
    )


def make_population_update(
    game: Game,
    deliver: Callable[[Tree, GanState, jax.Array], Batch],
    devices: Sequence[jax.Device],
    *,
    batch_size: int,
    steps: int,
    scan: bool,
    several: bool,
    own_data: bool,
) -> Update:
    """The compiled call `(states, data) -> (states, metrics)`: `steps` train steps of many runs side by side.

    Every leaf of `states` but `step` [D] is [D, K, …]: K runs on each of the D devices, or [D, …] without `several`. No
    run sees another, so nothing is exchanged between devices, and a run's numbers do not depend on its neighbours.

    Args:
      game, deliver: of one run on one device: its `axis_name` is None.
      devices: to use; the states say how many runs each gets.
      batch_size: images of an update of one run.
      steps, scan: as for `make_update`.
      several: whether a device has an axis K of runs.
      own_data: whether each run has data of its own, leaves [D, K, …] too, or all share one copy on each device.
    """
    index = np.arange(batch_size, dtype=np.int32)

    def one(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
        return train_step(game, state, deliver(data, state, jnp.asarray(index)))

    advance = several_steps(one, steps, scan)

    each = 0 if own_data else None
    if (
        several
    ):  # the step is common, so what is done at every n-th step stays a branch and is not always computed
        axes: Any = GanState(step=None, gen=0, dis=0, ema=0, control=0, hyper=0)  # type: ignore[arg-type]
        advance = jax.vmap(advance, in_axes=(axes, each), out_axes=(axes, 0))
    return jax.pmap(advance, in_axes=(0, each), donate_argnums=0, devices=devices)


def several_steps(
    one: Callable[[GanState, Tree], tuple[GanState, Metrics]], steps: int, scan: bool
) -> Callable[[GanState, Tree], tuple[GanState, Metrics]]:
    """`one` step made `steps` times, with the mean of the metrics; unrolled, or a loop on the device."""

    def several(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
        if steps == 1:
            return one(state, data)
        if scan:
            state, stacked = jax.lax.scan(lambda s, _: one(s, data), state, None, length=steps)
            return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)
        rows = []
        for _ in range(steps):
            state, metrics = one(state, data)
            rows.append(metrics)
        return state, jax.tree.map(lambda *x: sum(x[1:], start=x[0]) / steps, *rows)

    return several


def make_generator(
    apply: Callable[[Tree, jax.Array, jax.Array], Tree], devices: Sequence[jax.Device], share: int
) -> Callable[[Tree, int, int], Tree]:
    """`(variables, seed, start) -> images start … start + share·devices - 1`, as host arrays.

    `apply(variables, seed [] uint32, index [share])` makes one device's images; what an image is depends on the seed
    and its index alone.
    """
    count = len(devices)
    mapped = jax.pmap(apply, in_axes=(None, None, 0), devices=devices)

    def call(variables: Tree, seed: int, start: int) -> Tree:
        index = np.arange(start, start + share * count, dtype=np.int32).reshape(count, share)
        images = jax.device_get(mapped(variables, np.uint32(seed), index))
        return jax.tree.map(lambda x: x.reshape(count * share, *x.shape[2:]), images)

    return call
