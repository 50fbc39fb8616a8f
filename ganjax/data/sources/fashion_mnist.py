"""Prepares Fashion-MNIST 3.0.1 of tensorflow-datasets without TensorFlow.

TFDS's stock builder needs TensorFlow only to unzip and to write PNGs. The subclass here does both in Python and
leaves the rest to TFDS; content and order are those of the stock dataset (held to it in tests).

Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset".
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import struct
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split
from ganjax.data.sources.tfds import data_dir, is_prepared, offline, quiet_tfds, read_prepared
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import expand

logger = logging.getLogger(__name__)

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
VERSION = "3.0.1"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# name → sha256 of the original file (TFDS checks the same), and the time written in its gzip header
FILES = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        1504176606,
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        1504176606,
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        1504176627,
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        1504176627,
    ),
}


def fashion_mnist(request: Request) -> Dataset:
    """Returns 60,000 (`train`) or 10,000 (`test`) grey 28×28 images of clothes, [N, 28, 28, 1], 10 classes.

    The first call prepares the TFDS dataset in `path` (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets), from
    the four files in `manual_dir` where it is given, else from Debian's package dataset-fashion-mnist, else from the
    network unless GANJAX_OFFLINE is 1. Later calls read what was prepared.

    Raises:
        UserError: no source has the files, one of them is damaged, or the folder cannot be written.
    """
    base = request.split.partition("[")[0]
    if base not in ("train", "test"):
        check_split(request, ("train", "test"))
    root = data_dir(request.path)
    folder = root / "fashion_mnist" / VERSION
    # A folder that the user names is checked even when there is nothing left to prepare.
    files = _read_folder(expand(request.manual_dir)) if request.manual_dir else None
    if not is_prepared(folder):
        if folder.exists():
            raise UserError(
                f"{folder} is not a complete TFDS dataset; remove it, and it will be prepared anew."
            )
        _prepare(root, files or _find_files(folder))
    return read_prepared(folder, request)


def _find_files(folder: Path) -> dict[str, bytes]:
    """Finds the four files in Debian's package or on the network."""
    if DEBIAN.is_dir():
        return _read_folder(DEBIAN)
    if offline():
        problem = "the network was not tried, because GANJAX_OFFLINE is set"
    else:
        try:
            return {name: _checked(name, _download(URL + name), URL) for name in FILES}
        except OSError as error:
            problem = f"{URL} could not be reached ({error})"
    raise UserError(
        f"data.name: fashion_mnist was not found: {folder} is not prepared, {DEBIAN} does not exist, and {problem}. "
        "Either `apt-get install dataset-fashion-mnist`, or put "
        f"{', '.join(FILES)} from {URL} into a folder and give it as --config.data.manual_dir=FOLDER, or prepare the "
        "dataset where there is a network and give its TFDS folder as --config.data.path=FOLDER."
    )


def _download(url: str) -> bytes:
    logger.info("Downloading %s", url)
    with urllib.request.urlopen(url, timeout=30) as response:
        return bytes(response.read())


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Reads the four original files from a folder that holds them, or Debian's recompressed ones."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"data.manual_dir: {folder} does not hold {', '.join(missing)}.")
    return {name: _checked(name, (folder / name).read_bytes(), folder / name) for name in FILES}


def _checked(name: str, raw: bytes, origin: object) -> bytes:
    """Returns the original bytes of the file `name`, whose sha256 is known.

    It takes them from that file or from Debian's version of it.

    Debian changed nothing but the gzip header: it dropped the file's name and set another time.
    """
    expected, time = FILES[name]
    original_name = name.removesuffix(".gz").encode() + b"\0"
    original = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + raw[8:10] + original_name + raw[10:]
    for candidate in (raw, original):
        if hashlib.sha256(candidate).hexdigest() == expected:
            return candidate
    found = hashlib.sha256(raw).hexdigest()
    raise UserError(
        f"{name} from {origin} is damaged or another file: expected sha256 {expected}, found {found}."
    )


def _prepare(root: Path, files: dict[str, bytes]) -> None:
    """Writes the TFDS dataset. TFDS writes into a temporary folder and renames it when complete."""
    import tensorflow_datasets as tfds

    logger.info("Preparing fashion_mnist in %s; this takes about 15 s and is done once.", root)
    with tempfile.TemporaryDirectory(prefix="ganjax-") as originals:
        for name, content in files.items():
            Path(originals, name).write_bytes(content)
        config = tfds.download.DownloadConfig(manual_dir=originals, try_download_gcs=False)
        try:
            with quiet_tfds():
                _builder(root).download_and_prepare(download_dir=originals, download_config=config)
        except Exception as error:  # the writer of records raises errors of its own kind on a full disk
            # Another process may have put its own, identical, folder there in the meantime.
            if not is_prepared(root / "fashion_mnist" / VERSION):
                raise UserError(f"data.path: fashion_mnist cannot be written to {root}: {error}") from error


def _builder(root: Path) -> Any:
    """Returns TFDS's builder of Fashion-MNIST with the parts replaced that call TensorFlow."""
    from PIL import Image
    from tensorflow_datasets.image_classification import mnist

    class FashionMNIST(mnist.FashionMNIST, skip_registration=True):  # type: ignore[misc, call-arg]
        name = "fashion_mnist"

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            paths = dl_manager.download({name: URL + name for name in FILES})
            return {
                split: self._generate_examples(
                    paths[f"{prefix}-images-idx3-ubyte.gz"], paths[f"{prefix}-labels-idx1-ubyte.gz"]
                )
                for split, prefix in (("train", "train"), ("test", "t10k"))
            }

        def _generate_examples(
            self, images_path: Any, labels_path: Any
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            # IDX: a header of 16 bytes before images, of 8 before labels, then the values
            pixels = np.frombuffer(gzip.decompress(images_path.read_bytes()), np.uint8, offset=16)
            labels = np.frombuffer(gzip.decompress(labels_path.read_bytes()), np.uint8, offset=8)
            for key, (image, label) in enumerate(zip(pixels.reshape(-1, 28, 28), labels, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                # TFDS orders records by a hash of the key, so the key decides the order.
                yield key, {"image": png.getvalue(), "label": int(label)}

    return FashionMNIST(data_dir=os.fspath(root), file_format="array_record")
