"""What one step of each recipe exchanges between devices, read from its program, and how long that would take.

    python benchmarks/collectives.py

The step is traced and lowered for two devices at the recipe's full size, on empty images; nothing is compiled or
trained. Times are an estimate: peak rates of the makers, `EFFICIENCY` of the peak for the arithmetic, a ring for the
exchange.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# recipe, and the data it is made for: side in pixels (0: points), channels, classes
RECIPES = {
    "quickstart.py": (8, 1, 10),
    "fashion_mnist.py": (32, 1, 10),
    "sngan.py": (32, 3, 10),
    "sagan.py": (128, 3, 1000),
    "biggan.py": (128, 3, 1000),
    "msg_progan.py": (256, 3, 0),
    "stylegan2.py": (256, 3, 0),
    "r3gan.py": (32, 3, 10),
}
EFFICIENCY = 0.3  # of the peak that convolutions of such networks reach: an assumption
# Peak FLOP/s in bfloat16, and bytes a second of a ring within 8 devices and beyond them (docs/scaling.md has sources).
MACHINES = {
    "TPU v5e": (197e12, 200e9, 200e9),
    "TPU v5p": (459e12, 600e9, 600e9),
    "H100, 8 a node": (989e12, 450e9, 400e9),
}
DEVICES = (8, 64, 512)


def exchanged(recipe: str) -> dict[str, float]:
    """Numbers of one step: all-reduces and their bytes, parameters, FLOPs over all devices, images."""
    import numpy as np

    from ganjax.config import recipe as configs

    config = configs.resolve(f"{ROOT / 'configs' / recipe}", [])
    unit = 4 * config.train.accumulate * config.dis.packing  # a device's least share, for groups of four
    facts, text, few = lowered(config, recipe, unit)
    _, _, more = lowered(config, recipe, 2 * unit)
    each = (more - few) / unit  # the rest, such as penalties of weights, does not grow with the batch
    sizes = [
        4 * int(np.prod([int(n) for n in shape.split("x") if n.isdigit()] or [1]))
        for shape in re.findall(r"stablehlo\.all_reduce.*?\}\) : \(tensor<([^>]*)>\)", text, re.DOTALL)
    ]
    return {
        **facts,
        "updates": config.train.dis_steps + config.train.gen_steps,
        "all_reduces": len(sizes),
        "bytes": sum(sizes),
        "flops_fixed": max(few - each * unit, 0.0),
        "flops_image": each,
        "batch": config.train.batch_size,
    }


def lowered(config: Any, recipe: str, share: int) -> tuple[dict[str, float], str, float]:
    """Parameters, the program of a step with `share` images on each of two devices, and the FLOPs of one device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ganjax.data import Dataset
    from ganjax.training import parallel
    from ganjax.training.build import build
    from ganjax.training.state import count_parameters

    config = config.copy_and_resolve_references()
    config.train.batch_size = 2 * share
    side, channels, classes = RECIPES[recipe]
    images = np.zeros((8, side, side, channels), np.uint8)
    labels = np.zeros(8, np.int32) if classes else None
    made = build(config, Dataset(config.data.name, images, labels, classes))

    def one(state: Any, data: Any, device: Any) -> Any:
        index = device * share + jnp.arange(share, dtype=jnp.int32)
        return parallel.train_step(made.gan, state, made.make_batch(data, state.seed, state.step, index))

    shapes = made.shapes()
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (images, labels))
    mapped = parallel.map_over_devices(one, jax.devices()[:2], "shard_map")
    program = mapped.lower(shapes, data, jax.ShapeDtypeStruct((2,), jnp.int32))
    flops = float((program.cost_analysis() or {}).get("flops", 0.0))
    parameters = {net: float(count_parameters(getattr(shapes, net).params)) for net in ("gen", "dis")}
    return parameters, program.as_text(), flops


def seconds(facts: dict[str, float], machine: str, devices: int) -> tuple[float, float]:
    """(arithmetic, exchange) of one step at the recipe's batch, shared by `devices`."""
    peak, near, far = MACHINES[machine]
    rate = near if devices <= 8 else far
    ring = 2 * (devices - 1) / devices * facts["bytes"] / rate
    work = facts["flops_fixed"] + facts["flops_image"] * facts["batch"] / devices
    return work / (EFFICIENCY * peak), ring


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="recipes, joined by commas (default: all)")
    arguments = parser.parse_args()
    os.environ.setdefault("PJRT_NPROC", "16")
    sys.path.insert(0, str(ROOT))
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    print(
        "| recipe | G, M | D, M | updates | all-reduces | MB a step | GFLOP an image | GFLOP besides | batch |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    found = {}
    for recipe in arguments.only.split(",") if arguments.only else RECIPES:
        facts = found[recipe] = exchanged(recipe)
        print(
            f"| {recipe} | {facts['gen'] / 1e6:.2f} | {facts['dis'] / 1e6:.2f} | {facts['updates']:.0f} "
            f"| {facts['all_reduces']:.0f} | {facts['bytes'] / 1e6:.2f} | {facts['flops_image'] / 1e9:.3g} "
            f"| {facts['flops_fixed'] / 1e9:.3g} | {facts['batch']:.0f} |",
            flush=True,
        )
    print("\n| recipe | " + " | ".join(f"{m}: {n}" for m in MACHINES for n in DEVICES) + " |")
    print("|---|" + "---|" * (len(MACHINES) * len(DEVICES)))
    for recipe, facts in found.items():
        cells = []
        for machine in MACHINES:
            for devices in DEVICES:
                if devices > facts["batch"]:
                    cells.append("–")
                    continue
                work, ring = seconds(facts, machine, devices)
                cells.append(f"{1e3 * work:.2g} + {1e3 * ring:.2g}")
        print(f"| {recipe} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
