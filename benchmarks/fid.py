"""Memory and time of the statistics of FID: 50,000 against 50,000 features of 2,048 dimensions, in a stream.

    python benchmarks/fid.py

The features are drawn block by block, as a feature network would give them; their making is not counted. Prints one
JSON line: seconds of the moments of both sets and of the distance (and of the processor, all cores together: what
other programs do not change), and the peak of host memory above what the process held after its imports.

Measured 2026-11-24 on 2 CPU cores, other jobs held back, three times: 7.0, 7.2 and 7.5 s (moments 5.2 to 5.6,
distance 1.8 to 2.0), 12.0 to 12.4 s of processor time, 231 MB; pinned to one core 11.4 s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

import numpy as np

from ganjax.evals.metrics.frechet import Gaussian, Moments, frechet_distance

BLOCK = 1024


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def now() -> np.ndarray:
    """[2]: seconds of the clock, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def moments(count: int, dims: int, seed: int) -> tuple[Gaussian, np.ndarray]:
    """Of `count` random features, and the seconds that the moments took."""
    rng, moments, seconds = np.random.default_rng(seed), Moments(), np.zeros(2)
    scale = rng.uniform(0.1, 1, dims).astype(np.float32)
    for start in range(0, count, BLOCK):
        block = np.abs(rng.standard_normal((min(BLOCK, count - start), dims), np.float32)) * scale
        started = now()
        moments.add(block)
        seconds += now() - started
    started = now()
    result = moments.result()
    return result, seconds + now() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dims", type=int, default=2048)
    options = parser.parse_args()
    before = peak_mb()
    (p, first), (q, second) = (moments(options.count, options.dims, seed) for seed in (0, 1))
    started = now()
    fid = frechet_distance(p, q)
    distance = now() - started
    wall, processor = first + second + distance
    row = {
        "count": options.count,
        "dims": options.dims,
        "fid": round(fid, 4),
        "seconds_moments": round(float(first[0] + second[0]), 2),
        "seconds_distance": round(float(distance[0]), 2),
        "seconds": round(float(wall), 2),
        "processor_seconds": round(float(processor), 2),
        "peak_mb_above_imports": round(peak_mb() - before),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
