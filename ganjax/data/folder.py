"""Images from a folder of picture files, or from an .npz of `ganjax sample`."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split, fit_images
from ganjax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def pictures(request: Request) -> Dataset:
    """The pictures in `data.path` as training data, fitted to `data.resolution`.

    Raises:
        UserError: no path, another split than train, or what `image_folder` and `fit_images` raise.
    """
    check_split(request, ("train",))
    if not request.path:
        raise UserError("data.name='folder' needs --config.data.path, a folder with pictures.")
    dataset = image_folder(Path(request.path))
    return dataclasses.replace(dataset, images=fit_images(dataset.images, request.resolution))


def image_folder(path: Path) -> Dataset:
    """All pictures below a folder, in the order of their names, or the array `samples` of an .npz; without labels.

    Pictures are grey where all of them are, else RGB: [N, H, W, C] uint8. An .npz may hold points, [N, 2] float32.

    Raises:
        UserError: nothing there, not readable, or pictures of several sizes.
    """
    if path.suffix == ".npz":
        return Dataset(str(path), _read_npz(path), None, 0)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{path} is no folder with pictures ({', '.join(SUFFIXES)}) and no .npz file.")
    pictures = [_read_picture(file) for file in files]
    colored = any(picture.ndim == 3 for picture in pictures)
    first = pictures[0].shape[:2]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[:2] != first:
            raise UserError(
                f"{path}: expected pictures of one size, and {file.name} has {picture.shape[0]}×{picture.shape[1]} "
                f"where {files[0].name} has {first[0]}×{first[1]}."
            )
    if colored:
        pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    images = np.stack(pictures)
    return Dataset(str(path), images if colored else images[..., None], None, 0)


def _read_picture(file: Path) -> np.ndarray:
    """[H, W] or [H, W, 3] uint8."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except OSError as error:  # Pillow's own error for what is no picture is one, too
        raise UserError(f"{file} cannot be read as a picture: {error}.") from error


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            samples = np.asarray(file["samples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected an .npz with an array `samples`, and got {error!r}.") from error
    if not (samples.dtype == np.uint8 and samples.ndim == 4) and not (
        samples.dtype == np.float32 and samples.ndim == 2
    ):
        raise UserError(
            f"{path}: expected samples uint8 [N, H, W, C] or float32 [N, 2], and got {samples.dtype} {samples.shape}."
        )
    return samples
