"""Writes files whole or not at all, reads files that may be damaged, and finds the folders where caches belong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard, TypeVar, get_type_hints

from ganjax.runtime.errors import MachineError, UserError, remedy

if TYPE_CHECKING:
    import io

    import numpy as np

Record = TypeVar("Record")

_UNFINISHED = re.compile(r"\..+\.\d+\.tmp")
UNPACKED_BYTES = 256 * 1024**2  # to which any .npz may unpack, and a large one to so many times its own size
UNPACKED_TIMES = 16


def expand(path: str | Path) -> Path:
    """Returns the path with `~` replaced by the home folder.

    Raises:
      UserError: nobody knows which folder that is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: the home folder that ~ stands for is not known; HOME is not set, or there is no such user. "
            "Give the whole path."
        ) from None


def only_mine(path: Path) -> bool:
    """Returns True if `path` is there, is this user's, is no link, and nobody else may write it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def cache_dir(name: str) -> Path:
    """Returns `$XDG_CACHE_HOME/ganjax/NAME`, else `~/.cache/ganjax/NAME`; it need not be there.

    A user who has no home folder, or can make nothing in it, as in containers that run with another user's number, has
    `ganjax-USER/NAME` among the system's temporary files.

    Raises:
      UserError: others may write that temporary folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base, "ganjax", name)
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.exists(part))
    if not base.startswith("~") and (there == folder or os.access(there, os.W_OK)):
        return folder
    return _temporary_cache() / name


@functools.cache
def _temporary_cache() -> Path:
    folder = Path(tempfile.gettempdir(), f"ganjax-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    if not only_mine(folder):
        raise UserError(
            f"There is no folder for what ganjax keeps: no home folder to write in, and {folder} is not yours alone. "
            "Set XDG_CACHE_HOME to a folder of your own."
        )
    return folder


def fsync_folder(path: Path) -> None:
    """Makes renames and new names inside the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes `data` beside `path` and renames it. A reader always finds the old file or the whole new one.

    What killed writers left in that folder is removed first: a writer locks its file, and its end unlocks it. Without
    `sync`, for thousands of files, a power cut may leave the last ones empty, and nothing is removed.

    Raises:
      OSError: the file cannot be written; `path` is as it was.
    """
    if sync:
        _sweep(path.parent)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _locked(unfinished) as file:
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file and locks it, where the file system has locks."""
    while True:
        with open(path, "wb") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            # Between opening and locking it may have been swept: then another try.
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return


def _sweep(folder: Path) -> None:
    """Removes the files that `replace_file` began in this folder and no process holds any more."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed may still be written
        for path in [folder / name for name in os.listdir(folder) if _UNFINISHED.fullmatch(name)]:
            with contextlib.suppress(OSError), open(path, "r+b") as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Writes text with `replace_file`, in UTF-8."""
    replace_file(path, text.encode("utf-8"))


def atomic_write_json(path: Path, obj: Any) -> None:
    """Writes `obj` as indented JSON with `replace_file`."""
    atomic_write_text(path, json.dumps(obj, indent=2) + "\n")


@contextlib.contextmanager
def user_error_if_unwritable(what: str, path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `MachineError` that says what failed, where, why and what to do."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"Could not write {what} to {path}: {error.strerror or error}. {remedy(error)}, then give the same "
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


def check_utf8(path: Path, what: str) -> None:
    """Raises a `UserError` for a path with a name that is not UTF-8: the library of the checkpoints takes no other."""
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{what} cannot be {path}: a name on the way there is not UTF-8, or the locale says so (LC_ALL=C without "
            "Python's UTF-8 mode). Rename it, give another folder, or set LC_ALL=C.UTF-8."
        ) from None


def parse_json(data: bytes) -> Any:
    """Returns the value of a JSON text. Raises `ValueError` for all else, and for what no file can be written with."""
    try:
        value = json.loads(data.decode("utf-8"))
        if b"\\u" in data.lower():  # half a character, which UTF-8 cannot say
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("its lists and objects lie too deep within each other") from None
    return value


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file.

    Raises:
      OSError: the file cannot be opened, or is no regular file.
      ValueError: it holds something else.
    """
    return parse_json(read_regular(path))


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object of a file; an empty one where it is missing, damaged or something else."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make_record(kind: type[Record], fields: Any) -> Record:
    """Returns a dataclass made of a JSON object.

    Raises:
      ValueError: a field is missing, unknown or of another type, or an integer is larger than a float can be.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, came {type(fields).__name__}")
    for name, wanted in get_type_hints(kind).items():
        value = fields.get(name)
        value = float(value) if is_number(value) and isinstance(1.0, wanted) else value
        whole = isinstance(value, int) and not is_number(value)  # true and false are integers too
        if name in fields and (whole or not isinstance(value, wanted)):
            raise ValueError(f"{name} is {value!r:.100}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Returns True for a finite number of JSON that a float holds; not for true and false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def csv_text(text: str) -> str:
    """Returns a text for a cell of a CSV: with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a file for reading, unless it is a pipe, a device or the like, which might never end.

    Raises:
      OSError: the file cannot be opened, or is no regular file.
    """
    # Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "No regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """Returns the content of a file. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_npz(source: Path | BinaryIO, *, most: int = UNPACKED_BYTES) -> dict[str, np.ndarray]:
    """Returns all arrays of the file by name. Nothing in it is run: arrays of Python objects are refused.

    Args:
      source: the file.
      most: the bytes that it may unpack to, whatever its own size.

    Raises:
      OSError: the file cannot be opened.
      ValueError: it is no intact .npz, or unpacks to more than `most` bytes and `UNPACKED_TIMES` its own size. What
        NumPy, zipfile, zlib and the parser of an array's header raise for damaged bytes is no closed list (BadZipFile,
        zlib.error, NotImplementedError, TokenError, MemoryError …), so all of it counts.
    """
    import numpy as np  # not at the top: a workdir is opened before anything heavy is imported

    with open_regular(source) if isinstance(source, Path) else contextlib.nullcontext(source) as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(most, UNPACKED_TIMES * opened.seek(0, os.SEEK_END)):
                raise ValueError(f"it would unpack to {unpacked:,} bytes")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: np.asarray(file[name]) for name in file.files}
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"no intact .npz: {type(error).__name__}: {error}") from error
