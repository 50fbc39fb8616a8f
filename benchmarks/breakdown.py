"""Where does a step's time go, and how much of the machine does it use?

    python benchmarks/breakdown.py --game=sngan32 --steps=4

A trace of ganjax's own compiled step, each operation with its own time (without that of operations inside it), by what
it is and by the part of the step that it belongs to: `named_scope`s of the step and names of modules, as the compiled
program keeps them; of operations that XLA has fused the last one counts. `gap` is the time in which no operation ran on
a device. The peak is that of products of 2048² matrices (8192² on a GPU) on the same devices at once, before and after.
FLOPs are those that are really made: a convolution joined with resampling counts the products it makes. Prints tables
and one JSON line. Run it with nothing else running; it runs on a GPU as it is.
"""

from __future__ import annotations

import argparse
import collections
import glob
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import CASES, Running, load_config, machine, start, table, whole_calls

from ganjax.runtime.allocator import start_with_allocator

# What an operation is by its name, first match; what part it belongs to by its scope, first match.
KINDS = {
    "convolution": r"^ganjax_forward|conv(?!ert)",
    "kernel gradient": r"^ganjax_kernel_gradient",
    "filter": r"^ganjax_smooth",
    "between devices": r"^all-reduce|^psum|^all-gather",
    "reduction, product": r"^ynn|^dot|reduce|^gemm|cublas",
    "other": r"",
}
PARTS = {
    "spectral norm": r"spectral_norm",
    "penalty": r"penalty|path_length|drift|lecam|consistency",
    "augmentation": r"augment",
    "average of G": r"average",
    "optimiser": r"optimizer",
    "G forward": r"jvp\(\w*Generator|/\w*Generator",
    "G backward": r"transpose\(jvp\(\w*Generator",
    "D forward": r"jvp\(\w*Discriminator|/\w*Discriminator",
    "D backward": r"transpose\(jvp\(\w*Discriminator",
    "loss and rest": r"update_",
    "data and rest": r"",
}
ORDER = ("G backward", "D backward")  # looked for before their forward passes


def part_of(scope: str) -> str:
    """The part of the step that an operation of this scope belongs to."""
    first = [name for name in PARTS if "forward" not in name and "rest" not in name]
    for name in [*first, *PARTS]:
        if re.search(PARTS[name], scope):
            return name
    raise AssertionError(scope)


def kind_of(operation: str) -> str:
    """What sort of operation this is."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, operation))


def scopes(folder: Path) -> list[dict[str, str]]:
    """Operation → scope, of each program that XLA has dumped."""
    line = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?metadata=\{op_name="([^"]*)"', re.MULTILINE)
    return [dict(line.findall(file.read_text())) for file in folder.glob("*after_optimizations.txt")]


def own_times(events: list[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """(operation, nanoseconds) without what ran inside it; `events` are (start, duration, operation) of one thread."""
    open_: list[list[Any]] = []
    for start_, duration, name in sorted(events, key=lambda e: (e[0], -e[1])):
        while open_ and open_[-1][0] <= start_:
            yield open_.pop()[1:]
        if open_:
            open_[-1][2] -= duration
        open_.append([start_ + duration, name, duration])
    while open_:
        yield open_.pop()[1:]


def traced(running: Running, steps: int) -> tuple[float, list[tuple[str, float]]]:
    """Seconds of the clock for so many steps, and (operation, nanoseconds) of all devices."""
    import jax
    from jax.profiler import ProfileData

    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        begin = time.perf_counter()
        running.advance(steps)
        seconds = time.perf_counter() - begin
        jax.profiler.stop_trace()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        profile = ProfileData.from_file(path)
    rows: list[tuple[str, float]] = []
    for plane in profile.planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    events.append((event.start_ns, event.duration_ns, str(stats["hlo_op"])))
            rows += own_times(events)
    return seconds, rows


def conv_products(eqn: Any) -> float:
    """Multiplications of a convolution of ganjax's own."""
    mode = eqn.params["mode"]
    if eqn.primitive.name == "ganjax_forward":
        (n, h, w, _), (kh, kw, i, o) = (x.aval.shape for x in eqn.invars)
        rows, columns = eqn.outvars[0].aval.shape[1:3]
        small = min(h, rows) * min(w, columns)
        taps = {"plain": kh * kw, "up": 16, "down": 16, "strided": 9, "spread": 9}[mode]
    else:
        (n, _, _, i), (_, rows, columns, o) = (x.aval.shape for x in eqn.invars)
        kh, kw = eqn.outvars[0].aval.shape[:2]
        small, taps = rows * columns, 16 if mode == "down" else kh * kw
    return float(n * small * taps * i * o)


