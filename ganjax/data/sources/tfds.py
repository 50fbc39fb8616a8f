"""Datasets of tensorflow-datasets (TFDS): prepared ones are found and read without TensorFlow.

TFDS keeps a dataset in DATA_DIR/NAME/[CONFIG/]VERSION as records of encoded images, in ArrayRecord or TFRecord
files. Decoding 60,000 small PNGs takes 6 to 10 s, so the decoded arrays are kept beside that folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split, content_hash, fit_images
from ganjax.data.lazy import LazyImages, LazyLabels, Reader
from ganjax.runtime.errors import UserError, nearest
from ganjax.runtime.files import expand, open_regular, read_npz, read_regular, replace_file

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<name>\w+(/[\w.-]+)?)(:(?P<version>\d+\.\d+\.\d+))?")
_CHUNK = 4096
PIXELS = "pixels_sha256"  # in `ganjax.json`
_NO_LABEL = -1  # what TFDS gives to the images of a test whose answers are kept secret


def data_dir(path: str) -> Path:
    """Returns the TFDS folder: `path`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = expand(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if chosen.exists() and not chosen.is_dir():
        raise UserError(f"data.path: {chosen} is a file; expected the folder that holds TFDS datasets.")
    return chosen


def offline() -> bool:
    """Returns True if $GANJAX_OFFLINE forbids the network."""
    return os.environ.get("GANJAX_OFFLINE", "") not in ("", "0")


def is_prepared(folder: Path) -> bool:
    """Returns True if TFDS finished writing `folder`: it renames it into place only when complete."""
    return (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file()


def load_tfds(request: Request, built_in: Iterable[str]) -> Dataset:
    """Loads any TFDS dataset with an `image` feature, and a `label` or none: `NAME[/CONFIG][:VERSION]`.

    A dataset prepared under `request.path` is read as it is. Otherwise TFDS prepares it, which needs TensorFlow and,
    as a rule, the network.

    Raises:
        UserError: no such dataset is built in, prepared or can be prepared; it has no images; the split is unknown.
    """
    root = data_dir(request.path)
    folder = _find_prepared(root, request.name)
    if folder is None:
        if not _NAME.fullmatch(request.name) or importlib.util.find_spec("tensorflow") is None:
            raise _unknown(request.name, root, built_in)
        folder = _prepare_stock(root, request, built_in)
    return read_prepared(folder, request)


def read_prepared(folder: Path, request: Request) -> Dataset:
    """Reads the split `request.split` of the prepared dataset in `folder`. Slices such as `train[:1000]` work too.

    Raises:
        UserError: the split is unknown, there are no images, or files are damaged.
    """
    try:
        return _read_prepared(folder, request)
    except UserError:
        raise
    except Exception as error:  # whatever the readers of metadata, records and images raise on broken files
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder} cannot be read ({type(error).__name__}: {text}). Remove that folder to prepare it anew."
        ) from error


def _read_prepared(folder: Path, request: Request) -> Dataset:
    import tensorflow_datasets as tfds

    _check_classes(json.loads(read_regular(folder / "features.json")), folder)
    info = tfds.builder_from_directory(os.fspath(folder)).info
    base = request.split.partition("[")[0]
    if base not in info.splits:
        check_split(request, tuple(info.splits))
    try:
        split = info.splits[request.split]
    except ValueError as error:
        raise UserError(
            f"data.split: {request.split!r} is no part of a split: {str(error).splitlines()[0]}"
        ) from None
    if "image" not in info.features:
        raise UserError(
            f"data.name: {request.name} has no feature 'image'; it has {', '.join(info.features)}."
        )
    lazy = _on_disk(folder, info, split, request)
    images: np.ndarray | LazyImages
    labels: np.ndarray | LazyLabels | None
    if lazy is None:
        arrays, labels = _cached_arrays(folder, info, split, request)
        labels = None if labels is not None and labels[0] == _NO_LABEL else labels
        images = fit_images(arrays, request.resolution)
    else:
        images, labels = LazyImages(lazy), LazyLabels(lazy) if lazy.classes else None
    classes = info.features["label"] if labels is not None else None
    facts, size = _facts(folder), f"{split.num_examples} {int(split.num_bytes)}"
    return Dataset(
        name=request.name,
        images=images,
        labels=labels,
        content=_content(folder, request, lazy, facts),
        files=hashlib.sha256(f"{request.split} {facts.get(PIXELS) or size}".encode()).hexdigest(),
        counts=tuple(facts.get("classes", {}).values()) if request.split == "train" else (),
        num_classes=classes.num_classes or 0 if classes else 0,
        label_names=tuple(classes.names) if classes else (),
    )


