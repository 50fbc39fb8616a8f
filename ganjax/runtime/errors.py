"""Errors for the ways a command ends that are not a bug of ours, each with its exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import traceback
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Error in the input: config, files, data or workdir. The message is all that the user sees.

    It says what was expected, what came and what to do. The command line prints it and exits with 2.
    """

    exit_code = 2


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
