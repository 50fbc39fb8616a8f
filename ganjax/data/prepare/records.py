"""Does the last part: from the chunks to ArrayRecord shards with the metadata of tensorflow-datasets.

The result depends on the source and the options alone, byte for byte, whoever did which chunk.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data.pictures.listing import classes_of, shown
from ganjax.data.prepare.chunks import Outcome, read_chunk
from ganjax.data.prepare.plan import VERSION, Chunk, Plan
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import csv_text, user_error_if_unwritable, write_atomically
from ganjax.runtime.logs import write_grid

FACTS = "ganjax.json"
LEFT_OUT = "left_out.csv"
CONTACT_SHEET = "contact_sheet.png"
SHARD_BYTES = 128 * 1024**2  # large enough for object stores, small enough to be copied in parallel
SHEET_IMAGES, SHEET_COLUMNS, SHEET_SIDE = 100, 10, 128


@dataclass
class Result:
    """Outcome of every file of the source.

    Attributes:
        classes: the names in the order of their labels, empty where there are none.
        labels: the labels of the pictures that were taken, in the order of the records.
        channels: the number of channels, 1 or 3.
        left_out: the (name, kind, reason) of all other files, by name.
        enlarged: the number of pictures that had to grow.
        pixels: the sha256 in hex of all squares and labels.
        taken: the places of the outcomes that became records, one set a chunk.
    """

    classes: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    channels: int = 1
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    enlarged: int = 0
    pixels: str = ""
    taken: list[set[int]] = field(default_factory=list)

    @property
    def files(self) -> int:
        return len(self.labels) + len(self.left_out)

    def kinds(self) -> dict[str, int]:
        """Counts the files left out for each kind of reason, the most frequent first."""
        return dict(collections.Counter(kind for _, kind, _ in self.left_out).most_common())


def judge(plan: Plan, outcomes: list[list[Outcome]]) -> Result:
    """Decides which pictures are taken: all that could be read, each once.

    Raises:
        UserError: no pictures are left.
    """
    result = Result(left_out=list(plan.listing.others))
    names = [entry.name for entry in plan.listing.pictures]
    class_of = dict(zip(names, classes_of(names), strict=True))
    first: dict[str, str] = {}
    taken: list[Outcome] = []
    for chunk in outcomes:
        places = set()
        for place, outcome in enumerate(chunk):
            if outcome.kind:
                result.left_out.append((outcome.name, outcome.kind, outcome.reason))
            elif outcome.decoded in first:
                same = f"the same pixels as {shown(first[outcome.decoded])}"
                result.left_out.append((outcome.name, "duplicate", same))
            else:
                first[outcome.decoded] = outcome.name
                places.add(place)
                taken.append(outcome)
        result.taken.append(places)
    result.left_out.sort()
    if not taken:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.kinds().items())
        raise UserError(f"{plan.options.source}: none of its {result.files} files can be used: {kinds}.")
    result.classes = sorted({class_of[outcome.name] for outcome in taken} - {""})
    number = {name: label for label, name in enumerate(result.classes)}
    result.labels = [number.get(class_of[outcome.name], 0) for outcome in taken]
    result.channels = 1 if all(outcome.grey for outcome in taken) else 3
    result.enlarged = sum(outcome.enlarged for outcome in taken)
    digest = hashlib.sha256(json.dumps([VERSION, result.channels, result.classes]).encode())
    for outcome, label in zip(taken, result.labels, strict=True):
        digest.update(f"{outcome.pixels} {outcome.grey} {label}\n".encode())
    result.pixels = digest.hexdigest()
    return result


def records(chunks: Iterable[Chunk], result: Result) -> Iterator[bytes]:
    """Yields the PNGs that are taken, in order, all of `result.channels` channels."""
    for chunk, places in zip(chunks, result.taken, strict=True):
        found = read_chunk(chunk.file)
        if found is None:
            raise UserError(f"{chunk.file} was damaged meanwhile. The same command makes it anew.")
        outcomes, pngs = found
        waiting = iter(pngs)
        for place, outcome in enumerate(outcomes):
            if outcome.kind:
                continue
            png = next(waiting)
            if place in places:
                yield _colored(png) if outcome.grey and result.channels == 3 else png


def _colored(png: bytes) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def dataset_name(out: Path) -> str:
    """Returns the folder's name in TFDS's form: lower-case letters, digits and underscores, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "_", out.name.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def write_dataset(folder: Path, plan: Plan, chunks: list[Chunk], result: Result) -> dict[str, Any]:
    """Writes shards, metadata, `ganjax.json`, the list of files left out and a contact sheet into `folder`.

    Returns the content of `ganjax.json`.
    """
    with _quiet_import():
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordWriter

    side, count = plan.options.resolution, len(result.labels)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(side, side, result.channels), encoding_format="png"),
            **({"label": tfds.features.ClassLabel(names=result.classes)} if result.classes else {}),
        }
    )
    total = sum(chunk.file.stat().st_size for chunk in chunks)
    shards = min(count, -(-total // SHARD_BYTES))
    bounds = [count * shard // shards for shard in range(shards + 1)]
    name = dataset_name(plan.options.out)
    files = [f"{name}-train.array_record-{i:05d}-of-{shards:05d}" for i in range(shards)]
    stream, written, sheet = enumerate(records(chunks, result)), 0, Sheet(count)
    with user_error_if_unwritable("the dataset", folder), _os_errors():
        folder.mkdir()
        for i, file in enumerate(files):
            writer = ArrayRecordWriter(os.fspath(folder / file), "group_size:1")  # for access in any order
            for _ in range(bounds[i + 1] - bounds[i]):
                place, png = next(stream)
                example = {"image": png, **({"label": result.labels[place]} if result.classes else {})}
                record = _stable(features.serialize_example(features.encode_example(example)))
                writer.write(record)
                written += len(record)
                sheet.offer(place, png)
            writer.close()
    lengths = [bounds[i + 1] - bounds[i] for i in range(shards)]
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=lengths,
        num_bytes=written,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split="train", filetype_suffix="array_record"
        ),
    )
    with user_error_if_unwritable("the dataset", folder):
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features,
            split_infos=[split],
            check_data=False,
            description=f"{count} pictures of {side}×{side} pixels, prepared by ganjax",
        )
    sheet.write(folder / CONTACT_SHEET)
    facts = _facts(plan, result, {file: _sha256(folder / file) for file in files}, name)
    write_atomically(folder / FACTS, (json.dumps(facts, indent=2) + "\n").encode(), "the dataset")
    write_atomically(folder / LEFT_OUT, _csv(result.left_out), "the dataset")
    return facts


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Gives errors of ArrayRecord's writer, which tell in words what the system said, the kind and number they had."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition(";")[0]
        number = next((n for n in errno.errorcode if os.strerror(n) in text), errno.EIO)
        raise OSError(number, text) from error