def _check_classes(node: Any, folder: Path) -> None:
    """Checks that the features are of TFDS itself.

    TFDS imports whatever module the file names, which would run that module's code.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            named = key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str)
            if named and "." in value and not value.startswith("tensorflow_datasets."):
                raise UserError(
                    f"{folder}: features.json names {value!r}; only features of tensorflow_datasets are taken."
                )
            _check_classes(value, folder)
    elif isinstance(node, list):
        for value in node:
            _check_classes(value, folder)


def _labelled(info: Any) -> bool:
    return "label" in info.features and hasattr(info.features["label"], "num_classes")


def _on_disk(folder: Path, info: Any, split: Any, request: Request) -> Reader | None:
    """Returns a reader of the split where it is larger than `request.max_bytes`, else None.

    Raises:
        UserError: the split is larger and its images differ in size, or it cannot be read in any order.
    """
    side, shape = request.resolution, tuple(info.features["image"].shape)
    size = (split.num_examples, *((side, side, shape[2]) if side else shape))
    if request.max_bytes is None or not split.num_examples:
        return None
    if None in size:
        if request.max_bytes:
            return None
        raise UserError(
            f"data.resolution: the images of {request.name} may differ in size; data.delivery='streaming' needs the "
            "resolution to bring them to."
        )
    if not request.too_large(size):
        return None
    if "array_record" not in split.filepaths[0].name:
        if request.max_bytes:
            return None
        raise UserError(
            f"data.delivery: {folder} holds TFRecord files, which can only be read in their order; 'streaming' needs "
            "ArrayRecord files. Use 'resident', or prepare the dataset anew."
        )
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source, labelled = ArrayRecordDataSource(split.file_instructions), _labelled(info)

    def read(index: int) -> tuple[np.ndarray, int]:
        example = info.features.deserialize_example_np(source[index])
        return fit_images(example["image"][None], side)[0], int(example["label"]) if labelled else 0

    with (
        quiet_tfds(),
        contextlib.suppress(Exception),
    ):  # says once what it thinks of OpenCV; errors come again
        example = info.features.deserialize_example_np(source[0])
        labelled = labelled and int(example["label"]) != _NO_LABEL
    classes = info.features["label"].num_classes or 0 if labelled else 0
    return Reader(read, size, str(folder), request.max_corrupt, classes)


def _facts(folder: Path) -> dict[str, Any]:
    """Returns what `ganjax data prepare` wrote about the dataset in `folder`; empty where another program made it."""
    try:
        facts = json.loads(read_regular(folder / "ganjax.json"))
        return facts if isinstance(facts[PIXELS], str) and isinstance(facts["classes"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _content(folder: Path, request: Request, lazy: Reader | None, facts: Mapping[str, Any]) -> str:
    """Returns what is known of the content without reading it: for data of `ganjax data prepare`, and for streams."""
    what = f"{request.split} {request.resolution} "
    if facts:
        return hashlib.sha256(f"{what}{facts[PIXELS]}".encode()).hexdigest()
    if lazy is None:
        return ""
    return hashlib.sha256(what.encode() + (folder / "dataset_info.json").read_bytes()).hexdigest()


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Runs TFDS without progress bars, advice about OpenCV, or lines on stdout (which may be carrying JSON)."""
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
        absl_logging.set_verbosity(verbosity)


def _find_prepared(root: Path, name: str) -> Path | None:
    """Returns the folder of the version asked for, or of the highest one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parent = root / match["name"]
    if match["version"]:
        folders = [parent / match["version"]]
    else:
        folders = [folder for folder in parent.glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    prepared = [folder for folder in folders if is_prepared(folder)]
    return max(prepared, key=lambda folder: tuple(map(int, folder.name.split("."))), default=None)


def _unknown(name: str, root: Path, built_in: Iterable[str]) -> UserError:
    names = tuple(built_in)
    return UserError(
        f"data.name: got {name!r}; built in are {', '.join(names)}.{nearest(name, names)} Any other name is taken for "
        f"a dataset of tensorflow-datasets: none is prepared in {root}, and preparing one needs TensorFlow: "
        "pip install 'ganjax[tensorflow]'."
    )


def _prepare_stock(root: Path, request: Request, built_in: Iterable[str]) -> Path:
    """Makes TFDS's own builder write the dataset as ArrayRecord. Returns its folder."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # or it would reserve the memory that training needs
    try:
        builder = tfds.builder(
            request.name, data_dir=os.fspath(root), file_format="array_record", try_gcs=False
        )
    except tfds.core.registered.DatasetNotFoundError:
        names = (*built_in, *tfds.list_builders(with_community_datasets=False))
        raise UserError(
            f"data.name: got {request.name!r}; it is neither built in ({', '.join(built_in)}) nor known to "
            f"tensorflow-datasets {tfds.__version__}.{nearest(request.name, names)}"
        ) from None
    if offline() and not request.manual_dir:
        raise UserError(
            f"data.name: {request.name} is not prepared in {root}, and GANJAX_OFFLINE forbids downloading it; "
            "prepare it where there is a network and give that folder as data.path."
        )
    config = tfds.download.DownloadConfig(manual_dir=request.manual_dir or None, try_download_gcs=False)
    try:
        with quiet_tfds():
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # builders of all kinds, the network, the disk
        raise UserError(f"data.name: TFDS could not prepare {request.name} in {root}: {error}") from error
    return Path(builder.data_dir)