def products(jaxpr: Any, shares: dict[str, float]) -> float:
    """Multiplications in convolutions and matrix products; what `shares` names in a scope is done that often a step."""
    import jax

    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name.startswith("ganjax_") and name != "ganjax_smooth":
            total += conv_products(eqn)
        elif name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = 1
            for axis in contract:
                depth *= eqn.invars[0].aval.shape[axis]
            total += float(eqn.outvars[0].aval.size * depth)
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += float(eqn.outvars[0].aval.size * kernel.size // outputs)
        inner = [
            getattr(value, "jaxpr", value)
            for parameter in eqn.params.values()
            for value in (parameter if isinstance(parameter, (tuple, list)) else [parameter])
            if isinstance(getattr(value, "jaxpr", value), jax.extend.core.Jaxpr)
        ]
        if name == "cond":
            scope = str(eqn.source_info.name_stack)
            share = next((share for word, share in shares.items() if word in scope), 1.0)
            total += share * max(products(branch, shares) for branch in inner)
        else:
            times = eqn.params["length"] if name == "scan" else 1
            total += times * sum(products(each, shares) for each in inner)
    return total


def step_products(config: Any, side: int) -> float:
    """Multiplications of one step over all devices."""
    import jax
    import jax.extend
    from measure import random_dataset

    from ganjax.run.dry_run import step_alone
    from ganjax.run.setup import Setup, choose_devices
    from ganjax.training.build import build

    devices = choose_devices(config)
    dataset = random_dataset(side, 10 if config.model.conditional else 0)
    setup = Setup(dataset=dataset, devices=devices, build=build(config, dataset), scan=False)
    _, one, state, shapes = step_alone(config, setup)
    shares = {"penalty": 1 / config.penalty.every, "path_length": 1 / max(1, config.loss.path_length_every)}
    return products(jax.make_jaxpr(one)(state, shapes).jaxpr, shares) * len(devices)


def peak(devices: Any, precision: str = "float32", repeats: int = 6) -> float:
    """FLOP/s of products of random matrices on all devices at once; the best of some."""
    import jax

    size = 2048 if devices[0].platform == "cpu" else 8192
    random = jax.random.normal(jax.random.key(0), (size, size)).astype(precision)
    matrices = [jax.device_put(random, device) for device in devices]
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready([product(m) for m in matrices])
    best = 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready([product(m) for m in matrices])
        best = max(best, 2 * size**3 * len(matrices) / (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="sngan32", choices=CASES)
    parser.add_argument("--steps", type=int, default=0, help="0 takes the game's own, a whole lazy cycle")
    parser.add_argument("--top", type=int, default=0, help="also the costliest operations, so many")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ganjax's config")
    options = parser.parse_args()
    start_with_allocator()
    changes = [tuple(item.split("=", 1)) for item in options.set]
    with tempfile.TemporaryDirectory() as dump:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = flags.strip()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{dump}/cache"  # what comes from a cache is not dumped
        config = load_config(options.game, changes)
        running = start(config, CASES[options.game].resolution)
        programs = scopes(Path(dump))
    steps = whole_calls(options.steps or CASES[options.game].steps, running.per_call)
    running.advance(running.per_call)
    before = peak(running.devices, config.train.precision)
    seconds, rows = traced(running, steps)
    reached = max(before, peak(running.devices, config.train.precision))
    count = len(running.devices)
    ran = {name for name, _ in rows}
    scope = max(programs, key=lambda program: len(ran & program.keys()))
    total = sum(time_ for _, time_ in rows) / 1e9 / count
    kinds, parts, single = collections.Counter(), collections.Counter(), collections.Counter()
    for name, nanoseconds in rows:
        share = nanoseconds / 1e9 / count / seconds
        kinds[kind_of(name)] += share
        parts[part_of(scope.get(name, ""))] += share
        single[name] += share
    gap = max(0.0, 1 - total / seconds)
    flops = 2 * step_products(config, CASES[options.game].resolution) * steps / seconds
    cell = lambda share: f"{100 * share:.1f} %"
    for title, shares in (("kind", kinds), ("part", parts)):
        print(
            table([[name, cell(shares[name])] for name in shares if shares[name] > 0.0005], [title, "share"])
        )
        print()
    for name, share in single.most_common(options.top):
        print(f"{cell(share):>7}  {name}  {scope.get(name, '')[:90]}")
    images = steps * config.train.batch_size * config.train.dis_steps / seconds
    used = f"{flops / 1e9:.0f} of {reached / 1e9:.0f} GFLOP/s, {cell(flops / reached)}"
    print(f"gap {cell(gap)}; {images:.0f} images/s; {used}")
    result = {"game": options.game, "kinds": kinds, "parts": parts, "gap": gap, "images_per_second": images}
    print(json.dumps({"machine": machine(), **result, "flops_per_second": flops, "peak": reached}))


if __name__ == "__main__":
    main()
