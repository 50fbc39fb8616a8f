"""Devices: their number, and how one per-device step becomes one call over all of them, in all processes.

The step is written for one device with an `axis_name`; only this file knows how it is mapped, how many steps
a call makes, and which backend wants what. Devices are in the order of their processes, so that each process has
a contiguous share of the batch.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ganjax.data.delivery import MakeBatch
from ganjax.models.layers import native
from ganjax.runtime import allocator as machine
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import cache_dir
from ganjax.training.forward import GAN, Metrics
from ganjax.training.state import GanState
from ganjax.training.step import train_step

AXIS = "devices"
MIN_IMAGES_PER_CPU_DEVICE = 16
CACHE_BYTES = 2 * 1024**3  # of compiled programs; what was used longest ago goes first
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, also for what comes from the cache
MIN_COMPILE_SECONDS = 0.05  # what takes less leaves little behind
Tree = Any

Update = Callable[[GanState, Tree], tuple[GanState, Metrics]]


class Shares:
    """Function of (variables, rows), the rows shared among devices: the result of `map_shares`."""

    def __init__(self, jitted: Any, sharding: NamedSharding) -> None:
        """Takes the jitted function, and the sharding of its rows."""
        self._jitted = self._function = jitted
        self._sharding = sharding

    def compile(self, variables: Tree, rows: Tree) -> None:
        """Compiles for arguments like these, in another thread for instance; nothing is computed."""
        self._function = self._jitted.lower(variables, self._placed(rows)).compile()

    def __call__(self, variables: Tree, rows: Tree) -> Tree:
        """Returns the results of all shares in order, as host arrays."""
        return jax.device_get(self._function(variables, self._placed(rows)))

    def _placed(self, rows: Tree) -> Tree:
        return jax.tree.map(lambda row: place(row, self._sharding), rows)


def prepare_backend(batch_size: int, unit: int, devices: int) -> None:
    """Chooses the number of CPU devices. Call it before JAX touches a device.

    One per core pays off on CPU as long as each keeps a batch worth having. `PJRT_NPROC` is the size of XLA's thread
    pool: a thread a core is fastest, since operations are cut into as many parts (docs/performance.md), and safe
    while no more than two calls are in flight (`IN_FLIGHT` in training.py); with more, their collectives can block
    all threads. Several processes, and more devices than cores, get a larger one.
    What was compiled is kept in `~/.cache/ganjax/programs`, up to `CACHE_BYTES` (or in `JAX_COMPILATION_CACHE_DIR`).

    Args:
      batch_size: the number of images per update over all devices.
      unit: the number that a device's share must be a multiple of.
      devices: the number of devices asked for, over all processes; 0 leaves the choice.

    Raises:
      UserError: the devices do not divide among the processes.
    """
    count = processes.count()
    if devices % count:
        raise UserError(
            f"parallel.devices={devices} does not divide among {count} processes; use a multiple of {count}."
        )
    cores = os.cpu_count() or 1
    own = devices // count or cpu_devices(batch_size // count, unit, cores)
    os.environ.setdefault("PJRT_NPROC", str(cores if count == 1 and own <= cores else 16))
    _keep_compiled()
    _release_after_compiling()
    if jax.config.values["jax_num_cpu_devices"] != own:  # it may not be set, not even to the same, later on
        with contextlib.suppress(
            RuntimeError
        ):  # a notebook has used JAX before: its devices stay as they are
            jax.config.update("jax_num_cpu_devices", own)


@functools.cache  # one listener a process
def _release_after_compiling() -> None:
    """Gives back to the system on CPU, after each compilation, what the compiler held: else it adds to the peak."""
    if not native.only_cpu() or (release := machine.releaser()) is None:
        return

    def after(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs > MIN_COMPILE_SECONDS:
            release()

    jax.monitoring.register_event_duration_secs_listener(after)


def _keep_compiled() -> None:
    """Sets JAX's persistent compilation cache, except where the user has set it.

    The bound goes with a folder of our own: in one that others write without a bound, JAX fails to keep it.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The many small ones of a start too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("programs")))
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


