"""Reads .npz files that may be damaged, or not be .npz files at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np


def read_npz(source: Path | IO[bytes]) -> dict[str, np.ndarray]:
    """All arrays of the file by name. Nothing in it is run: arrays of Python objects are refused.

    Raises:
      OSError: the file cannot be opened.
      ValueError: it is no intact .npz. What NumPy, zipfile, zlib and the parser of an array's header raise for damaged
        bytes is no closed list (BadZipFile, zlib.error, NotImplementedError, TokenError, MemoryError …), so all of it
        counts.
    """
    try:
        with np.load(source, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"no intact .npz: {type(error).__name__}: {error}") from error
