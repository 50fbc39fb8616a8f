"""Lists the files of a folder or a zip: which are pictures, of which class, and why the others are not taken."""

from __future__ import annotations

import functools
import io
import os
import stat
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ganjax.data.pictures.decode import MAX_FILE_BYTES, SUFFIXES, Refusal
from ganjax.runtime.errors import UserError

MAX_DEPTH = 40  # folders within folders


@dataclass(frozen=True)
class Entry:
    """File that may be a picture.

    Attributes:
        name: the path below the folder or in the zip, parts joined by `/`.
        size: the size in bytes.
        stamp: the time of its last change in ns; in a zip its checksum. Another stamp means another content.
    """

    name: str
    size: int
    stamp: int


@dataclass
class Listing:
    """Content of a folder or zip: `pictures` by name, and `others` as (name, kind, reason), by name too."""

    pictures: list[Entry] = field(default_factory=list)
    others: list[tuple[str, str, str]] = field(default_factory=list)

    def sort(self) -> Listing:
        self.pictures.sort(key=lambda entry: entry.name)
        self.others.sort()
        return self

    def add(self, name: str, size: int, stamp: int) -> None:
        """Adds a regular file, which by its name and size is a picture or not."""
        if Path(name).suffix.lower() not in SUFFIXES:
            self.others.append((name, "other file", f"its name does not end in {', '.join(SUFFIXES)}"))
        elif size == 0:
            self.others.append((name, "broken", "empty file"))
        elif size > MAX_FILE_BYTES:
            self.others.append((name, "huge", f"{size:,} bytes; at most {MAX_FILE_BYTES:,} are taken"))
        else:
            self.pictures.append(Entry(name, size, stamp))


def shown(name: str) -> str:
    """Returns a file name for a person, in one line: control characters and broken UTF-8 are escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def list_files(source: Path) -> Listing:
    """Lists everything below a folder, or in a zip. Nothing is opened but the zip's table of contents.

    Links are followed, each folder once. In a zip, names that lead out of it, links and what is encrypted are refused.

    Raises:
        UserError: it is neither a folder nor a zip, or it is not readable.
    """
    if source.is_dir():
        listing = Listing()
        _walk(source, "", listing, {_identity(os.stat(source))})
        return listing.sort()
    if not source.is_file():
        raise UserError(f"{source} does not exist. Give a folder of pictures, or a .zip.")
    try:
        with zipfile.ZipFile(source) as archive:
            return _list_zip(archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{source} is no folder, and cannot be read as a .zip: {error}.") from None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _walk(folder: Path, prefix: str, listing: Listing, seen: set[tuple[int, int]]) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        listing.others.append((prefix, "unreadable", error.strerror or str(error)))
        return
    for entry in entries:
        name = prefix + entry.name
        try:
            status = entry.stat()
        except OSError as error:  # links that lead nowhere or to themselves
            listing.others.append((name, "unreadable", error.strerror or str(error)))
            continue
        if stat.S_ISREG(status.st_mode):
            listing.add(name, status.st_size, status.st_mtime_ns)
        elif not stat.S_ISDIR(status.st_mode):
            listing.others.append((name, "other file", "neither a file nor a folder"))
        elif _identity(status) in seen:
            listing.others.append((name, "unreadable", "a link to a folder that is read already"))
        elif name.count("/") >= MAX_DEPTH:
            listing.others.append((name, "unreadable", f"more than {MAX_DEPTH} folders deep"))
        else:
            seen.add(_identity(status))
            _walk(folder / entry.name, name + "/", listing, seen)


def _list_zip(members: Sequence[zipfile.ZipInfo]) -> Listing:
    listing = Listing()
    seen: set[str] = set()
    for member in members:
        name = member.filename
        if member.is_dir():
            continue
        if name in seen:
            listing.others.append((name, "unreadable", "a second file of this name in the zip"))
        elif name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name.split("/")[0]:
            listing.others.append((name, "unreadable", "its name leads out of the zip"))
        elif stat.S_ISLNK(member.external_attr >> 16):
            listing.others.append((name, "unreadable", "a link; only files of the zip itself are read"))
        elif member.flag_bits & 1:
            listing.others.append((name, "unreadable", "encrypted"))
        else:
            listing.add(name, member.file_size, member.CRC)
        seen.add(name)
    return listing.sort()


def reader(source: Path) -> Callable[[str], IO[bytes]]:
    """Returns `read(name) -> open file` of the folder or zip `source`. A file that cannot be read raises `Refusal`."""
    if source.is_dir():
        return lambda name: _open(source / name)
    return lambda name: _open_member(_archive(source), name)


# Kept open: reading the table of contents of a large zip takes longer than reading a hundred pictures.
@functools.lru_cache(maxsize=1)
def _archive(source: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(source)


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise Refusal("unreadable", error.strerror or str(error)) from None


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Opens the member as a file in memory. No more of it is unpacked than its table of contents says."""
    try:
        with archive.open(name) as member:
            content = member.read(MAX_FILE_BYTES + 1)
    except Exception as error:  # zlib, checksums, unknown methods: each has an exception of its own
        raise Refusal("broken", f"cannot be unpacked: {' '.join(str(error).split())[:200]}") from None
    if len(content) > MAX_FILE_BYTES:
        raise Refusal("huge", f"unpacks to more than {MAX_FILE_BYTES:,} bytes")
    return io.BytesIO(content)


def classes_of(names: Sequence[str]) -> list[str]:
    """Returns the class of each name, its first folder; all empty where there is no division into two classes or more.

    Folders that all names share come off first, so that a zip of one folder is like that folder.
    """
    parts = [name.split("/") for name in names]
    while parts and all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    if any(len(part) < 2 for part in parts):
        return [""] * len(parts)
    return [shown(part[0]) for part in parts]
