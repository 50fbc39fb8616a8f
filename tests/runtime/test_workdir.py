"""A workdir belongs to one live run with one config, and none of its files is ever half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ganjax.runtime.errors import UserError, remedy
from ganjax.runtime.files import atomic_write_json, atomic_write_text
from ganjax.runtime.workdir import Workdir, flatten_config

CONFIG: dict[str, Any] = {
    "seed": 1,
    "train": {"steps": 100, "rate": 2e-4},
    "gen": {"sizes": (1, 2)},
    "data": {"path": None},
}

# Holds the workdir until it is killed; with "fork" a child of it lives on.
HOLD = """
import os, sys, time
from pathlib import Path
from ganjax.runtime.workdir import Workdir
workdir = Workdir.open(Path(sys.argv[1]), config={}, allowed=())
forked = "fork" in sys.argv
if not forked:
    print(os.getpid(), 0, flush=True)
elif os.fork() == 0:
    print(os.getppid(), os.getpid(), flush=True)
time.sleep(60)
"""


@contextmanager
def holder(path: Path, *args: str) -> Iterator[tuple[int, int]]:
    """(pid, pid of its fork or 0) of a process that holds the workdir."""
    command = [sys.executable, "-c", HOLD, path, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, forked = map(int, process.stdout.readline().split())
        try:
            yield pid, forked
        finally:
            for running in filter(None, (process.pid, forked)):
                with suppress(ProcessLookupError):
                    os.kill(running, signal.SIGKILL)


def open_workdir(path: Path, changes: dict[str, Any] | None = None, allowed: Any = ()) -> Workdir:
    return Workdir.open(path, config=CONFIG | (changes or {}), allowed=allowed)


def test_a_new_workdir_and_going_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first"
    for _ in range(2):  # the tuple comes back from JSON as a list and is no difference
        with open_workdir(path) as workdir:
            assert workdir.path == path and workdir.changed == {}
            assert json.loads((path / "config.json").read_text())["train"] == {"steps": 100, "rate": 2e-4}
    assert sorted(file.name for file in path.iterdir()) == [".lock", "config.json"]


def test_another_config_is_refused_with_the_differences(tmp_path: Path) -> None:
    open_workdir(tmp_path).release()
    before = (tmp_path / "config.json").read_text()
    changes = {"train": {"steps": 300, "rate": 1e-4, "new": True}, "data": {}}
    with pytest.raises(UserError) as error:
        open_workdir(tmp_path, changes, allowed={"train.steps"})
    assert str(error.value).splitlines()[1:-1] == [
        "  data: was not set, now {}",
        "  data.path: was null, now not set",
        "  train.new: was not set, now true",
        "  train.rate: was 0.0002, now 0.0001",
    ]
    assert "another --workdir" in str(error.value)
    assert (tmp_path / "config.json").read_text() == before
    open_workdir(tmp_path).release()  # the refusal gave the lock back


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    open_workdir(tmp_path).release()
    with pytest.raises(UserError, match="and 5 more") as error:
        open_workdir(tmp_path, {"many": {f"k{i:02}": i for i in range(25)}})
    assert str(error.value).count("was not set") == 20


@pytest.mark.parametrize("allowed", [{"train.steps"}, lambda key: key.endswith("steps")])
def test_allowed_options_may_change(tmp_path: Path, allowed: Any) -> None:
    open_workdir(tmp_path).release()
    changes = {"train": {"steps": 300, "rate": 2e-4}}
    with open_workdir(tmp_path, changes, allowed) as workdir:
        assert workdir.changed == {"train.steps": ("100", "300")}
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 300
    with pytest.raises(UserError, match=r"train\.steps: was 300, now 100"):
        open_workdir(tmp_path)


def test_nan_and_infinity_are_no_differences(tmp_path: Path) -> None:
    for _ in range(2):
        open_workdir(tmp_path, {"x": float("nan"), "y": float("inf")}).release()


def test_a_damaged_config_is_an_error(tmp_path: Path) -> None:
    for content in ('{"seed": 1', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            open_workdir(tmp_path)


def test_flatten_config() -> None:
    assert flatten_config({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="a file of that name is in the way"):
        open_workdir(tmp_path / "file")
    with pytest.raises(UserError, match="a parent of it is a file"):
        open_workdir(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write in")
def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    for path in (Path("/proc/nothing/run"), Path("/proc/self")):
        with pytest.raises(UserError, match=r"--workdir=/proc/.* cannot be used: "):
            open_workdir(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        open_workdir(tmp_path / "run")


def test_a_second_live_run_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    with holder(tmp_path) as (pid, _):
        with pytest.raises(UserError, match=rf"in use by .*process {pid} on host \S+ since \d{{4}}-"):
            Workdir.open(tmp_path, config={}, allowed=())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert str(pid) in (tmp_path / ".lock").read_text()  # stale
        with Workdir.open(tmp_path, config={}, allowed=()):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
            with pytest.raises(UserError, match=f"process {os.getpid()} "):
                Workdir.open(tmp_path, config={}, allowed=())
        assert (tmp_path / ".lock").read_text() == ""


def test_a_forked_child_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as (pid, forked):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.kill(forked, 0)  # alive
        Workdir.open(tmp_path, config={}, allowed=()).release()


def test_a_lock_without_a_record_still_counts(tmp_path: Path) -> None:
    with open_workdir(tmp_path):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(UserError, match="another process"):
            open_workdir(tmp_path)


def test_release_twice(tmp_path: Path) -> None:
    workdir = open_workdir(tmp_path)
    workdir.release()
    workdir.release()


def test_environment(tmp_path: Path) -> None:
    with open_workdir(tmp_path) as workdir:
        workdir.write_environment(["cpu:0", "cpu:1"])
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["devices"] == ["cpu:0", "cpu:1"]
    assert environment["command"] == sys.argv
    assert environment["versions"].keys() >= {"python", "ganjax", "jax", "flax", "optax", "orbax-checkpoint"}
    assert all(environment["versions"].values())
    assert environment["time"].endswith("+00:00") and environment["platform"]


def test_importing_it_stays_quick() -> None:
    code = "import sys, ganjax.runtime.workdir; sys.exit(any(m in sys.modules for m in ('jax', 'orbax', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_atomic_write_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    atomic_write_json(file, {"é": 1})
    assert json.loads(file.read_text()) == {"é": 1}
    with pytest.raises(TypeError):
        atomic_write_json(file, object())

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_text(file, "new")
    assert json.loads(file.read_text()) == {"é": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_names_that_are_not_utf8_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    """The library of the checkpoints takes no other: the run would end at its first one."""
    for path in (tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / os.fsdecode(b"\xff") / "run"):
        with pytest.raises(UserError, match="is not UTF-8"):
            Workdir.open(path, config={}, allowed=())
    assert not list(tmp_path.iterdir())
    Workdir.open(tmp_path / "café 🙂", config={}, allowed=()).release()


def test_a_locale_without_utf8_is_told(tmp_path: Path) -> None:
    code = "import sys; from ganjax.runtime.workdir import Workdir; Workdir.open(sys.argv[1], config={}, allowed=())"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "é"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert "set LC_ALL=C.UTF-8" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "limit of open files"),
        (ValueError("INTERNAL: Error opening file: Too many open files [source]"), "limit of open files"),
        (ValueError("UNKNOWN: No space left on device"), "Free some space"),
        (OSError(errno.EACCES, "Permission denied"), "Make that place writable"),
        (TypeError("Unable to cast"), "Check that path"),
    ],
)
def test_room_is_asked_for_only_where_there_is_none(error: Exception, advice: str) -> None:
    assert advice in remedy(error)