def _stable(record: bytes) -> bytes:
    """Returns the same example in bytes that are equal in every process: protobuf's maps have an order of their own."""
    from tensorflow_datasets.proto import tf_example_pb2

    return bytes(tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True))


def _facts(plan: Plan, result: Result, shards: dict[str, str], name: str) -> dict[str, Any]:
    counts = np.bincount(result.labels, minlength=len(result.classes)).tolist()
    return {
        "version": VERSION,
        "name": name,
        "source": shown(str(plan.options.source)),
        "plan": plan.digest,
        "resolution": plan.options.resolution,
        "fit": plan.options.fit,
        "channels": result.channels,
        "images": len(result.labels),
        "classes": dict(zip(result.classes, counts, strict=True)) if result.classes else {},
        "files": result.files,
        "left_out": result.kinds(),
        "enlarged": result.enlarged,
        "pixels_sha256": result.pixels,
        "shards_sha256": shards,
    }


class Sheet:
    """Contact sheet: up to 100 pictures, evenly spaced over the records."""

    def __init__(self, count: int) -> None:
        chosen = min(count, SHEET_IMAGES)
        self._places = {count * i // chosen for i in range(chosen)}
        self._images: list[np.ndarray] = []

    def offer(self, place: int, png: bytes) -> None:
        """Keeps the picture of this record if the sheet shows it."""
        from PIL import Image

        if place in self._places:
            picture = Image.open(io.BytesIO(png))
            picture.thumbnail((SHEET_SIDE, SHEET_SIDE), Image.Resampling.BOX)
            pixels = np.asarray(picture)
            self._images.append(pixels if pixels.ndim == 3 else pixels[:, :, None])

    def write(self, path: Path) -> None:
        """Writes the PNG."""
        write_grid(path, np.stack(self._images), columns=min(SHEET_COLUMNS, len(self._images)))


def _csv(rows: list[tuple[str, str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "kind", "reason"))
    writer.writerows((csv_text(shown(name)), kind, csv_text(shown(reason))) for name, kind, reason in rows)
    return text.getvalue().encode()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Hides what TFDS says about TensorFlow on standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
