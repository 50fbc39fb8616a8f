"""The manifest, the witness of a checkpoint: what was meant to be saved, and a checksum for every file written.

A JSON file inside the checkpoint's folder, written last:

    {"format": 1, "step": 300, "metadata": {…}, "sha256": of the rest of this object,
     "leaves": {"gen/params/conv/kernel": {"shape": [3, 3, 8, 8], "dtype": "float32", "sha256": …}, …},
     "files": {"state/d/3f0c…": {"bytes": 1234, "sha256": …}, …}}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, fsync_folder, open_regular, read_regular

NAME = "ganjax_manifest.json"
FORMAT = 1
_MAX_DIFFERENCES = 5

Arrays = dict[tuple[str, ...], np.ndarray]


class Damaged(Exception):
    """Error that says why a checkpoint is not intact."""


def describe(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """Returns path → shape, dtype and sha256 of the values."""
    return {
        "/".join(path): {
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "sha256": _array_digest(array),
        }
        for path, array in arrays.items()
    }


def write(folder: Path, step: int, leaves: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Hashes every file in `folder`, flushes all of them to disk and adds the manifest."""
    files = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": _file_digest(file, flush=True),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    for inner in filter(Path.is_dir, folder.rglob("*")):
        fsync_folder(inner)
    manifest = {"format": FORMAT, "step": step, "leaves": leaves, "files": files, "metadata": metadata}
    atomic_write_json(folder / NAME, manifest | {"sha256": _own_digest(manifest)})


def read(folder: Path, step: int) -> dict[str, Any]:
    """Reads the manifest of `folder`.

    Raises Damaged if it is missing, belongs to another step or is not what was written.
    """
    try:
        manifest: Any = json.loads(read_regular(folder / NAME).decode("utf-8"))
    except FileNotFoundError:
        raise Damaged(f"it has no {NAME}, so it was not written by ganjax to its end") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"its {NAME} cannot be read ({error})") from error
    guard = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if guard != _own_digest(manifest):
        raise Damaged(f"its {NAME} contradicts its own checksum")
    if manifest.get("format") != FORMAT:
        raise Damaged(f"it has format {manifest.get('format')}, this ganjax reads format {FORMAT}")
    if manifest.get("step") != step:
        raise Damaged(f"its {NAME} is of step {manifest.get('step')}")
    if not _is_whole(manifest):
        raise Damaged(f"its {NAME} lacks what ganjax writes, or has it in another form")
    return dict(manifest)


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Returns True if all is there that readers take for granted. Who can make the checksum can leave out the rest."""
    of_leaf: dict[str, type] = {"shape": list, "dtype": str, "sha256": str}
    of_file: dict[str, type] = {"bytes": int, "sha256": str}
    for part, kinds in (("metadata", {}), ("leaves", of_leaf), ("files", of_file)):
        facts: Any = manifest.get(part)
        if not isinstance(facts, dict):
            return False
        for key, kind in kinds.items():
            if not all(isinstance(one, dict) and isinstance(one.get(key), kind) for one in facts.values()):
                return False
    return all(_is_inside(name) for name in manifest["files"])


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def signature(dtype: str, shape: Sequence[int]) -> str:
    """Returns shape and dtype as text, such as `float32[3, 3, 8, 8]`."""
    return f"{dtype}{list(shape)}"


class OtherArchitecture(UserError):
    """Error about a checkpoint whose arrays are not the expected ones."""


def check_architecture(
    folder: Path, leaves: Mapping[str, Mapping[str, Any]], expected: Mapping[str, str]
) -> None:
    """Raises OtherArchitecture with the first differences between expected arrays (path → signature) and saved ones."""
    found = {path: signature(leaf["dtype"], leaf["shape"]) for path, leaf in leaves.items()}
    paths = sorted(expected.keys() | found.keys())
    differing = [path for path in paths if expected.get(path) != found.get(path)]
    if not differing:
        return
    lines = [
        f"  {path}: expected {expected.get(path, 'nothing')}, found {found.get(path, 'nothing')}"
        for path in differing[:_MAX_DIFFERENCES]
    ]
    if len(differing) > _MAX_DIFFERENCES:
        lines.append(f"  and {len(differing) - _MAX_DIFFERENCES} more")
    advice = (
        "Restore the options, or the version of ganjax, that it was made with, or give another --workdir."
    )
    raise OtherArchitecture("\n".join([f"{folder} is a checkpoint of another architecture:", *lines, advice]))


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises Damaged for the first file that is missing or holds other bytes than were written, or is no file.

    Files that were not written count only if they are pipes, devices or the like, at which a reader would hang.
    """
    for found in folder.rglob("*"):
        if not (found.is_file() or found.is_dir()):
            raise Damaged(f"{found.relative_to(folder)} is neither a file nor a folder")
    for name, expected in files.items():
        try:
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                raise Damaged(f"{name} has {size} bytes, {expected['bytes']} were written")
            if _file_digest(folder / name) != expected["sha256"]:
                raise Damaged(f"{name} is damaged (its checksum differs)")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error


def check_values(leaves: Mapping[str, Mapping[str, Any]], arrays: Arrays) -> None:
    """Raises Damaged if the arrays read back are not those that were meant to be saved."""
    found = describe(arrays)
    wrong = sorted(path for path in leaves.keys() | found.keys() if leaves.get(path) != found.get(path))
    if wrong:
        raise Damaged(f"{len(wrong)} arrays read back wrong, among them {wrong[0]}")


def _array_digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _own_digest(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_digest(file: Path, *, flush: bool = False) -> str:
    with open_regular(file) as opened:
        if flush:
            os.fsync(opened.fileno())
        return hashlib.file_digest(opened, "sha256").hexdigest()
