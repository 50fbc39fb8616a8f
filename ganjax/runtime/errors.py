"""Errors for the ways a command ends that are not a bug of ours, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
