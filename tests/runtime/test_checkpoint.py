"""Checkpoints survive kills, damage and full disks, or say that they did not."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.runtime.checkpoint import Checkpointer, CheckpointWarning, manifest, storage
from ganjax.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")


class Moments(NamedTuple):
    mu: dict[str, Any]
    count: Any


def make_state(seed: int) -> dict[str, Any]:
    """Every kind of leaf: nesting, tuples, None, bfloat16, an empty array, Python numbers."""
    kernel = jax.random.normal(jax.random.key(seed), (64, 32), jnp.float32)
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "params": {"Conv_0": {"kernel": kernel, "bias": kernel[0].astype(jnp.bfloat16)}},
        "opt": (Moments({"kernel": kernel * 2}, jnp.asarray(True)), (), None),
        "empty": jnp.zeros((0, 3), jnp.float32),
        "host": np.arange(5, dtype=np.uint8),
        "p": 0.25,
        "images": 7 * seed,
    }


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def saved(directory: Path, *steps: int, keep: int = 0) -> Checkpointer:
    with Checkpointer(directory, keep=keep) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step), metadata={"digest": f"d{step}"})
    return Checkpointer(directory, keep=keep)


def flip_bit(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def biggest_file(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_returns_what_was_saved(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.latest_step() == 2
    template = jax.eval_shape(lambda: {k: v for k, v in make_state(2).items() if k not in ("p", "images")})
    found = checkpoints.restore(template | {"p": 0.0, "images": 0})
    assert found is not None
    step, state, metadata = found
    assert (step, metadata) == (2, {"digest": "d2"})
    assert_same(state, make_state(2))
    assert type(state["p"]) is float and type(state["images"]) is int
    older = checkpoints.restore(make_state(0), 1)
    assert older is not None and older[0] == 1
    assert_same(older[1], make_state(1))


def test_nothing_saved(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "none", keep=3) as checkpoints:
        assert checkpoints.restore(make_state(0)) is None
        assert checkpoints.steps() == [] and checkpoints.latest_step() is None
        with pytest.raises(UserError, match=r"no checkpoint of step 5 .* none"):
            checkpoints.restore(make_state(0), 5)
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_is_the_same_from_one_device_and_from_two(tmp_path: Path) -> None:
    state = {"w": jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spread = jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    leaves = []
    for name, version in (("one", state), ("two", spread)):
        with Checkpointer(tmp_path / name, keep=0) as checkpoints:
            checkpoints.save(1, version)
        leaves.append(manifest.read(tmp_path / name / "1", 1)["leaves"])
    assert leaves[0] == leaves[1]


def test_refuses_keys_and_split_arrays(tmp_path: Path) -> None:
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.device_put(jnp.zeros(4), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d")))
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        with pytest.raises(TypeError, match="PRNG key"):
            checkpoints.save(1, {"key": jax.random.key(0)})
        with pytest.raises(ValueError, match="replicated"):
            checkpoints.save(1, {"w": split})


def test_donating_right_after_a_save_is_safe_and_no_save_is_skipped(tmp_path: Path) -> None:
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.zeros((512, 512), jnp.float32)
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        for step in range(1, 6):
            state = advance(state)
            checkpoints.save(step, {"w": state})
        for _ in range(20):
            state = advance(state)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3, 4, 5]
        for step in checkpoints.steps():
            found = checkpoints.restore({"w": state}, step)
            assert found is not None
            np.testing.assert_array_equal(found[1]["w"], np.full((512, 512), step, np.float32))


def test_a_step_saved_again_is_replaced_unless_it_is_the_same(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2) as checkpoints:
        assert not checkpoints.save(2, make_state(2), metadata={"digest": "d2"})
        assert checkpoints.save(2, make_state(9), metadata={"digest": "d9"}, block=True)
        found = checkpoints.restore(make_state(0))
    assert found is not None and found[0] == 2 and found[2] == {"digest": "d9"}
    assert_same(found[1], make_state(9))
    assert names(tmp_path) == ["1", "2"]


def test_keeps_the_newest_intact_ones(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3, 4, keep=2) as checkpoints:
        assert checkpoints.steps() == [3, 4]
        flip_bit(biggest_file(tmp_path / "4"), random.Random(0))
        checkpoints.save(5, make_state(5), block=True)
        assert checkpoints.steps() == [3, 4, 5]  # 4 does not count, and stays
        checkpoints.save(6, make_state(6), block=True)
        assert checkpoints.steps() == [4, 5, 6]
        checkpoints.save(2, make_state(2), block=True)  # gone back on purpose: what is saved now stays
        assert 2 in checkpoints.steps()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncate", "bytes, .* were written"),
        ("empty", "has 0 bytes"),
        ("delete", "is missing"),
        ("no manifest", "has no ganjax_manifest.json"),
        ("manifest cut", "cannot be read"),
        ("manifest edited", "contradicts its own checksum"),
        ("empty folder", "has no ganjax_manifest.json"),
        ("a file", "cannot be read"),
        ("wrong step", "is of step 2"),
    ],
)
def test_a_damaged_step_is_passed_over_and_can_be_saved_again(
    tmp_path: Path, damage: str, reason: str
) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    folder = tmp_path / "3"
    damage_step(folder, damage)
    with pytest.warns(CheckpointWarning, match=f"/3 is passed over: .*{reason}.*Using step 2 instead"):
        found = checkpoints.restore(make_state(0))
    assert found is not None and found[0] == 2
    assert_same(found[1], make_state(2))
    assert folder.exists()
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.restore(make_state(0), 3)
    with checkpoints:
        assert checkpoints.save(3, make_state(3), block=True)
        again = checkpoints.restore(make_state(0))
    assert again is not None and again[0] == 3
    assert names(tmp_path) == ["1", "2", "3"]


def damage_step(folder: Path, damage: str) -> None:
    data, record = biggest_file(folder), folder / manifest.NAME
    match damage:
        case "truncate":
            data.write_bytes(data.read_bytes()[:-1])
        case "empty":
            data.write_bytes(b"")
        case "delete":
            data.unlink()
        case "no manifest":
            record.unlink()
        case "manifest cut":
            record.write_text(record.read_text()[:-40])
        case "manifest edited":
            record.write_text(record.read_text().replace('"digest": "d3"', '"digest": "d4"'))
        case "wrong step":
            shutil.rmtree(folder)
            shutil.copytree(folder.parent / "2", folder)
        case _:
            shutil.rmtree(folder)
            folder.touch() if damage == "a file" else folder.mkdir()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    rng = random.Random(5)
    pristine = tmp_path / "pristine"
    shutil.copytree(tmp_path / "2", pristine)
    files = sorted(file.relative_to(pristine) for file in pristine.rglob("*") if file.is_file())
    files = [file for file in files if (pristine / file).stat().st_size]
    for _ in range(30):
        shutil.rmtree(tmp_path / "2")
        shutil.copytree(pristine, tmp_path / "2")
        flip_bit(tmp_path / "2" / rng.choice(files), rng)
        with pytest.warns(CheckpointWarning, match="/2 is passed over"):
            found = checkpoints.restore(make_state(0))
        assert found is not None and found[0] == 1


def test_values_that_were_written_wrong_are_found(tmp_path: Path) -> None:
    """Files that match their checksums but hold other values than were meant: only the witness can tell."""
    checkpoints = saved(tmp_path, 1, 2)
    record = manifest.read(tmp_path / "2", 2)
    record["leaves"]["params/Conv_0/kernel"]["sha256"] = "0" * 64
    (tmp_path / "2" / manifest.NAME).unlink()
    manifest.write(tmp_path / "2", 2, record["leaves"], record["metadata"])
    with pytest.warns(CheckpointWarning, match="1 arrays read back wrong, among them params/Conv_0/kernel"):
        found = checkpoints.restore(make_state(0))
    assert found is not None and found[0] == 1


def test_none_intact_is_an_error(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for step in "12":
        biggest_file(tmp_path / step).write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)no intact checkpoint.*step 2: .*0 bytes.*step 1: "):
        checkpoints.restore(make_state(0))


def test_another_architecture_lists_the_differences(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(3), "b": jnp.zeros((2, 2)), "c": jnp.zeros(1)}, block=True)
        template = {
            "a": jnp.zeros(3),
            "b": jnp.zeros((2, 4)),
            "c": jnp.zeros(1, jnp.int32),
            "d": jnp.zeros(1),
        }
        with pytest.raises(UserError) as error:
            checkpoints.restore(template)
        many = {f"x{i}": jnp.zeros(i) for i in range(9)}
        with pytest.raises(UserError, match="and 7 more"):
            checkpoints.restore(many)
    lines = str(error.value).splitlines()
    assert "checkpoint of another architecture" in lines[0]
    assert lines[1:4] == [
        "  b: expected float32[2, 4], found float32[2, 2]",
        "  c: expected int32[1], found float32[1]",
        "  d: expected float32[1], found nothing",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MB of memory as a file system; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def save_too_much(directory: Path, capfd: pytest.CaptureFixture[str], came: str) -> None:
    noise = {"w": np.random.default_rng(0).standard_normal((1000, 1000))}  # 8 MB that do not compress
    with saved(directory, 1) as checkpoints:
        capfd.readouterr()
        assert checkpoints.save(2, noise)
        with pytest.raises(
            UserError, match=rf"(?s)step 2 could not be saved.*{came}.*Free some space.*is step 1\."
        ) as error:
            checkpoints.save(3, noise)
        assert "tensorstore_spec" not in str(error.value)
        assert names(directory) == ["1"]
        with pytest.raises(UserError, match="step 4 could not"):
            checkpoints.save(4, noise, block=True)
        checkpoints.save(5, make_state(5))  # an error surfaces once; what fits is saved
        checkpoints.wait()
        found = checkpoints.restore(make_state(0))
        assert found is not None and found[0] == 5
    assert names(directory) == ["1", "5"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_too_much(small_disk / "checkpoints", capfd, "No space left on device")


def test_a_file_size_limit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        save_too_much(tmp_path, capfd, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LATE_WRITES = """
import asyncio, sys, time
import tensorstore
from ganjax.runtime.checkpoint import storage

