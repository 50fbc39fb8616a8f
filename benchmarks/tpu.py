"""Does a game's step compile for TPUs, and does it fit their memory? By the TPU's own compiler, without a TPU.

    pip install 'libtpu==VERSION'     # the one that `pip install 'jax[tpu]'` would take; runs on any Linux with x86-64
    python benchmarks/tpu.py --games=biggan128 --topology=v5e:2x2 --chips=1,4 --set=train.precision=bfloat16

The step is the one that `ganjax train` makes for these chips, mapped as there, compiled ahead of time for a described
topology (`jax.experimental.topologies`). Memory is a chip's, as the compiled program states it: `state and data` are
its arguments, `temporary` what a call needs besides. `remat` is `train.remat`. Nothing runs, so that there are no
speeds here; FLOPs are those that the compiler counts. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from measure import CASES, load_config, machine, random_dataset, table

# What libtpu would else ask the machine about.
DESCRIBED = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}


def compiled_step(config: Any, side: int, devices: Any) -> Any:
    """The compiled call of one step on `devices`, which are described and not there."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from ganjax.training import parallel
    from ganjax.training.build import build
    from ganjax.training.step import train_step

    dataset = random_dataset(side, 10 if config.model.conditional else 0)
    parts = build(config, dataset)
    share = config.train.batch_size // len(devices)

    def step(state: Any, data: Any, device: Any) -> Any:
        index = device * share + jnp.arange(share, dtype=jnp.int32)
        return train_step(parts.gan, state, parts.make_batch(data, state.seed, state.step, index))

    mesh = parallel.make_mesh(devices)
    place = lambda tree, spec: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), tree
    )
    numbers = jax.ShapeDtypeStruct((len(devices),), jnp.int32)
    arguments = (
        place(parts.shapes(), PartitionSpec()),
        place((dataset.images, dataset.labels), PartitionSpec()),
        place(numbers, PartitionSpec(parallel.AXIS)),
    )
    return parallel.map_over_devices(step, devices, "shard_map").lower(*arguments).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default="biggan128,stylegan2_256", help=f"of {', '.join(CASES)}")
    parser.add_argument("--topology", default="v5e:2x2", help="a kind of TPU, and how its chips lie")
    parser.add_argument("--chips", default="1,4", help="of the topology, the batch divided among them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ganjax's config")
    options = parser.parse_args()
    os.environ.update({**DESCRIBED, "JAX_PLATFORMS": "cpu"})

    import jax
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    except Exception as error:  # whatever libtpu raises
        sys.exit(f"The TPU compiler does not start: {error}. It needs libtpu: pip install 'jax[tpu]'.")
    jax.default_backend = lambda: "tpu"  # what ganjax chooses by
    rows, results = [], []
    for game in options.games.split(","):
        for chips in map(int, options.chips.split(",")):
            for remat in (False, True):
                changes = [*(tuple(item.split("=", 1)) for item in options.set), ("train.remat", str(remat))]
                begin = time.perf_counter()
                compiled = compiled_step(
                    load_config(game, changes), CASES[game].resolution, described.devices[:chips]
                )
                seconds = time.perf_counter() - begin
                memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
                mib = [size / 2**20 for size in (memory.argument_size_in_bytes, memory.temp_size_in_bytes)]
                row = {"game": game, "chips": chips, "remat": remat, "arguments_mib": mib[0]}
                results.append(
                    {**row, "temporary_mib": mib[1], "flops": cost.get("flops"), "seconds": seconds}
                )
                rows.append(
                    [
                        game,
                        chips,
                        "yes" if remat else "no",
                        f"{mib[0]:.0f}",
                        f"{mib[1]:.0f}",
                        f"{cost.get('flops', 0) / 1e9:.0f}",
                        f"{seconds:.0f}",
                    ]
                )
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    head = ["game", "chips", "remat", "state and data, MiB", "temporary, MiB", "GFLOP", "s to compile"]
    print(table(rows, head))
    print(json.dumps({"machine": machine(), "topology": options.topology, "rows": results}))


if __name__ == "__main__":
    main()
