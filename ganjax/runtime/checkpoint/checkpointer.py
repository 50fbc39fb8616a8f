"""The `Checkpointer`, and the layout of a saved step on disk.

    checkpoints/300/                        a checkpoint; it appears by one rename, complete
    checkpoints/300/ganjax_manifest.json    what was meant to be saved, a checksum for each file
    checkpoints/300.partial…                a checkpoint that is being written
    checkpoints/300.old, 300.removed        a checkpoint that is being replaced or deleted

Orbax alone loads a flipped bit as a wrong value and lists an empty folder as the latest step. A checkpoint
counts here only if its manifest, its files and the arrays read back all agree with the checksums.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from ganjax.runtime.checkpoint import manifest, storage
from ganjax.runtime.checkpoint.manifest import Arrays, Damaged
from ganjax.runtime.errors import MachineError, UserError, remedy
from ganjax.runtime.files import check_utf8, fsync_folder, open_regular


class CheckpointWarning(UserWarning):
    """Warning that a damaged or half-written checkpoint was passed over."""


class Checkpointer:
    """Saves states in the background and restores the newest intact one. Use it in a `with` block.

    Not thread-safe. Opening and restoring change nothing on disk: others may read while a run writes.

    Args:
        directory: the folder of the steps, made at the first save in a folder that is there.
        keep: the number of the newest intact steps to keep; 0 keeps all. Damaged ones stay and do not count.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        if keep < 0:
            raise ValueError(f"keep must be 0 or more, got {keep}")
        storage.quieten_orbax()
        self._directory = Path(directory).absolute()
        check_utf8(self._directory, "The folder of checkpoints")
        self._keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._swept = False
        # step → sizes and times of its files when last found intact, to hash each checkpoint only once
        self._verified: dict[int, object] = {}

    def save(
        self, step: int, state: Any, *, metadata: Mapping[str, Any] | None = None, block: bool = False
    ) -> bool:
        """Copies the state to the host and writes it in the background. Donating `state` afterwards is safe.

        Waits for the save before this one, so at most one copy of the state is held and no step is skipped. A
        step that is already there is replaced, damaged or not, unless it holds the same values and metadata.

        Args:
            step: 0 or more.
            state: a pytree of replicated arrays (no PRNG keys), NumPy arrays and Python numbers.
            metadata: JSON to get back from `restore`.
            block: return only when the checkpoint is on disk.

        Returns:
            False if this step is already on disk with the same values, True otherwise.

        Raises:
            UserError: this save (with `block`) or the one before failed; what it had written is removed.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        self.wait()
        if jax.process_index() != 0:  # the state is replicated, so process 0 holds and writes all of it
            return True
        arrays = storage.host_copy(state)
        kept_metadata = json.loads(json.dumps(metadata or {}))
        if self._path(step).exists() and self._holds(step, arrays, kept_metadata):
            return False
        self._pending = self._thread.submit(self._write, step, arrays, kept_metadata)
        if block:
            self.wait()
        return True

    def steps(self) -> list[int]:
        """Returns the committed steps, ascending. Their content is not verified here."""
        return [step for step in self._numbered() if (self._path(step) / manifest.NAME).is_file()]

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the metadata of a step; empty where its manifest is damaged or missing."""
        try:
            found: Any = manifest.read(self._path(step), step)["metadata"]
        except Damaged:
            return {}
        return found if isinstance(found, dict) else {}

    def remove(self, step: int) -> None:
        """Deletes a step, whole or not at all. A step that is not there is no error."""
        self.wait()
        path, removed = self._path(step), self._directory / f"{step}.removed"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, removed)
        _remove(removed)

    def latest_step(self) -> int | None:
        """Returns the last of `steps()`."""
        return max(self.steps(), default=None)

    def restore(self, template: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest intact checkpoint, or exactly `step`.

        Args:
            template: a pytree of arrays or `jax.ShapeDtypeStruct`, of the structure to fill.
            step: the step to read; None passes over damaged ones, with a `CheckpointWarning` for each.

        Returns:
            (step, state, metadata), the state in NumPy arrays that the caller places on its devices (a Python
            number in the template comes back as one); None if there are no checkpoints.

        Raises:
            UserError: `step` is missing or damaged, none is intact, or the template has other arrays.
        """
        self.wait()
        # Several processes: let process 0 choose the step and broadcast it, then give it here as `step`.
        if step is not None:
            return self._restore_exactly(template, step)
        candidates = self._numbered()[::-1]
        skipped: list[tuple[int, str]] = []
        for candidate in candidates:
            try:
                state, metadata = self._read(candidate, template)
            except Damaged as why:
                if self._path(candidate).exists():  # otherwise a live run has just deleted it
                    skipped.append((candidate, str(why)))
                continue
            for damaged, why_damaged in skipped:
                passed_over = f"checkpoint {self._path(damaged)} is passed over: {why_damaged}"
                warnings.warn(
                    f"{passed_over}. Using step {candidate} instead.", CheckpointWarning, stacklevel=2
                )
            return candidate, state, metadata
        if skipped:
            raise UserError(_none_intact(self._directory, skipped))
        return self.restore(template) if candidates else None

    def wait(self) -> None:
        """Waits for the save in progress. Raises its UserError, once, if it failed."""
        if self._pending is not None:
            concurrent.futures.wait([self._pending])
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits as `wait()` does, then ends the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError as failed_save:
            if error is None:
                raise
            error.add_note(str(failed_save))  # the first error is the one to show

    def _path(self, step: int) -> Path:
        """Returns the folder of a step.

        `STEP.old` stands in for it during two renames, or after a crash between them.
        """
        path, old = self._directory / str(step), self._directory / f"{step}.old"
        return old if old.exists() and not path.exists() else path

    def _numbered(self) -> list[int]:
        """Returns the steps that have a folder, intact or not, ascending."""
        try:
            names = os.listdir(self._directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [re.fullmatch(r"(0|[1-9]\d*)(\.old)?", name) for name in names]
        return sorted({int(match[1]) for match in matches if match})

    def _read(self, step: int, template: Any) -> tuple[Any, dict[str, Any]]:
        """Returns (state, metadata).

        Raises Damaged if the step is not intact, UserError if the template does not fit.
        """
        path = self._path(step)
        with _locked(path, fcntl.LOCK_SH):
            record = manifest.read(path, step)
            manifest.check_architecture(path, record["leaves"], storage.signatures(template))
            manifest.check_files(path, record["files"])
            arrays = storage.read(path, record["leaves"])
        manifest.check_values(record["leaves"], arrays)
        return storage.fill(template, arrays), record["metadata"]

    def _restore_exactly(self, template: Any, step: int) -> tuple[int, Any, dict[str, Any]]:
        if step not in self._numbered():
            choices = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"no checkpoint of step {step} in {self._directory}; there are: {choices}.")
        try:
            return step, *self._read(step, template)
        except Damaged as why:
            raise UserError(
                f"checkpoint {self._path(step)} is damaged: {why}. "
                "Give another step, or none for the newest intact one."
            ) from why

    def _holds(self, step: int, arrays: Arrays, metadata: dict[str, Any]) -> bool:
        """Returns True if the step on disk is intact and holds these values."""
        try:
            record = manifest.read(self._path(step), step)
        except Damaged:
            return False
        same = record["metadata"] == metadata and record["leaves"] == manifest.describe(arrays)
        return same and self._is_intact(step)

    def _is_intact(self, step: int) -> bool:
        """Returns True if manifest and files agree. Files unchanged since they were last hashed are not read again."""
        path = self._path(step)
        try:
            record = manifest.read(path, step)
            seen = [_stamp(path / name) for name in record["files"]]
            if self._verified.get(step) != seen:
                manifest.check_files(path, record["files"])
                self._verified[step] = seen
        except (Damaged, OSError):
            return False
        return True

    def _write(self, step: int, arrays: Arrays, metadata: dict[str, Any]) -> None:
        """Writes a step in the background: stages it, hashes it, commits it by a rename, and prunes old steps."""
        stage = self._directory / f"{step}.partial"
        try:
            self._directory.mkdir(exist_ok=True)  # without its parents: a workdir that is gone stays so
            if not self._swept:
                _sweep(self._directory)
                self._swept = True
            try:
                _write_stage(stage, step, arrays, metadata)
            except TimeoutError:
                # Orbax reads the wall clock: one that is set forward looks like a long wait, and its threads go on.
                stage = stage.with_name(f"{stage.name}_again")
                _write_stage(stage, step, arrays, metadata)
            self._commit(stage, step)
            self._remove_stages(step)
            self._prune(step)
        except Exception as error:
            self._remove_stages(step)
            size = sum(array.nbytes for array in arrays.values())
            raise MachineError(
                _failed_save(self._directory, step, size, self.latest_step(), error)
            ) from error

    def _remove_stages(self, step: int) -> None:
        for left in self._directory.glob(f"{step}.partial*"):
            _remove(left)

    def _commit(self, stage: Path, step: int) -> None:
        path, old = self._directory / str(step), self._directory / f"{step}.old"
        if path.exists():
            _remove(old)
            os.rename(path, old)
        os.rename(stage, path)
        fsync_folder(self._directory)
        _remove(old)

    def _prune(self, just_saved: int) -> None:
        intact = [step for step in self._numbered() if self._is_intact(step)]
        for step in intact[: -self._keep] if self._keep else []:
            if step != just_saved:  # a run that went back to an earlier step keeps what it writes
                removed = self._directory / f"{step}.removed"
                with _locked(self._path(step), fcntl.LOCK_EX | fcntl.LOCK_NB) as unread:
                    if unread:
                        os.rename(self._path(step), removed)
                _remove(removed)


@contextlib.contextmanager
def _locked(folder: Path, operation: int) -> Iterator[bool]:
    """Shares a lock on a step's manifest among readers: a live run deletes the step only later.

    Yields False if the lock is taken.
    """
    with contextlib.ExitStack() as stack:
        try:
            fcntl.flock(stack.enter_context(open_regular(folder / manifest.NAME)), operation)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # no manifest, which the reader will find, or a file system without locks
        yield True


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _write_stage(stage: Path, step: int, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Writes everything a checkpoint holds, flushed to disk, under a name that does not count yet."""
    leaves = manifest.describe(arrays)  # first: it witnesses what was meant, not what was written
    storage.write(stage, arrays)
    manifest.write(stage, step, leaves, metadata)


def _none_intact(directory: Path, skipped: Sequence[tuple[int, str]]) -> str:
    reasons = [f"  step {step}: {why}" for step, why in skipped]
    return "\n".join(
        [f"no intact checkpoint in {directory}; all are damaged:", *reasons]
        + ["Restore that folder from a copy, or give another --workdir to start anew."]
    )


def _failed_save(directory: Path, step: int, size: int, last: int | None, error: Exception) -> str:
    free = shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free
    rest = "there is no earlier one" if last is None else f"the last one on disk is step {last}"
    what = str(error).partition(" [tensorstore_spec=")[0]  # a page of JSON
    return (
        f"checkpoint of step {step} could not be saved in {directory}: it has {size / 1e6:.1f} MB, "
        f"{free / 1e6:.1f} MB are free, and writing failed with {type(error).__name__}: {what}. "
        f"{remedy(error)}, then give the same command again; {rest}."
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Removes what a killed run left. Only a writer may do so: a live run's own names look the same."""
    for path in list(directory.iterdir()):
        if match := re.match(r"(\d+)\.(partial|old|removed)", path.name):
            if match[2] == "old" and not (directory / match[1]).exists():
                os.rename(path, directory / match[1])
            else:
                _remove(path)
