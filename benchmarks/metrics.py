"""How fast are the metrics? Features of Inception v3; FID and PRDC of 10,000 features of 2,048 dimensions.

    python benchmarks/metrics.py --images=64 --features=10000

Inception has random weights here: its speed does not depend on them. Its images are of 32×32, resized to 299 by its own
first step. Prints a table and one JSON line; medians of `--repeats`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import machine, table, timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="through Inception")
    parser.add_argument("--features", type=int, default=10000, help="for the distances, of 2,048 dimensions")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    import jax

    from ganjax.evals.features import INCEPTION_BLOCK, inception, sharded
    from ganjax.evals.metrics.frechet import frechet_distance, gaussian
    from ganjax.evals.metrics.neighbours import manifolds
    from ganjax.training import parallel

    parallel.prepare_backend(options.images, 1, 0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    weights = jax.jit(inception.Inception().init)(
        jax.random.key(0), np.zeros((1, inception.SIDE, inception.SIDE, 3), np.float32)
    )

    def apply(variables: Any, block: jax.Array) -> Any:
        return inception.Inception().apply(variables, inception.preprocess(block, "tf1"))[:2]

    extract = sharded(apply, weights, images.shape[1:], INCEPTION_BLOCK)
    real, fake = (rng.normal(size=(options.features, 2048)).astype(np.float32) for _ in range(2))
    calls: dict[str, Callable[[], Any]] = {
        f"Inception, {options.images} images": lambda: extract(images),
        f"FID of {options.features} features": lambda: frechet_distance(gaussian(real), gaussian(fake)),
        f"PRDC of {options.features} features": lambda: manifolds(real, fake),
    }
    seconds = {}
    for name, call in calls.items():
        call()
        seconds[name] = statistics.median(timed(call) for _ in range(options.repeats))
    print(table([[name, f"{value:.2f}"] for name, value in seconds.items()], ["what", "seconds"]))
    print(json.dumps({"machine": machine(), "seconds": seconds}))


if __name__ == "__main__":
    main()