async def write():
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": sys.argv[1]}}
    store = await tensorstore.open(spec, create=True, dtype=tensorstore.int32, shape=[1000])
    for number in range(20):
        next(store.write(number).__await__())  # begun, and not waited for

if sys.argv[2] == "quiet":
    storage.quieten_orbax()
loop = asyncio.new_event_loop()
loop.run_until_complete(write())
loop.close()
time.sleep(1)

class Loud:
    def __del__(self):
        raise RuntimeError("Event loop is closed")

Loud()
"""


def test_writes_that_outlive_a_failed_save_are_not_told(tmp_path: Path) -> None:
    """They left pages of tracebacks beside the message; what cannot be raised elsewhere is told as ever."""
    said = {}
    for how in ("loud", "quiet"):
        command = [sys.executable, "-c", LATE_WRITES, str(tmp_path / how), how]
        said[how] = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "call_soon_threadsafe" in said["loud"]
    assert "call_soon_threadsafe" not in said["quiet"] and "Loud.__del__" in said["quiet"]


def test_a_time_out_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax takes a clock that is set forward for a long wait; a disk that stays silent fails twice."""
    write, left = storage.write, 1

    def slow(folder: Path, arrays: dict[tuple[str, ...], np.ndarray]) -> None:
        nonlocal left
        if left:
            left -= 1
            (tmp_path / f"{folder.name}.orbax-tmp").mkdir()
            raise TimeoutError("too long")
        write(folder, arrays)

    monkeypatch.setattr(storage, "write", slow)
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        checkpoints.save(1, make_state(1), block=True)
        assert names(tmp_path) == ["1"]
        left = 2
        with pytest.raises(UserError, match="too long"):
            checkpoints.save(2, make_state(2), block=True)
        assert names(tmp_path) == ["1"]


