"""Runs `ganjax data stats`: the content of a data set, folder or zip, and what in it may trouble a GAN's training."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data import DATASETS, Dataset, load
from ganjax.data.lazy import LazyImages
from ganjax.data.pictures.decode import Refusal, decode, quiet_pillow, to_array
from ganjax.data.pictures.listing import classes_of, list_files, reader
from ganjax.data.sources.tfds import is_prepared
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import expand

FEW_IMAGES = 2000  # below this D soon knows the pictures by heart, unless they are augmented
RARE_CLASS = 0.2  # of an even share
IN_MEMORY = 256 * 1024**2  # bytes of images; of more, a few at a time are read
BLOCK = 256  # images read at a time
SHOWN_CLASSES, SHOWN_SIZES = 12, 4


@dataclass
class Stats:
    """Findings of `ganjax data stats`.

    Attributes:
        name: the name of the data.
        kind: one of images and points.
        count: the number of images or points that can be used.
        classes: the dict name → count; empty without labels.
        sizes: the dict `WIDTH×HEIGHT` → count, most frequent first; empty for points.
        channels: the most channels of a picture, or the coordinates of a point.
        mean, std: the mean and deviation of each channel over all pixels, 0 to 255; of points in their own units.
        duplicates: the number of images whose pixels equal those of an earlier one.
        flat: the number of images of one colour.
        square, one_size: True if all images are square, and if all have one size.
        bytes: the bytes of the data in memory as they are.
        left_out: the dict kind of reason → count of files that are no pictures or cannot be read.
        warnings: the warnings, as sentences.
    """

    name: str
    kind: str = "images"
    count: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    channels: int = 0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    duplicates: int = 0
    flat: int = 0
    square: bool = True
    one_size: bool = True
    bytes: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the findings as plain values."""
        return asdict(self)


def examine(data: str, *, split: str = "train") -> Stats:
    """Reads all data once, a few images at a time.

    Args:
        data: a prepared folder, any folder or zip with pictures, or a name of `ganjax.data.load`.
        split: the split of a named dataset.

    Raises:
        UserError: `data` is none of these, or holds nothing.
    """
    path = expand(data)
    stats = Stats(name=data)
    if data in DATASETS or not path.exists():
        if data == "folder":
            raise UserError("data stats: give the folder itself instead of the name 'folder'.")
        images = _of_dataset(load(data, split=split, max_bytes=IN_MEMORY), stats)
    elif path.is_dir() and is_prepared(path):
        images = _of_dataset(load("folder", path=str(path), split=split, max_bytes=IN_MEMORY), stats)
    else:
        images = _of_files(path, stats)
    _gather(images, stats)
    if not stats.count:
        raise UserError(f"{data}: no picture of it can be read.")
    stats.warnings = list(_warnings(stats))
    return stats


def _of_dataset(dataset: Dataset, stats: Stats) -> Iterator[np.ndarray]:
    """Yields the dataset's images. Its classes go to `stats`."""
    names = dataset.label_names or tuple(map(str, range(dataset.num_classes)))
    if isinstance(dataset.images, LazyImages):
        counts = np.zeros(len(names) or 1, np.int64)
        for start in range(0, len(dataset), BLOCK):
            places = np.arange(start, min(start + BLOCK, len(dataset)))
            images, labels = dataset.images.reader.many(places)
            counts += np.bincount(labels, minlength=len(counts))
            yield from images
        stats.classes = dict(zip(names, counts.tolist(), strict=False))
        return
    if dataset.labels is not None:
        counts = np.bincount(dataset.labels[:], minlength=len(names))
        stats.classes = dict(zip(names, counts.tolist(), strict=True))
    if dataset.images.ndim == 2:
        stats.kind = "points"
    for start in range(0, len(dataset), BLOCK):
        yield from dataset.images[start : start + BLOCK]


def _of_files(path: Path, stats: Stats) -> Iterator[np.ndarray]:
    """Yields the pictures of a folder or zip that can be decoded. Classes and files left out go to `stats`."""
    listing = list_files(path)
    left_out = collections.Counter(kind for _, kind, _ in listing.others)
    classes: collections.Counter[str] = collections.Counter()
    names = [entry.name for entry in listing.pictures]
    read = reader(path)
    for name, label in zip(names, classes_of(names), strict=True):
        try:
            with read(name) as file, quiet_pillow():
                image = to_array(decode(file))
        except Refusal as refusal:
            left_out[refusal.kind] += 1
            continue
        classes[label] += 1
        yield image
    stats.classes = {label: classes[label] for label in sorted(set(classes) - {""})}
    stats.left_out = dict(left_out.most_common())


