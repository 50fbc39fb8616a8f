"""Streaming of prepared data: images a second, how long a training loop waits, and memory over many images.

    python tools/emoji.py --out=data/emoji
    ganjax data prepare data/emoji --out=data/emoji128 --resolution=128
    taskset -c 0 python benchmarks/data.py --data=data/emoji128 --threads=1

The loop is one whose steps keep an accelerator, and not the CPU, busy: each sleeps for as long as the step would
take at so many images a second. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from ganjax.data import load
from ganjax.data.feed import Share, Stream


def resident_megabytes() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each paced loop")
    parser.add_argument("--rates", default="100,200,400,800", help="images a second of the paced loops")
    arguments = parser.parse_args()
    import jax

    device, batch = jax.devices()[0], arguments.batch
    dataset = load("folder", path=arguments.data, max_bytes=0)
    stream = Stream(
        dataset.images.reader,  # type: ignore[union-attr]
        Share(batch, 1, 1, 1),
        lambda data: jax.device_put(data, device),
        labelled=dataset.labels is not None,
        threads=arguments.threads,
    )
    memory, steps = [], arguments.images // batch
    start = time.perf_counter()
    with stream.start(0, steps, 0) as feed:
        for step, _ in enumerate(feed):
            if step % max(steps // 10, 1) == 0:
                memory.append(round(resident_megabytes(), 1))
    free = steps * batch / (time.perf_counter() - start)
    print(f"{free:,.0f} images/s of {dataset.images.shape[1:]} with {arguments.threads} threads")
    print(f"resident memory over {steps * batch:,} images, MB: {memory}")
    waits = {}
    for rate in map(float, arguments.rates.split(",")):
        steps = max(int(arguments.seconds * rate / batch), 5)
        with stream.start(0, steps, 0) as feed:
            next(feed)
            stream.waited()  # what comes before the first batch is start-up
            start = time.perf_counter()
            for _ in feed:
                time.sleep(batch / rate)
            waits[rate] = stream.waited() / (time.perf_counter() - start)
        print(f"a loop of {rate:5.0f} images/s waits {waits[rate]:.1%} of its time")
    row = {"images_per_second": round(free), "threads": arguments.threads, "memory_mb": memory}
    print(json.dumps({**row, "wait": {str(rate): round(share, 4) for rate, share in waits.items()}}))


if __name__ == "__main__":
    main()
