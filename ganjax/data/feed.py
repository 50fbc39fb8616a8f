"""Delivers data that do not fit into memory: decoded in the background, on the devices before they are needed.

The data of a call are a function of (seed, step) alone, and the same that resident data would give: a run restarts from
its step, with any number of threads, and another delivery goes on with it.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ganjax.data.lazy import Reader
from ganjax.data.order import batch_positions, shuffled_indices

ON_DEVICE = 2  # calls whose data are on the devices already: one that is computed next, one on its way


@dataclass(frozen=True)
class Share:
    """Part of the data that this process delivers.

    Attributes:
        batch_size: the number of images of an update over all processes.
        updates: the number of updates of a step that have reals of their own.
        steps: the number of steps of a call.
        devices: the number of devices of this process; each gets neighbours of the batch.
        process_index, process_count: the numbers that say which contiguous part of each batch is this process's.
    """

    batch_size: int
    updates: int
    steps: int
    devices: int
    process_index: int = 0
    process_count: int = 1

    def positions(self, step: int) -> np.ndarray:
        """Returns the places of the call at `step` in the endless sequence of images.

        They are [devices, steps, updates, images] uint32.
        """
        own = self.batch_size // self.process_count
        index = self.process_index * own + np.arange(own).reshape(self.devices, 1, 1, -1)
        steps = step + np.arange(self.steps).reshape(1, -1, 1, 1)
        update = np.arange(self.updates).reshape(1, 1, -1, 1)
        positions = batch_positions(steps, update, index, self.batch_size, self.updates)
        return (positions % 2**32).astype(np.uint32)


class Feed(Protocol):
    """Origin of a loop's data.

    Attributes:
        streams: True if each call has data of its own.
    """

    streams: bool

    def waited(self) -> float:
        """Returns the seconds that the loop has waited for data since the last call or `start`."""
        ...

    def start(self, step: int, until: int, seed: int) -> AbstractContextManager[Iterator[Any]]:
        """Returns an iterator over the data of the calls from `step` to `until` of the run of this seed."""
        ...


class Resident:
    """Feed of the same data, which lie on the devices, for every call."""

    streams = False

    def __init__(self, data: Any) -> None:
        """Holds `data`, which lie on the devices."""
        self.data = data

    def waited(self) -> float:
        """Returns the seconds waited for data; see `Feed`."""
        return 0.0

    @contextmanager
    def start(self, step: int, until: int, seed: int) -> Iterator[Iterator[Any]]:
        """Returns an iterator over the data of the calls; see `Feed`."""
        yield itertools.repeat(self.data)


class Stream:
    """Feed of data for one call after the other, decoded in the background."""

    streams = True

    def __init__(
        self,
        reader: Reader,
        share: Share,
        put: Callable[[Any], Any],
        *,
        labelled: bool,
        threads: int,
    ) -> None:
        """Takes `put`, which puts host arrays [devices, …] on the devices, and the number of `threads` that decode.

        Each thread works on one call at a time.
        """
        self._waited = 0.0
        self._reader, self._share, self._put = reader, share, put
        self._labelled, self._threads = labelled, threads

    def waited(self) -> float:
        """Returns the seconds waited for data; see `Feed`."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def load(self, step: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns images [devices, steps, updates, n, H, W, C] uint8 and labels of the call at `step`, on the host."""
        positions = self._share.positions(step)
        indices = shuffled_indices(positions.reshape(-1), len(self._reader), seed, xp=np)
        images, labels = self._reader.many(indices)
        return (
            images.reshape(*positions.shape, *images.shape[1:]),
            labels.reshape(positions.shape) if self._labelled else None,
        )

    @contextmanager
    def start(self, step: int, until: int, seed: int) -> Iterator[Iterator[Any]]:
        """Yields an iterator over the data of the calls from `step` to `until`. It ends with the block.

        A `UserError` of the reader is raised by `next`.
        """
        import grain

        warnings.filterwarnings("ignore", module=r"PIL\.")  # `quiet_pillow` is not for threads
        self._waited = 0.0
        until = max(step, until)
        read = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads + 1)
        calls = grain.MapDataset.range(step, until, self._share.steps)
        on_host = calls.map(lambda first: self.load(int(first), seed)).to_iter_dataset(read)
        on_device = grain.experimental.ThreadPrefetchIterDataset(
            on_host.map(self._put), prefetch_buffer_size=ON_DEVICE
        )
        iterator = iter(on_device)
        timed = self._timed(iterator)
        try:
            yield timed
        finally:
            timed.close()  # or it would keep the iterator to the end of the process, where Grain fails to close it
            iterator.close()

    def _timed(self, iterator: Iterator[Any]) -> Generator[Any, None, None]:
        while True:
            start = time.perf_counter()
            try:
                data = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield data
