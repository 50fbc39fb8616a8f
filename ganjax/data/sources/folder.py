"""Images from a folder of picture files, a dataset of `ganjax data prepare`, or an .npz of `ganjax sample`."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split, fit_images
from ganjax.data.lazy import LazyImages, Reader
from ganjax.data.pictures.decode import SUFFIXES, Refusal, decode, quiet_pillow, to_array
from ganjax.data.pictures.listing import classes_of, list_files, reader, shown
from ganjax.data.sources.tfds import is_prepared, read_prepared
from ganjax.runtime.allocator import memory
from ganjax.runtime.errors import UserError, quoted
from ganjax.runtime.files import expand, read_npz


def pictures(request: Request) -> Dataset:
    """Reads the pictures in `data.path` as training data, fitted to `data.resolution`.

    A folder that `ganjax data prepare` made is read as it is. In any other folder, subfolders are classes where all
    pictures lie in two or more of them.

    Raises:
        UserError: there is no path, the split is not train, or `read_folder` or `fit_images` raises one.
    """
    if not request.path:
        raise UserError("data.name='folder' needs --config.data.path, a folder with pictures.")
    path = expand(request.path)
    if is_prepared(path):
        return read_prepared(path, request)
    check_split(request, ("train",))
    return read_folder(path, request)


def image_folder(path: Path) -> Dataset:
    """Reads all pictures of a folder or prepared dataset, or the array `samples` of an .npz; without labels.

    Pictures are grey where all of them are, else RGB: [N, H, W, C] uint8. An .npz may hold points, [N, 2] float32.

    Raises:
        UserError: nothing is there, it is not readable, or the pictures have several sizes.
    """
    if path.suffix == ".npz":
        return Dataset(str(path), _read_npz(path), None, 0)
    if is_prepared(path):
        images = read_prepared(path, Request(str(path))).images
    else:
        images = read_folder(path, Request(str(path))).images
    return Dataset(str(path), images, None, 0)


def read_folder(path: Path, request: Request) -> Dataset:
    """Reads all pictures below a folder or in a zip, in the order of their names.

    Args:
        path: the path of the folder or zip.
        request: the request. `fit_images` brings each picture to its `resolution`, 0 for pictures that have one
            size; with more than `max_bytes` they stay on the disk.

    Raises:
        UserError: there are no pictures, one cannot be read, or they have several sizes.
    """
    listing = list_files(path)
    names = [entry.name for entry in listing.pictures]
    if not names:
        raise UserError(f"{path} is no folder with pictures ({', '.join(SUFFIXES)}) and no .npz file.")
    of_each = classes_of(names)
    classes = sorted(set(of_each) - {""})
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[name] for name in of_each], np.int32) if classes else None
    images = _on_disk(path, names, labels, request) or _in_memory(path, names, request.resolution)
    content = ""
    if isinstance(images, LazyImages):  # names, sizes and times are what can be told without reading it all
        content = hashlib.sha256(repr((listing.pictures, request.resolution)).encode()).hexdigest()
    sizes = [(entry.name, entry.size) for entry in listing.pictures]  # a copy has other times
    files = hashlib.sha256(repr(sizes).encode()).hexdigest()
    return Dataset(str(path), images, labels, len(classes), tuple(classes), content=content, files=files)


def _read(path: Path, name: str, resolution: int) -> np.ndarray:
    """Reads one picture, [H, W, 1 or 3] uint8. Raises `Refusal`."""
    with reader(path)(name) as file:
        return fit_images(to_array(decode(file))[None], resolution)[0]


def _on_disk(path: Path, names: list[str], labels: np.ndarray | None, request: Request) -> LazyImages | None:
    """Returns the pictures where they are more than `request.max_bytes`, else None.

    They are grey if the first one is.
    """
    if request.max_bytes is None:
        return None
    first = None
    for name in names[: request.max_corrupt + 1]:
        with contextlib.suppress(Refusal), quiet_pillow():
            first = _read(path, name, request.resolution)
            break
    if first is None:
        raise UserError(f"{path}: none of its first pictures can be read.")
    shape = (len(names), *first.shape)
    if not request.too_large(shape):
        return None

    def read(index: int) -> tuple[np.ndarray, int]:
        image = _read(path, names[index], request.resolution)
        if image.shape[2] != first.shape[2]:
            image = np.repeat(image, 3, axis=2) if first.shape[2] == 3 else _grey(image)
        return image, 0 if labels is None else int(labels[index])

    return LazyImages(Reader(read, shape, str(path), request.max_corrupt))


def _grey(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return to_array(Image.fromarray(image).convert("L"))


def _in_memory(path: Path, names: list[str], resolution: int) -> np.ndarray:
    """Returns the pictures [N, H, W, C] uint8; grey where all of them are."""
    images: list[np.ndarray] = []
    for name in names:
        try:
            with quiet_pillow():
                images.append(_read(path, name, resolution))
        except Refusal as refusal:
            raise UserError(
                f"{path}: {shown(name)} cannot be read as a picture: {refusal.kind}, {refusal.reason}. "
                f"`ganjax data prepare {quoted(path)} --out=… --resolution=…` leaves such files out."
            ) from None
        if images[-1].shape[:2] != images[0].shape[:2]:
            (height, width), (first, second) = images[-1].shape[:2], images[0].shape[:2]
            raise UserError(
                f"{path}: expected pictures of one size, and {shown(name)} has {height}×{width} where "
                f"{shown(names[0])} has {first}×{second}; `ganjax data prepare` makes them one size."
            )
    if any(image.shape[2] == 3 for image in images):
        images = [image if image.shape[2] == 3 else np.repeat(image, 3, axis=2) for image in images]
    return np.stack(images)


def _read_npz(path: Path) -> np.ndarray:
    try:
        samples = read_npz(path, most=memory() // 4)["samples"]  # samples of a collapsed G pack very well
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected an .npz with an array `samples`, and got {error!r}.") from error
    if not (samples.dtype == np.uint8 and samples.ndim == 4) and not (
        samples.dtype == np.float32 and samples.ndim == 2
    ):
        raise UserError(
            f"{path}: expected samples uint8 [N, H, W, C] or float32 [N, 2], and got {samples.dtype} {samples.shape}."
        )
    return samples
