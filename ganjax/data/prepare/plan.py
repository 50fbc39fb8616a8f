"""Plans the work, divided into chunks, and finds which of them an earlier, killed call has done already."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ganjax.data.pictures.decode import FITS, FORMATS
from ganjax.data.pictures.listing import Listing, list_files, shown
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, user_error_if_unwritable

VERSION = 1  # of how pictures become pixels: another one makes what was begun by the old one void
CHUNK = 128  # pictures: seconds of work, of which a kill loses at most one a worker
MAX_RESOLUTION = 1024  # as for `data.resolution`


@dataclass(frozen=True)
class Options:
    """Options that decide about the dataset.

    Attributes:
        source: the folder or zip.
        out: the folder that will hold the dataset; it appears when it is complete.
        resolution: the side of the squares in pixels.
        fit: one of `crop` and `pad`, see `ganjax.data.pictures.decode.fit`.
        workers: the number of processes, which decides about the time only.
    """

    source: Path
    out: Path
    resolution: int
    fit: str = "crop"
    workers: int = 0

    def check(self) -> None:
        """Raises a `UserError` where an option is out of its range."""
        if not 4 <= self.resolution <= MAX_RESOLUTION:
            raise UserError(
                f"--resolution takes an integer from 4 to {MAX_RESOLUTION}, and got {self.resolution}."
            )
        if self.fit not in FITS:
            raise UserError(f"--fit takes {' or '.join(FITS)}, and got {self.fit!r}.")
        if self.workers < 0:
            raise UserError(f"--workers takes an integer of at least 0, and got {self.workers}.")
        source, out = self.source.resolve(), self.out.resolve()
        if source.is_dir() and (out == source or source in out.parents):
            raise UserError(
                f"--out={self.out} lies inside the folder {self.source}, whose pictures are read; choose one outside."
            )


@dataclass(frozen=True)
class Chunk:
    """Piece of work for one process: the pictures `names` of `source`, whose results go to `file`."""

    source: Path
    names: tuple[str, ...]
    resolution: int
    fit: str
    file: Path


@dataclass(frozen=True)
class Plan:
    """Plan of the whole work.

    Attributes:
        options: the options that were asked for.
        listing: the files of the source.
        digest: the digest of the files and options. Another digest means another dataset.
        folder: the folder beside `out` for unfinished work.
    """

    options: Options
    listing: Listing
    digest: str
    folder: Path

    @classmethod
    def of(cls, options: Options) -> Plan:
        """Lists the source and makes the plan.

        Raises:
            UserError: options are out of range, or there are no pictures.
        """
        options.check()
        listing = list_files(options.source)
        if not listing.pictures:
            raise UserError(
                f"No supported pictures in {options.source} ({len(listing.others)} files). Supported: "
                f"{', '.join(FORMATS)}; convert others first."
            )
        digest = hashlib.sha256(
            json.dumps([VERSION, str(options.source.resolve()), options.resolution, options.fit]).encode()
        )
        for entry in listing.pictures:
            digest.update(json.dumps(list(asdict(entry).values())).encode())
        return cls(
            options=options,
            listing=listing,
            digest=digest.hexdigest(),
            folder=options.out.with_name(f".{options.out.name}.preparing"),
        )

    def chunks(self) -> list[Chunk]:
        """Returns all chunks of the work, in order."""
        names = [entry.name for entry in self.listing.pictures]
        source, options = self.options.source.resolve(), self.options
        return [
            Chunk(
                source,
                tuple(names[start : start + CHUNK]),
                options.resolution,
                options.fit,
                self.folder / f"chunk-{start // CHUNK:06d}.npz",
            )
            for start in range(0, len(names), CHUNK)
        ]

    @contextmanager
    def begun(self) -> Iterator[bool]:
        """Holds the folder of unfinished work. Yields whether work of this very plan lies there.

        What was begun by another plan is removed.

        Raises:
            UserError: another process is at work there, or the folder cannot be written.
        """
        with user_error_if_unwritable("the dataset", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"--out={self.options.out} is being prepared by another process.") from None
            except OSError:  # a file system without locks: go without
                pass
            yield self._settle()
        finally:
            os.close(lock)

    def _settle(self) -> bool:
        """Makes the folder hold this plan's work or nothing."""
        file = self.folder / "plan.json"
        try:
            same = json.loads(file.read_text())["digest"] == self.digest
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            same = False
        with user_error_if_unwritable("the dataset", self.folder):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != ".lock" and (not same or path.suffix == ".tmp"):
                    path.unlink()
            if not same:
                source = shown(str(self.options.source))
                atomic_write_json(file, {"digest": self.digest, "source": source})
        return same and any(self.folder.glob("chunk-*.npz"))
