"""Writes samples as single PNGs into a folder, in parallel; a command that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ganjax.run.open import OpenRun
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_json, replace_file, user_error_if_unwritable
from ganjax.runtime.logs.images import png_bytes

FILE = "samples.json"  # what the pictures of a folder are made by
BLOCK = 4096  # bytes of the disk that the smallest file takes


def is_folder(out: Path) -> bool:
    """Returns True if `out` is a folder, or would be: a name without an ending."""
    return out.is_dir() or not out.suffix


def check_arguments(out: Path, *, n: int, devices: int, truncation: float, nearest: bool) -> None:
    """Raises a `UserError` for an argument of `sample` out of range, or an `out` that cannot take samples."""
    if nearest and out.suffix != ".png":
        raise UserError(f"--nearest makes a picture: --out takes a .png with it, and got {out.name!r}.")
    if not is_folder(out) and out.suffix not in (".png", ".npz"):
        raise UserError(
            f"--out takes a file ending in .png or .npz, or a folder, without an ending, and got {out.name!r}."
        )
    if n < 1:
        raise UserError(f"--n takes an integer of at least 1, and got {n}.")
    if devices < 0:
        raise UserError(f"--devices takes an integer of at least 0, and got {devices}.")
    if not 0 <= truncation <= 1:
        raise UserError(f"--truncation takes a number from 0 to 1, and got {truncation}.")
    if is_folder(out):
        check_folder(out)


def write_folder(out: Path, run: OpenRun, n: int, made_by: dict[str, Any]) -> int:
    """Writes samples 0 … n - 1 of the run to the folder `out`: `seed0007_000012_cat.png`, the class where there is one.

    Those that are there stay. All processes make samples, and the main one writes them.

    Args:
      out: the folder; it is made where it is missing.
      run, n: a run of images, and how many.
      made_by: what else decides about the samples, in JSON: the folder takes no others later.

    Returns:
      The number of pictures that were there before.

    Raises:
      UserError: the folder holds other files, or the disk has too little room for all of them.
    """
    if run.dataset.images.ndim == 2:
        raise UserError(
            f"--out={out}: a folder takes images, and this run makes points; .npz and .png take them."
        )
    made_by = {
        "weights_sha256": _hash(run.variables),
        "classes": run.sampler.classes.tolist(),
        **made_by,
    }
    there = _there(out, made_by) if processes.is_main() else set()
    names = _names(run, n)
    starts = range(0, n, run.sampler.size)
    missing = [start for start in starts if not there.issuperset(names[start : start + run.sampler.size])]
    missing = processes.from_main(missing)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        writing: list[Future[None]] = []
        for start in missing:
            images = run.sampler.part(run.variables, start)[-1]
            if not processes.is_main():
                continue
            wanted = [
                (out / name, image)
                for name, image in zip(names[start : start + run.sampler.size], images, strict=False)
                if name not in there
            ]
            if start == missing[0]:
                _begin(out, made_by, [image for _, image in wanted], n - len(there.intersection(names)))
            with user_error_if_unwritable("the samples", out):
                for written in writing:  # one part is encoded while the next is made
                    written.result()
            writing = [pool.submit(_write, path, image) for path, image in wanted]
        with user_error_if_unwritable("the samples", out):
            for written in writing:
                written.result()
    return len(there.intersection(names))


def _hash(variables: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(variables)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _names(run: OpenRun, n: int) -> list[str]:
    """Returns the names of samples 0 … n - 1."""
    seeds, index = run.sampler.places(np.arange(n))
    labels, called = run.sampler.labels(n), run.dataset.label_names
    names = [f"seed{seed:04d}_{i:06d}" for seed, i in zip(seeds.tolist(), index.tolist(), strict=True)]
    if labels is not None:
        plain = [
            re.sub(r"[^\w.-]+", "-", called[i] if called else str(i))[:50] for i in range(run.build.classes)
        ]
        names = [f"{name}_{plain[label]}" for name, label in zip(names, labels.tolist(), strict=True)]
    return [f"{name}.png" for name in names]


def check_folder(out: Path) -> dict[str, Any] | None:
    """Returns what the pictures of the folder are made by, or None where it is empty or missing.

    Raises:
      UserError: it holds other files, or is a file.
    """
    try:
        if not out.exists() or all(path.name.startswith(".") for path in out.iterdir()):
            return None
        return dict(read_json(out / FILE))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--out={out} holds other files than samples of ganjax, or cannot be read ({FILE}: {error}). Give a folder "
            "that is empty, or that the same command has begun."
        ) from None


def _there(out: Path, made_by: dict[str, Any]) -> set[str]:
    """Returns the names of the files that are in the folder already; removes those that a kill left unfinished."""
    found = check_folder(out)
    if found is None:
        return set()
    changes = [
        f"{key}: was {found.get(key)}, now {value}"
        for key, value in made_by.items()
        if found.get(key) != value
    ]
    if changes:
        raise UserError(f"--out={out} holds other samples ({'; '.join(changes)}). Give another folder.")
    there = set()
    with user_error_if_unwritable("the samples", out):
        for entry in os.scandir(out):
            if re.fullmatch(r"\.seed.*\.tmp", entry.name):
                os.unlink(entry)
            elif entry.stat().st_size:
                there.add(entry.name)
    return there


def _begin(out: Path, made_by: dict[str, Any], some: Sequence[np.ndarray], count: int) -> None:
    """Makes the folder, unless `count` pictures like `some` are more than its disk has room for."""
    size = np.mean([math.ceil(len(png_bytes(image)) / BLOCK) * BLOCK for image in some])
    parent = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if size * count > free:
        raise UserError(
            f"{count} pictures of about {size / 1e3:.0f} kB take {size * count / 1e9:.1f} GB, and {parent} has "
            f"{free / 1e9:.1f} GB left. Free some space there, or give another --out or a smaller --n."
        )
    with user_error_if_unwritable("the samples", out):
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_json(out / FILE, made_by)


def _write(path: Path, image: np.ndarray) -> None:
    replace_file(path, png_bytes(image), sync=False)
