"""Devices: how many, and how one per-device step becomes one call over all of them.

The step is written for one device with an `axis_name`; only this file knows how it is mapped, how many steps
a call makes, and which backend wants what.
"""

from __future__ import annotations

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
    jax.config.update("jax_num_cpu_devices", devices or cpu_devices(batch_size, unit, os.cpu_count() or 1))


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


def divide(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Every leaf [devices, …] divided among the devices along its first axis."""
    return jax.device_put(tree, NamedSharding(make_mesh(devices), PartitionSpec(AXIS)))


def resident_budget(devices: Sequence[jax.Device]) -> int:
    """Bytes of images that may lie on every device and on the host: a quarter of the memory of either.

    A CPU device shares the host's memory, which then holds them once more for each.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if devices[0].platform == "cpu":
        return host // 4 // (1 + len(devices))
    limits = [(device.memory_stats() or {}).get("bytes_limit", host) for device in devices]
    return min(host, *limits) // 4


def make_update(
    game: Game,
    deliver: Callable[[Tree, GanState, jax.Array], Batch],
    devices: Sequence[jax.Device],
    *,
    batch_size: int,
    mode: str,
    steps: int,
    scan: bool,
    streams: bool = False,
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
      streams: the data are [devices, steps, …], divided among the devices, instead of replicated.
    """
    share = batch_size // len(devices)

    def one(state: GanState, data: Tree, device: jax.Array) -> tuple[GanState, Metrics]:
        index = device * share + jnp.arange(share, dtype=jnp.int32)
        return train_step(game, state, deliver(data, state, index))

    def several(state: GanState, data: Tree, device: jax.Array) -> tuple[GanState, Metrics]:
        of_step = (lambda i: jax.tree.map(lambda x: x[i], data)) if streams else lambda i: data
        if steps == 1:
            return one(state, of_step(0), device)
        if scan:
            each = lambda s, own: one(s, own if streams else data, device)
            state, stacked = jax.lax.scan(each, state, data if streams else None, length=steps)
            return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)
        rows = []
        for i in range(steps):
            state, metrics = one(state, of_step(i), device)
            rows.append(metrics)
        return state, jax.tree.map(lambda *x: sum(x[1:], start=x[0]) / steps, *rows)

    numbers = np.arange(len(devices), dtype=np.int32)
    sharded = divide(numbers, devices)
    mapped = map_over_devices(several, devices, mode, streams)
    return lambda state, data: mapped(state, data, sharded)


def map_over_devices(
    function: Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]],
    devices: Sequence[jax.Device],
    mode: str,
    streams: bool = False,
) -> Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]]:
    """`function(state, data, device number [])` over all devices; the state is replicated and donated.

    Data are replicated too, or, where they are a stream, divided along their first axis.
    """
    if mode == "pmap":
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=(None, 0 if streams else None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )
    return jax.jit(
        jax.shard_map(
            lambda state, data, device: function(
                state, jax.tree.map(lambda x: x[0], data) if streams else data, device[0]
            ),
            mesh=make_mesh(devices),
            in_specs=(
                PartitionSpec(),
                PartitionSpec(AXIS) if streams else PartitionSpec(),
                PartitionSpec(AXIS),
            ),
            out_specs=(PartitionSpec(), PartitionSpec()),
            check_vma=False,
        ),
        donate_argnums=0,
    )


def make_generator(
    apply: Callable[[Tree, jax.Array], Tree], devices: Sequence[jax.Device], share: int
) -> Callable[[Tree, int], Tree]:
    """`(variables, start) -> images start … start + share·devices - 1`, as host arrays.

    `apply(variables, index [share])` makes one device's images; what an image is depends on its index alone.
    """
    count = len(devices)
    mapped = jax.pmap(apply, in_axes=(None, 0), devices=devices)

    def call(variables: Tree, start: int) -> Tree:
        index = np.arange(start, start + share * count, dtype=np.int32).reshape(count, share)
        images = jax.device_get(mapped(variables, index))
        return jax.tree.map(lambda x: x.reshape(count * share, *x.shape[2:]), images)

    return call
