"""Log files that survive a kill: each is whole or not there, and a torn log is mended when it is opened again."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat, TypeAlias

import numpy as np

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import is_number, parse_json, user_error_if_unwritable, write_atomically

# One log line: name to a number on the host (0-d arrays too) or a short text.
Metrics: TypeAlias = Mapping[str, SupportsFloat | str | None]

_FIRST_KEYS = ("step", "images", "seconds", "images_per_second")


def _json_value(value: SupportsFloat | str | None) -> float | int | str | bool | None:
    """Returns a value for JSON.

    Floats get 7 digits, as many as float32 holds; NaN and infinity, unknown to JSON, become null.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    number = float(value)
    return float(f"{number:.7g}") if math.isfinite(number) else None


def _json_line(step: int, metrics: Metrics) -> bytes:
    values = {"step": step, **{name: _json_value(value) for name, value in metrics.items() if name != "step"}}
    first = [name for name in _FIRST_KEYS if name in values]
    ordered = {name: values[name] for name in first + sorted(values.keys() - set(first))}
    return json.dumps(ordered, allow_nan=False).encode() + b"\n"


class LogWarning(UserWarning):
    """Warning that damaged lines of a log were left out."""


def parse_log(data: bytes) -> tuple[list[tuple[bytes, dict[str, Any]]], list[int]]:
    """Returns the whole lines of a `metrics.jsonl`, each with its row, and the numbers, from 1, of damaged ones.

    A damaged line is no JSON object with a step, or has a value that no log line has. The rest after the last line
    feed, which a kill tore or a run is writing, counts as one only if it is whole.
    """
    whole, damaged = [], []
    *lines, last = data.split(b"\n")
    for number, line in enumerate((*lines, last), 1):
        if row := _row(line):
            whole.append((line, row))
        elif line.strip() and number <= len(lines):
            damaged.append(number)
    return whole, damaged


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    fine = type(step) is int and 0 <= step < 2**53 and all(_fits(*pair) for pair in row.items())
    return row if fine else None


def _fits(name: str, value: Any) -> bool:
    """Returns True if a log line may have this value: a text stands only where no number is expected."""
    if isinstance(value, str):
        return "/" not in name and name not in _FIRST_KEYS
    return value is None or isinstance(value, bool) or is_number(value)


def left_out(path: Path, damaged: Iterable[int]) -> str:
    """Returns the message about damaged lines: their count, and the first of their numbers."""
    numbers = list(damaged)
    first = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"{path}: {len(numbers)} damaged line{'s' * (len(numbers) > 1)} left out: {first}."


class MetricsWriter:
    """Writer that appends one strict JSON object per log line to `metrics.jsonl`.

    A line is the system's when `write` returns: a kill of the process loses none. A power cut may lose the last ones,
    since waiting for the disk at each line would slow down small runs.

    Keys come in a fixed order: `step`, `images`, `seconds`, `images_per_second`, then the rest by name.
    Floats keep 7 significant digits; a non-finite one becomes null. Texts and integers stay as they are.

    Opening mends the file: damaged lines and one torn by a kill go, and with `start_step` so do the lines of later
    steps, which the resumed run writes anew. Without `start_step` all whole lines stay.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: str | Path, *, start_step: int | None = None) -> None:
        self._path = Path(path)
        with user_error_if_unwritable("metrics", self._path):
            if self._path.is_file():
                data = self._path.read_bytes()
                kept = b"".join(
                    line + b"\n"
                    for line, row in parse_log(data)[0]
                    if start_step is None or row["step"] <= start_step
                )
                if kept != data:
                    write_atomically(self._path, kept, "metrics")
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: nothing is left to be written, and to fail, at closing.
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115

    def write(self, step: int, metrics: Metrics) -> None:
        """Appends the `metrics` of `step`. Raises `UserError`, for instance where the disk is full."""
        line = _json_line(step, metrics)
        with user_error_if_unwritable("metrics", self._path):
            while line:
                line = line[self._file.write(line) or 0 :]

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorBoardWriter:
    """Writer of scalars and pictures for TensorBoard, without TensorFlow, in a new event file of `folder`.

    It uses tensorboardX's records and messages and not its `SummaryWriter`, whose thread dies on a full disk
    and then blocks the training loop at the eleventh event. Each call's record is the system's when it returns.

    Args:
        folder: the folder of the file `events.out.tfevents.*`; made if missing.
        start_step: the step the run goes on from. TensorBoard hides what earlier files say of later steps.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, folder: str | Path, start_step: int = 0) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        nanoseconds = time.time_ns()
        # TensorBoard reads the files in the order of their names: the time comes first.
        name = f"{nanoseconds // 10**9:010d}.{socket.gethostname()}.{nanoseconds % 10**9:09d}.{os.getpid()}"
        self._path = Path(folder) / f"events.out.tfevents.{name}"
        self._failed = False
        with user_error_if_unwritable("TensorBoard events", self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._records: Any = RecordWriter(str(self._path))
        self._write(file_version="brain.Event:2")
        self._write(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        try:
            with user_error_if_unwritable("TensorBoard events", self._path):
                self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
                self._records.flush()
        except UserError:
            self._failed = True
            raise

    def scalars(self, step: int, metrics: Metrics) -> None:
        """Writes the numbers of `metrics` under their own names. Texts and None are left out, NaN is kept."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if name != "step" and value is not None and not isinstance(value, str)
        ]
        self._write(step=step, summary=Summary(value=values))

    def image(self, step: int, name: str, png: bytes) -> None:
        """Writes one picture, given as the bytes of a PNG file, as they are."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(io.BytesIO(png)) as picture:
            width, height = picture.size
            channels = len(picture.getbands())
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        """Closes the file. A second call does nothing; after a failed write no second error is raised."""
        # The half-written record of a failed write is still buffered, and closing tries it again.
        with contextlib.suppress(OSError) if self._failed else contextlib.nullcontext():
            self._records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