def test_a_failed_save_does_not_hide_the_error_that_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with (
        pytest.raises(ZeroDivisionError) as error,
        Checkpointer(tmp_path / "checkpoints", keep=0) as checkpoints,
    ):
        checkpoints.save(1, make_state(1))
        raise ZeroDivisionError
    assert "step 1 could not be saved" in error.value.__notes__[0]


def test_between_the_two_renames_of_a_replacement_the_old_one_stands_in(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "2").rename(tmp_path / "2.old")
    (tmp_path / "2.partial").mkdir()
    (tmp_path / "1.removed").mkdir()
    found = checkpoints.restore(make_state(0))
    assert found is not None and found[0] == 2
    assert checkpoints.steps() == [1, 2]
    with checkpoints:
        checkpoints.save(3, make_state(3), block=True)  # the first save clears up
    assert names(tmp_path) == ["1", "2", "3"]


def test_a_step_being_read_is_deleted_later(tmp_path: Path) -> None:
    with saved(tmp_path, 1, keep=1) as checkpoints:
        with open(tmp_path / "1" / manifest.NAME) as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            checkpoints.save(2, make_state(2), block=True)
            assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, make_state(3), block=True)
        assert checkpoints.steps() == [3]


def test_reading_while_a_run_writes(tmp_path: Path) -> None:
    writer = saved(tmp_path, 1, keep=1)
    done = threading.Event()

    def write() -> None:
        try:
            with writer:
                for step in range(2, 15):
                    writer.save(step, make_state(step))
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    with Checkpointer(tmp_path, keep=0) as reader:
        while not done.is_set():
            found = reader.restore(make_state(0))
            assert found is not None
            assert_same(found[1], make_state(found[0]))
            seen.append(found[0])
    thread.join()
    assert seen == sorted(seen)
    assert names(tmp_path)[-1] == "14" and len(names(tmp_path)) <= 2


