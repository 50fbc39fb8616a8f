"""Errors for the ways a command ends that are not a bug of ours, each with its exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import shlex
import traceback
from collections.abc import Iterable, Iterator

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_MANY_FILES = {errno.EMFILE, errno.ENFILE}
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_MACHINE = {*_FULL, *_FORBIDDEN, *_MANY_FILES, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ENODEV}
_MACHINE |= {errno.EISDIR, errno.ENOTDIR}  # something else has taken the place of a file that we write
# What a terminal takes for a command, what turns the direction of text, and what UTF-8 cannot say.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """Error in the input: config, files, data or workdir. The message is all that the user sees.

    It says what was expected, what came and what to do. The command line prints it and exits with 2.
    """

    exit_code = 2


class MachineError(UserError):
    """Error of the machine and not of what was asked: a disk that is full, fails or forbids; no file handles left.

    It says nothing about a run. The same command goes on once the machine is mended.
    """


class DivergedError(Exception):
    """Error of a run that met a non-finite loss or gradient. Its state is saved. Exit code 3."""

    exit_code = 3


class PeerError(Exception):
    """Error of a run whose other process is gone, or did not come. Exit code 4. What was saved is kept."""

    exit_code = 4


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the choice that looks most like `name`, or an empty string."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def remedy(error: BaseException) -> str:
    """Returns what to do about a file that could not be written, without a full stop."""
    number, text = getattr(error, "errno", None), str(error)  # libraries in C++ tell in words alone
    if number in _FULL or any(os.strerror(full) in text for full in _FULL):
        return "Free some space there or write to another disk"
    if number in _MANY_FILES or any(os.strerror(many) in text for many in _MANY_FILES):
        return "Close other programs or raise the limit of open files (ulimit -n)"
    if number in _FORBIDDEN or any(os.strerror(forbidden) in text for forbidden in _FORBIDDEN):
        return "Make that place writable or write somewhere else"
    return "Check that path or write somewhere else"


def machine_failure(error: BaseException) -> UserError | None:
    """Returns the message for an error that is the machine's: of the disk, a `MachineError`, or of memory.

    Returns None for any other error.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f" at {error.filename}" if error.filename else ""
        return MachineError(
            f"The machine failed{where}: {error.strerror}. {remedy(error)}, then give the same command again."
        )
    # XLA's error for a device or a host without memory left has no class of its own.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _EXHAUSTED in str(error)):
        first = (str(error).splitlines() or [""])[0][:300]
        return UserError(
            f"There is not enough memory{f' ({first})' if first else ''}. End other programs, or take a smaller "
            "batch, resolution or network, or --config.train.accumulate."
        )
    return None


def printable(text: str) -> str:
    """Returns the text with the characters shown, as `\\x1b`, that would command a terminal or turn its text."""
    return _UNPRINTABLE.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    how = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", how))


def quoted(argument: object) -> str:
    """Returns an argument as a shell takes it, in a command to paste; `$'…'` of bash where it cannot be printed."""
    text = str(argument)
    if not _UNPRINTABLE.search(text) and "\n" not in text and "\t" not in text:
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    return f"$'{printable(plain)}'"


@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
    """Turns what JAX and the system refuse into a `UserError`: a platform that is not here, a name that is too long."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not (last.name == "backends" and last.filename.endswith("xla_bridge.py")):
            raise
        # Of a platform that it knows, but cannot use here, JAX says nothing.
        reason = str(error).partition(" (")[0] or "JAX finds nothing of that name"
        raise UserError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason}. Set it to a platform that this machine "
            "has, such as cpu, or leave it out."
        ) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = str(error.filename)
        raise UserError(
            f"The file name {name[:60]!r}… of {len(name):,} letters is too long for this system."
        ) from error