def cpu_devices(batch_size: int, unit: int, cores: int) -> int:
    """Returns the most devices, up to one a core, that split the batch evenly and keep 16 images or more each."""
    fitting = (
        n
        for n in range(cores, 1, -1)
        if batch_size % (n * unit) == 0 and batch_size // n >= MIN_IMAGES_PER_CPU_DEVICE
    )
    return next(fitting, 1)


def choose_devices(batch_size: int, unit: int, wanted: int) -> list[jax.Device]:
    """Chooses the devices of a run, as many of each process, in the order of the processes.

    Raises:
      UserError: there are fewer devices than wanted, or the batch does not divide among them.
    """
    several = processes.count()
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if wanted > len(available):
        where = f"these {several} processes have" if several > 1 else "this machine has"
        raise UserError(f"parallel.devices={wanted}, and {where} {len(available)} ({available[0].platform}).")
    count = wanted or len(available)
    if batch_size % (count * unit):
        raise UserError(
            f"train.batch_size={batch_size} does not divide among {count} devices"
            f"{f' of {several} processes' if several > 1 else ''} in multiples of {unit} "
            f"(accumulation × packing); use a multiple of {count * unit}, or set --config.parallel.devices."
        )
    own = [[device for device in available if device.process_index == i] for i in range(several)]
    if any(len(devices) < count // several for devices in own):
        raise UserError(
            f"All {several} processes need the same number of devices; they have {[len(devices) for devices in own]}."
        )
    return [device for devices in own for device in devices[: count // several]]


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Makes a mesh of one axis over `devices`."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Puts every leaf on every device, in buffers of its own, as `pmap` and `shard_map` both take it."""
    sharding = NamedSharding(make_mesh(devices), PartitionSpec())
    return jax.tree.map(lambda leaf: place(leaf, sharding), tree)


def place(array: Any, sharding: NamedSharding) -> jax.Array:
    """Puts the array, which every process holds whole, on the devices of `sharding`."""
    host = np.asarray(array)
    if sharding.is_fully_addressable:
        return jax.device_put(host, sharding)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def divide(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Divides every leaf [devices of this process, …] among these devices along its first axis."""
    sharding = NamedSharding(make_mesh(devices), PartitionSpec(AXIS))
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def resident_budget(devices: Sequence[jax.Device]) -> int:
    """Returns the bytes of images that may lie on every device and on the host: a quarter of the memory of either.

    A CPU device shares the host's memory, which then holds the images once more for each device.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if devices[0].platform == "cpu":
        return host // 4 // (1 + len(devices))
    limits = [(device.memory_stats() or {}).get("bytes_limit", host) for device in devices]
    return min(host, *limits) // 4


def make_update(
    gan: GAN,
    make_batch: MakeBatch,
    devices: Sequence[jax.Device],
    *,
    batch_size: int,
    mode: str,
    steps: int,
    scan: bool,
    streams: bool = False,
) -> Update:
    """Makes the compiled call `(state, data) -> (state, metrics)`: `steps` train steps over all devices.

    State and data are replicated, the state is donated; metrics are means over the steps. Nothing is
    transferred from the host.

    Args:
      gan, make_batch: the results of `training.build`.
      devices: the devices to use.
      batch_size: the number of images over all devices.
      mode: one of `pmap` and `shard_map`; the same program either way. Several processes always get `shard_map`: there
        `pmap` would copy the state between its local and global form at every call.
      steps: the number of train steps a call.
      scan: True for a loop on the device; else the steps are unrolled (on CPU, where convolutions in a loop crawl).
      streams: True if the data are [devices, steps, …], divided among the devices, instead of replicated.
    """
    share = batch_size // len(devices)

    def several(state: GanState, data: Tree, device: jax.Array) -> tuple[GanState, Metrics]:
        def one(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
            index = device * share + jnp.arange(share, dtype=jnp.int32)
            return train_step(gan, state, make_batch(data, state.seed, state.step, index))

        return several_steps(one, steps, scan, streams=streams)(state, data)

    numbers = np.arange(len(devices), dtype=np.int32)
    sharded = place(numbers, NamedSharding(make_mesh(devices), PartitionSpec(AXIS)))
    mapped = map_over_devices(several, devices, mode, streams)
    return lambda state, data: mapped(state, data, sharded)


def map_over_devices(
    function: Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]],
    devices: Sequence[jax.Device],
    mode: str,
    streams: bool = False,
) -> Callable[[GanState, Tree, jax.Array], tuple[GanState, Metrics]]:
    """Returns `function(state, data, device number [])` mapped over all devices. The state is replicated and donated.

    Data are replicated too, or, where they are a stream, divided along their first axis.
    """
    if mode == "pmap" and processes.count() == 1:
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


def map_shares(function: Callable[[Tree, Tree], Tree], devices: Sequence[jax.Device]) -> Shares:
    """Returns `(variables, rows) -> results`: `function` on each device's share of `rows`, all results in order.

    `variables` are replicated on the devices, `rows` host arrays [N, …] that all processes hold, N a multiple of the
    devices. Results are host arrays [M, …], the whole of them in every process. The axis is named.
    """
    several = processes.count() > 1
    mesh = make_mesh(devices)
    shares = NamedSharding(mesh, PartitionSpec(AXIS))

    def one(variables: Tree, rows: Tree) -> Tree:
        result = function(variables, rows)
        return jax.lax.all_gather(result, AXIS, tiled=True) if several else result

    mapped = jax.jit(
        jax.shard_map(
            one,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec() if several else PartitionSpec(AXIS),
            check_vma=False,
        )
    )
    return Shares(mapped, shares)


def make_population_update(
    gan: GAN,
    make_batch: MakeBatch,
    devices: Sequence[jax.Device],
    *,
    batch_size: int,
    steps: int,
    scan: bool,
    several: bool,
    own_data: bool,
) -> Update:
    """Makes the compiled call `(states, data) -> (states, metrics)`: `steps` train steps of many runs side by side.

    Every leaf of `states` but `step` [D] is [D, K, …]: K runs on each of the D devices, or [D, …] without `several`. No
    run reads another, so nothing is exchanged between devices, and a run's numbers do not depend on its neighbours.

    Args:
      gan, make_batch: those of one run on one device: its `axis_name` is None.
      devices: the devices to use; the states say how many runs each gets.
      batch_size: the number of images of an update of one run.
      steps, scan: as for `make_update`.
      several: True if a device has an axis K of runs.
      own_data: True if each run has data of its own, leaves [D, K, …] too, or all share one copy on each device.
    """
    index = np.arange(batch_size, dtype=np.int32)

    def one(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
        return train_step(gan, state, make_batch(data, state.seed, state.step, jnp.asarray(index)))

    advance = several_steps(one, steps, scan)

    each = 0 if own_data else None
    if several:  # the step is common, so what is due at every n-th step stays a branch
        axes: Any = GanState(step=None, gen=0, dis=0, ema=0, control=0, hyper=0)  # type: ignore[arg-type]
        advance = jax.vmap(advance, in_axes=(axes, each), out_axes=(axes, 0))
    return jax.pmap(advance, in_axes=(0, each), donate_argnums=0, devices=devices)


def several_steps(
    one: Callable[[GanState, Tree], tuple[GanState, Metrics]],
    steps: int,
    scan: bool,
    *,
    streams: bool = False,
) -> Callable[[GanState, Tree], tuple[GanState, Metrics]]:
    """Makes a function of `steps` times `one` step, with the mean of the metrics; unrolled, or a loop on the device.

    Of data that `streams` each step has its own, along the first axis.
    """

    def several(state: GanState, data: Tree) -> tuple[GanState, Metrics]:
        of_step = (lambda i: jax.tree.map(lambda x: x[i], data)) if streams else lambda i: data
        if steps == 1:
            return one(state, of_step(0))
        if scan:
            each = lambda s, own: one(s, own if streams else data)
            state, stacked = jax.lax.scan(each, state, data if streams else None, length=steps)
            return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)
        rows = []
        for i in range(steps):
            state, metrics = one(state, of_step(i))
            rows.append(metrics)
        return state, jax.tree.map(lambda *x: sum(x[1:], start=x[0]) / steps, *rows)

    return several