def _cached_arrays(
    folder: Path, info: Any, split: Any, request: Request
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the decoded arrays: from the cache where its hash holds, else from the records, then kept."""
    # Images of differing sizes can only be stacked at the resolution asked for.
    resolution = request.resolution if None in info.features["image"].shape[:2] else 0
    key = hashlib.sha256(f"1 {request.split} {resolution}".encode())
    for instruction in split.file_instructions:
        with open_regular(Path(instruction.filename)) as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    place = folder if (folder / "ganjax.json").is_file() else folder.parent
    cache = place / f"ganjax-{folder.name}-{request.split.partition('[')[0]}-{key.hexdigest()[:16]}.npz"
    found = _read_cache(cache)
    if found is not None:
        return found
    logger.info("Decoding %d images of %s; this is done once.", split.num_examples, request.name)
    with quiet_tfds():
        images, labels = _decode(info, split, resolution, request)
    _write_cache(cache, images, labels)
    return images, labels


def _decode(info: Any, split: Any, resolution: int, request: Request) -> tuple[np.ndarray, np.ndarray | None]:
    labelled = _labelled(info)
    images: np.ndarray | None = None
    labels = np.empty(split.num_examples, np.int32)
    for index, record in enumerate(_records(split)):
        example = info.features.deserialize_example_np(record)
        image = fit_images(example["image"][None], resolution)[0]
        if images is None:
            images = np.empty((split.num_examples, *image.shape), np.uint8)
        if image.shape != images.shape[1:] or image.dtype != np.uint8:
            raise UserError(
                f"data.resolution: the images of {request.name} differ in size or depth ({image.dtype} {image.shape} "
                f"after {images.shape[1:]}); give the resolution to bring them to."
            )
        images[index] = image
        labels[index] = example["label"] if labelled else 0
    if images is None:
        raise UserError(f"data.split: {request.split!r} of {request.name} holds no images.")
    return images, labels if labelled else None


def _records(split: Any) -> Iterator[bytes]:
    """Returns the serialised examples of a split, in TFDS's order."""
    if ".tfrecord" not in split.filepaths[0].name:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        source = ArrayRecordDataSource(split.file_instructions)
        for start in range(0, len(source), _CHUNK):
            yield from source.__getitems__(range(start, min(start + _CHUNK, len(source))))
        return
    for part in split.file_instructions:
        yield from _tfrecords(part.filename, part.skip, part.skip + part.take)


def _tfrecords(filename: str, start: int, stop: int) -> Iterator[bytes]:
    """Reads records [start, stop) of a TFRecord file: length (uint64, little endian), its CRC, the data, its CRC."""
    with open(filename, "rb") as file:
        for index in range(stop):
            (length,) = struct.unpack("<Q", file.read(12)[:8])
            if index < start:
                file.seek(length + 4, os.SEEK_CUR)
            else:
                yield file.read(length + 4)[:length]


def _read_cache(cache: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    try:
        stored = read_npz(cache)
        images, labels, expected = stored["images"], stored.get("labels"), str(stored["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s is damaged (%s); decoding again.", cache, error)
        return None
    if content_hash(images, labels) != expected:
        logger.warning("%s is damaged: its content does not have the sha256 stored with it.", cache)
        return None
    return images, labels


def _write_cache(cache: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    """Writes the decoded images to the cache. A folder that is read-only has no cache."""
    arrays = {"images": images, "sha256": np.array(content_hash(images, labels))}
    if labels is not None:
        arrays["labels"] = labels
    try:
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        replace_file(cache, content.getvalue())
    except OSError as error:
        logger.info("The decoded images are not kept: %s", error)
