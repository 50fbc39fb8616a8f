"""Writes files whole or not at all, reads files that may be damaged, and finds the folders where caches belong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ganjax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def cache_dir(name: str) -> Path:
    """Returns `$XDG_CACHE_HOME/ganjax/NAME`, else `~/.cache/ganjax/NAME`; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ganjax" / name


def fsync_folder(path: Path) -> None:
    """Makes renames and new names inside the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes `data` beside `path` and renames it. A reader always finds the old file or the whole new one.

    Without `sync`, which takes milliseconds, a power cut may leave an empty file of what was written last.

    Raises:
      OSError: the file cannot be written; `path` is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    if sync:
        fsync_folder(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """Writes text with `replace_file`, in UTF-8."""
    replace_file(path, text.encode("utf-8"))


def atomic_write_json(path: Path, obj: Any) -> None:
    """Writes `obj` as indented JSON with `replace_file`."""
    atomic_write_text(path, json.dumps(obj, indent=2) + "\n")


@contextlib.contextmanager
def user_error_if_unwritable(what: str, path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that says what failed, where, why and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "Free some space there or write to another disk"
        elif error.errno in _FORBIDDEN:
            remedy = "Make that place writable or write somewhere else"
        else:
            remedy = "Check that path or write somewhere else"
        raise UserError(
            f"Could not write {what} to {path}: {error.strerror or error}. {remedy}, then give the same "
            "command again; a training run goes on from its last checkpoint."
        ) from error


def write_atomically(path: Path, data: bytes, what: str) -> None:
    """Writes a file that a user asked for with `replace_file`. Missing folders are made.

    Raises:
      UserError: the file cannot be written; the message names `what`.
    """
    with user_error_if_unwritable(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def read_npz(source: Path | IO[bytes]) -> dict[str, np.ndarray]:
    """Returns all arrays of the file by name. Nothing in it is run: arrays of Python objects are refused.

    Raises:
      OSError: the file cannot be opened.
      ValueError: it is no intact .npz. What NumPy, zipfile, zlib and the parser of an array's header raise for damaged
        bytes is no closed list (BadZipFile, zlib.error, NotImplementedError, TokenError, MemoryError …), so all of it
        counts.
    """
    import numpy as np  # not at the top: a workdir is opened before anything heavy is imported

    try:
        with np.load(source, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"no intact .npz: {type(error).__name__}: {error}") from error