SAVE_LOOP = """
import sys
from pathlib import Path
import numpy as np
from ganjax.runtime.checkpoint import Checkpointer
with Checkpointer(Path(sys.argv[1]), keep=2) as checkpoints:
    template = {"w": np.zeros((400, 500), np.float32), "step": 0}
    found = checkpoints.restore(template)
    step = found[0] if found else 0
    print("at", step, flush=True)
    while True:
        step += 1
        checkpoints.save(step, {"w": np.full((400, 500), step, np.float32), "step": step})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    reached = 0
    for _kill in range(8):
        command = [
            sys.executable,
            "-W",
            "error::ganjax.runtime.checkpoint.CheckpointWarning",
            "-c",
            SAVE_LOOP,
            tmp_path,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            start, *_ = (child.stdout.readline() for _ in range(rng.randrange(1, 12)))
            time.sleep(rng.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
        assert start == f"at {reached}\n"
        with Checkpointer(tmp_path, keep=0) as checkpoints:
            steps = checkpoints.steps()
            found = checkpoints.restore({"w": np.zeros((400, 500), np.float32), "step": 0})
        if found is None:
            assert not steps
            continue
        assert found[0] >= reached and found[0] == steps[-1] and found[1]["step"] == found[0]
        np.testing.assert_array_equal(found[1]["w"], found[0])
        reached = found[0]
    assert reached
    for path in tmp_path.iterdir():  # what is left besides is recognised, and only of the last kill
        assert path.name.isdecimal() or path.name.split(".")[1] in ("partial", "old", "removed")


def test_refuses_what_it_could_not_give_back(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, {"w": 1}, metadata={"a": object()})
        for state in ({"a": {"b": 1}, "a/b": 2}, jnp.zeros(1)):
            with pytest.raises(ValueError, match="named leaves"):
                checkpoints.save(1, state)
        with pytest.raises(ValueError, match="0 or more"):
            checkpoints.save(-1, {"w": 1})
    with pytest.raises(ValueError, match="keep"):
        Checkpointer(tmp_path, keep=-1)


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    record = json.loads((tmp_path / "1" / manifest.NAME).read_text())
    assert record["format"] == manifest.FORMAT and record["step"] == 1
    assert record["leaves"]["opt/0/mu/kernel"]["shape"] == [64, 32]
    assert record["leaves"]["params/Conv_0/bias"]["dtype"] == "bfloat16"
    assert all(len(file["sha256"]) == 64 and file["bytes"] >= 0 for file in record["files"].values())


def forge(folder: Path, text: str | None = None, **changes: Any) -> None:
    """Gives a step another manifest, with a valid checksum; a change to None leaves that part out."""
    record = {**json.loads((folder / manifest.NAME).read_text()), **changes}
    record = {name: value for name, value in record.items() if value is not None and name != "sha256"}
    (folder / manifest.NAME).write_text(text or json.dumps(record | {"sha256": manifest._own_digest(record)}))


FORGERIES: dict[str, dict[str, Any]] = {
    "a device": {"files": {"/dev/zero": {"bytes": 0, "sha256": ""}}},
    "a file outside": {"files": {"../1/ganjax_manifest.json": {"bytes": 0, "sha256": ""}}},
    "a pipe": {"files": {"pipe": {"bytes": 0, "sha256": ""}}},
    "no leaves": {"leaves": None},
    "no files": {"files": None},
    "no metadata": {"metadata": None},
    "no step": {"step": None},
    "a list": {"leaves": []},
    "a leaf without a shape": {"leaves": {"step": {"dtype": "int32", "sha256": ""}}},
    "a leaf of a number": {"leaves": {"step": 7}},
    "a file without a size": {"files": {"a": {"sha256": ""}}},
    "levels": {"text": '{"leaves":' + "[" * 200_000 + "]" * 200_000 + "}"},
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_damage(tmp_path: Path, name: str) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    if name == "a pipe":
        os.mkfifo(tmp_path / "2" / "pipe")
    forge(tmp_path / "2", **FORGERIES[name])
    with pytest.warns(CheckpointWarning, match="is passed over"):
        found = checkpoints.restore(make_state(0))
    assert found is not None and found[0] == 1
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.restore(make_state(0), 2)
    checkpoints.save(2, make_state(2), block=True)
    assert checkpoints.restore(make_state(0), 2) is not None


@pytest.mark.parametrize("what", ["pipe", "manifest"])
def test_pipes_in_a_checkpoint_are_damage(tmp_path: Path, what: str) -> None:
    checkpoints = saved(tmp_path, 1)
    path = tmp_path / "1" / (manifest.NAME if what == "manifest" else "pipe")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"No regular file|neither a file nor a folder"):
        checkpoints.restore(make_state(0))


@pytest.mark.parametrize("more", ["an array", "a shape"])
def test_arrays_that_the_manifest_does_not_declare_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """Zeros take no room on the disk, whatever they would take in memory."""
    arrays = storage.host_copy({"a": jnp.zeros(8, jnp.float32)})
    bomb = {("bomb",) if more == "an array" else ("a",): np.zeros(10**6, np.float32)}
    storage.write(tmp_path / "1", {**arrays, **bomb})
    manifest.write(tmp_path / "1", 1, manifest.describe(arrays), {})
    monkeypatch.setattr(storage.ocp, "load", None)
    checkpoints = Checkpointer(tmp_path, keep=0)
    with pytest.raises(UserError, match="other arrays than its manifest says"):
        checkpoints.restore({"a": jnp.zeros(8, jnp.float32)}, 1)
