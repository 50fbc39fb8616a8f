"""The folder a run owns: its lock, its config, its environment, and files that are never half written.

Nothing here imports JAX, so that a refusal comes at once. With several processes only process 0 opens it.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ganjax.runtime import allocator as machine
from ganjax.runtime.errors import MachineError, UserError
from ganjax.runtime.files import atomic_write_json, check_utf8, read_json, read_object
from ganjax.runtime.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_MAX_DIFFERENCES = 20
_ABSENT = object()

Allowed = Collection[str] | Callable[[str], bool]

# A forked child (a data worker) shares the lock of its parent and would hold it after the parent's death.
_held_locks: set[int] = set()


def _drop_locks_in_child() -> None:
    for descriptor in _held_locks:
        os.close(descriptor)
    _held_locks.clear()


os.register_at_fork(after_in_child=_drop_locks_in_child)


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens `{"train": {"steps": 5}}` to `{"train.steps": 5}`. Empty groups stay as `{}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten_config(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Workdir:
    """Folder of a run, locked against a second live run until `release()` or the end of a `with` block.

    Attributes:
        path: the run's folder.
        changed: the allowed options that differ from the last run here, `{dotted key: (was, now)}`.
    """

    def __init__(self, path: Path, lock: int) -> None:
        """Takes the descriptor `lock` that holds the lock. Use `Workdir.open` instead."""
        self.path = path
        self.changed: dict[str, tuple[str, str]] = {}
        self._lock: int | None = lock
        self._before: dict[str, Any] | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        config: Mapping[str, Any],
        allowed: Allowed,
        before: Mapping[str, Any] | None = None,
    ) -> Workdir:
        """Creates and locks the folder and writes `config.json` into it, or continues the run it holds.

        Args:
            path: the folder; it and its parents are made where they are missing.
            config: the resolved config, nested dicts of JSON values.
            allowed: the dotted keys that may differ from the config stored in the folder, or a test for them.
            before: dotted key → what a stored config that lacks the key stands for.

        Raises:
            UserError: the folder cannot be used, another live run holds it, or its config differs.
        """
        path = Path(path).absolute()
        check_utf8(path, "--workdir")
        workdir = cls(path, _take_lock(path))
        try:
            workdir._settle_config(json.loads(json.dumps(config)), allowed, before or {})
        except BaseException:
            workdir.release()
            raise
        return workdir

    def _settle_config(self, config: dict[str, Any], allowed: Allowed, before: Mapping[str, Any]) -> None:
        file = self.path / "config.json"
        self._before = stored = _read_config(file)
        if stored is not None:
            may_differ = allowed if callable(allowed) else allowed.__contains__
            differences = _differences({**before, **flatten_config(stored)}, flatten_config(config))
            refused = {key: pair for key, pair in differences.items() if not may_differ(key)}
            if refused:
                raise UserError(_refusal(self.path, refused))
            self.changed = differences
            if not differences:
                return
        try:
            atomic_write_json(file, config)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def undo(self) -> bool:
        """Puts back the config that the folder had before it was opened. Returns True if there was none."""
        file = self.path / "config.json"
        if self._before is None:
            file.unlink()
        else:
            atomic_write_json(file, self._before)
        return self._before is None

    def write_environment(self, devices: Iterable[str], **others: str) -> None:
        """Writes `environment.json`: versions, platform, `devices` (a line each), command line, time, and `others`."""
        atomic_write_json(
            self.path / "environment.json",
            {
                "time": _utc_now(),
                "command": sys.argv,
                "versions": _versions(),
                "platform": platform.platform(),
                "allocator": machine.allocator(),
                "host": socket.gethostname(),
                "devices": list(devices),
                **others,
            },
        )

    def release(self) -> None:
        """Gives the folder back. The lock file stays, empty: were it removed, two runs could lock two files."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            _held_locks.discard(self._lock)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Workdir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _take_lock(path: Path) -> int:
    """Makes the folder and locks `path/.lock`; the kernel drops the lock when its process dies."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _utc_now()}
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(holder).encode(), 0)
    except BlockingIOError as error:
        os.close(lock)
        raise MachineError(
            f"--workdir={path} is in use by {_holder(path / '.lock')}. "
            "Wait for that run, stop it, or give another --workdir."
        ) from error
    except OSError as error:
        os.close(lock)
        raise _unusable(path, error) from error
    _held_locks.add(lock)
    return lock


def lock_record(path: Path) -> bytes | None:
    """Returns what its live run has written into the lock of the folder `path`; None where there is no record.

    The record tells the folder from another one put in its place, also where inode numbers change, as over FUSE.
    """
    try:
        return (path / ".lock").read_bytes()
    except OSError:
        return None


def _holder(lock: Path) -> str:
    record = read_object(lock)
    if not record.keys() >= {"pid", "host", "since"}:
        return "another process, which has not written its name yet"
    return f"process {record['pid']} on host {record['host']} since {record['since']}"


def _unusable(path: Path, error: OSError) -> MachineError:
    reasons = {
        errno.EEXIST: "a file of that name is in the way",
        errno.ENOTDIR: "a parent of it is a file",
        errno.ENOLCK: "its file system offers no locks",
        errno.EOPNOTSUPP: "its file system offers no locks",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return MachineError(
        f"--workdir={path} cannot be used: {reason}. Make it a folder that can be written, or give another --workdir."
    )


def _read_config(file: Path) -> dict[str, Any] | None:
    """Reads the config of the run in the folder. Returns None where there is no run."""
    try:
        stored = read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged: {error}. It should hold the config of an earlier run, as JSON. Restore it, or give "
            "another --workdir."
        ) from error
    if not isinstance(stored, dict):
        raise UserError(
            f"{file} is damaged: it should hold one JSON object, and holds a {type(stored).__name__}. Restore it, or "
            "give another --workdir."
        )
    return stored


def _differences(stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    differences: dict[str, tuple[str, str]] = {}
    for key in sorted(stored.keys() | config.keys()):
        was, now = stored.get(key, _ABSENT), config.get(key, _ABSENT)
        if was != now and _show(was) != _show(now):  # the second: NaN differs from itself
            differences[key] = (_show(was), _show(now))
    return differences


def _show(value: Any) -> str:
    return "not set" if value is _ABSENT else json.dumps(value)


def _refusal(path: Path, refused: Mapping[str, tuple[str, str]]) -> str:
    lines = [f"  {key}: was {was}, now {now}" for key, (was, now) in list(refused.items())[:_MAX_DIFFERENCES]]
    if len(refused) > _MAX_DIFFERENCES:
        lines.append(f"  and {len(refused) - _MAX_DIFFERENCES} more")
    return "\n".join(
        [
            f"--workdir={path} holds a run with another config. These options differ:",
            *lines,
            "Restore these options to continue that run, or give another --workdir to start a new one.",
        ]
    )


def _versions() -> dict[str, str | None]:
    """Returns the versions of packages without importing them; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "ganjax": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