def _gather(images: Iterator[np.ndarray], stats: Stats) -> None:
    """Gathers the findings in one pass over the images."""
    sizes: collections.Counter[tuple[int, ...]] = collections.Counter()
    seen: set[bytes] = set()
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for image in images:
        stats.count += 1
        stats.bytes += image.nbytes
        sizes[image.shape[:-1]] += 1
        stats.channels = max(stats.channels, image.shape[-1])
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        stats.duplicates += digest in seen
        seen.add(digest)
        flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
        stats.flat += bool(image.ndim == 3 and np.all(image == image[0, 0]))
        sums += _spread(flat.sum(axis=0))
        squares += _spread((flat**2).sum(axis=0))
        pixels += len(flat)
    if not pixels:
        return
    mean = sums / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    kept = min(stats.channels, 3)
    stats.mean = [round(float(x), 4) for x in mean[:kept]]
    stats.std = [round(float(x), 4) for x in deviation[:kept]]
    if stats.kind == "images":
        stats.sizes = {f"{w}×{h}": n for (h, w), n in sizes.most_common()}
        stats.one_size = len(sizes) == 1
        stats.square = all(h == w for h, w in sizes)


def _spread(values: np.ndarray) -> np.ndarray:
    """Spreads sums of 1, 2, 3 or more channels to three: grey counts for each of RGB."""
    return np.repeat(values, 3) if len(values) == 1 else np.resize(np.append(values, [0.0]), 3)


def _warnings(stats: Stats) -> Iterator[str]:
    if stats.kind == "points":
        return
    if stats.count < FEW_IMAGES:
        yield (
            f"Only {stats.count:,} images: D will soon know them by heart. Use --config.augment.policy=ada "
            "(or color,translation) and --config.data.flip=True where mirrored pictures are right."
        )
    if stats.classes:
        even = stats.count / len(stats.classes)
        rare = [name for name, count in stats.classes.items() if count < RARE_CLASS * even]
        if rare:
            yield (
                f"{len(rare)} of {len(stats.classes)} classes have less than a fifth of an even share, for example "
                f"{rare[0]!r} ({stats.classes[rare[0]]:,}): G will learn them badly, or train without "
                "--config.model.conditional."
            )
    if not stats.one_size:
        yield "The images differ in size: `ganjax data prepare` makes them one size."
    elif not stats.square:
        yield "The images are not square: their middles are used, or `ganjax data prepare --fit=pad`."
    elif stats.sizes and not _power_of_two(next(iter(stats.sizes))):
        yield "The networks make 8, 16, 32, 64, … pixels: train with --config.data.resolution set to one of these."
    if stats.duplicates:
        share = stats.duplicates / stats.count
        yield f"{stats.duplicates:,} images ({share:.1%}) are exact duplicates of others; prepare leaves them out."
    if stats.flat:
        yield f"{stats.flat:,} images are of one colour all over."
    unusable = sum(count for kind, count in stats.left_out.items() if kind != "other file")
    if unusable:
        yield f"{unusable:,} pictures cannot be used; `ganjax data prepare` writes the reason of each."


def _power_of_two(size: str) -> bool:
    side = int(size.partition("×")[0])
    return side >= 8 and side & (side - 1) == 0


def told(stats: Stats) -> str:
    """Returns the findings as text for a person."""
    rows = [("count", f"{stats.count:,} {stats.kind}")]
    if stats.kind == "images":
        sizes = [f"{size} ({n:,})" if not stats.one_size else size for size, n in stats.sizes.items()]
        more = f" and {len(sizes) - SHOWN_SIZES} more" if len(sizes) > SHOWN_SIZES else ""
        rows.append(("size", ", ".join(sizes[:SHOWN_SIZES]) + more))
        rows.append(("channels", {1: "1 (grey)", 3: "3 (RGB)"}.get(stats.channels, str(stats.channels))))
    if stats.classes:
        largest = sorted(stats.classes.items(), key=lambda item: -item[1])
        some = ", ".join(f"{name}: {n:,} ({n / stats.count:.1%})" for name, n in largest[:SHOWN_CLASSES])
        more = f" and {len(largest) - SHOWN_CLASSES} more" if len(largest) > SHOWN_CLASSES else ""
        rows.append(("classes", f"{len(largest)} – {some}{more}"))
    else:
        rows.append(("classes", "none"))
    unit = " of 255" if stats.kind == "images" else ""
    rows.append(("mean", ", ".join(f"{x:.4g}" for x in stats.mean) + unit))
    rows.append(("std", ", ".join(f"{x:.4g}" for x in stats.std) + unit))
    rows.append(("duplicates", f"{stats.duplicates:,}"))
    rows.append(("in memory", f"{stats.bytes / 1e6:,.1f} MB"))
    for kind, count in stats.left_out.items():
        rows.append((kind, f"{count:,} files"))
    lines = [stats.name, *(f"  {name:<12}{value}" for name, value in rows)]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in stats.warnings)])
