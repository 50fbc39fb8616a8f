"""Does the work of one process: pictures → PNGs of equal squares, and for each picture its outcome."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ganjax.data.pictures.decode import Refusal, decode, fit
from ganjax.data.pictures.listing import reader
from ganjax.data.prepare.plan import Chunk
from ganjax.runtime.files import read_npz, write_atomically


@dataclass(frozen=True)
class Outcome:
    """Outcome for one picture.

    Attributes:
        name: the name of the file.
        kind: the kind of refusal (`Refusal.kind`), empty where the picture was taken.
        reason: the reason in words.
        decoded: the sha256 in hex of its size and pixels as RGB before it was fitted: equal for exact duplicates.
        pixels: the sha256 in hex of the bytes of the square.
        grey: True if the square has one channel.
        enlarged: True if it had to grow.
    """

    name: str
    kind: str = ""
    reason: str = ""
    decoded: str = ""
    pixels: str = ""
    grey: bool = False
    enlarged: bool = False


def start_worker() -> None:
    """Prepares a process: Ctrl-C is left to the parent, and a worker ends with the parent however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # see quiet_pillow
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow(sentinel: int) -> None:
            multiprocessing.connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=follow, args=(parent.sentinel,), daemon=True).start()


def work(chunk: Chunk) -> int:
    """Does the chunk and writes its file. Returns the number of its pictures.

    Raises:
        UserError: the file cannot be written.
    """
    outcomes: list[Outcome] = []
    pngs: list[bytes] = []
    read = reader(chunk.source)
    for name in chunk.names:
        try:
            with read(name) as file:
                outcome, png = _prepare_one(name, file, chunk)
        except Refusal as refusal:
            outcomes.append(Outcome(name, refusal.kind, refusal.reason))
        else:
            outcomes.append(outcome)
            pngs.append(png)
    blob = io.BytesIO()
    np.savez(
        blob,
        outcomes=np.frombuffer(json.dumps([list(vars(o).values()) for o in outcomes]).encode(), np.uint8),
        pngs=np.frombuffer(b"".join(pngs), np.uint8),
        ends=np.cumsum([len(png) for png in pngs], dtype=np.int64),
    )
    write_atomically(chunk.file, blob.getvalue(), "the dataset")
    return len(chunk.names)


def _prepare_one(name: str, file: IO[bytes], chunk: Chunk) -> tuple[Outcome, bytes]:
    from PIL import Image

    picture = decode(file, target=chunk.resolution)
    digest = hashlib.sha256(f"{picture.width} {picture.height} ".encode())
    digest.update(picture.convert("RGB").tobytes())
    square = fit(picture, chunk.resolution, chunk.fit)
    grey = square.shape[2] == 1
    png = io.BytesIO()
    Image.fromarray(square[:, :, 0] if grey else square).save(png, "PNG")
    outcome = Outcome(
        name,
        decoded=digest.hexdigest(),
        pixels=hashlib.sha256(square.tobytes()).hexdigest(),
        grey=grey,
        enlarged=(min if chunk.fit == "crop" else max)(picture.size) < chunk.resolution,
    )
    return outcome, png.getvalue()


def read_chunk(file: Path) -> tuple[list[Outcome], list[bytes]] | None:
    """Reads what `work` wrote: the outcomes, and the PNGs of the pictures taken.

    Returns None where the file is damaged.
    """
    try:
        stored = read_npz(file)
        outcomes = [Outcome(*values) for values in json.loads(stored["outcomes"].tobytes())]
        blob, ends = stored["pngs"].tobytes(), stored["ends"].tolist()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return outcomes, [blob[start:end] for start, end in zip([0, *ends], ends, strict=False)]
