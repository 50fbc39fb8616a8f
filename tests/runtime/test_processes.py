"""Several processes: how they find each other, that they run one and the same run, and that they end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from small import small_dataset
from trainings import Runs, last_step, logged, read_state, summary

from ganjax.data.prepare.plan import Options
from ganjax.data.prepare.run import prepare
from ganjax.run.setup import numerics
from ganjax.runtime import meeting, processes
from ganjax.runtime.errors import PeerError, UserError
from ganjax.runtime.processes import Cluster

# Gloo writes its lines piece by piece, and two of its threads through each other: lines of nothing but such pieces.
GLOO = re.compile(
    r"(?:\[Gloo\] Rank |\d+| is connected to | peer ranks\. |Expected number of connected peer ranks is : )+\n?"
)
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "node[1-2]"}


@pytest.mark.parametrize(
    ("flags", "environment", "found"),
    [
        ((), {}, None),
        (("host:1234", 2, 1), {}, Cluster("host:1234", 2, 1)),
        (("host:1234", 1, 0), {}, None),
        (("auto",), {}, Cluster()),
        ((), {"GANJAX_COORDINATOR": "auto"}, Cluster()),
        (
            (None, None, 1),
            {"GANJAX_COORDINATOR": "[::1]:99", "GANJAX_NUM_PROCESSES": "4", "GANJAX_PROCESS_ID": "3"},
            Cluster("[::1]:99", 4, 1),
        ),
        ((), {"SLURM_NTASKS": "4", **SLURM}, Cluster(None, 4, 3)),
        ((), {"SLURM_NTASKS": "1", **SLURM}, None),
        (
            (),
            {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            None,
        ),  # in sbatch, without srun
        (("host:1",), {"SLURM_NTASKS": "4", **SLURM}, Cluster("host:1", 4, 3)),
        ((), {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, Cluster(None, 2, 1)),
        ((), {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        ((), {"TPU_WORKER_HOSTNAMES": "a,b"}, Cluster()),
        ((), {"TPU_WORKER_HOSTNAMES": "a"}, None),
    ],
)
def test_processes_are_found(
    flags: tuple[object, ...], environment: dict[str, str], found: Cluster | None
) -> None:
    filled = (*flags, None, None, None)[:3]
    assert processes.detect(*filled, environment) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (("host:1", None, None), {}, "num-processes=None"),
        ((None, 2, 0), {}, "coordinator=None"),
        (("host", 2, 0), {}, "HOST:PORT"),
        (("host:1", 2, 2), {}, "process-id=2"),
        ((None, None, None), {"GANJAX_PROCESS_ID": "one"}, "--process-id takes an integer"),
    ],
)
def test_half_a_cluster_is_refused(flags: tuple[object, ...], environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        processes.detect(*flags, environment)  # type: ignore[arg-type]


def test_alone_all_is_plain() -> None:
    assert (processes.count(), processes.index(), processes.is_main()) == (1, 0, True)
    assert processes.from_main({"a": 1}) == {"a": 1} and processes.told("key") is None
    processes.meet()
    processes.abandon(2, "nobody hears it")
    processes.leave()


def meet(*processes_: tuple[int, int], seconds: float = 20.0) -> list[str]:
    """Lets processes of these (index, count) meet, each in a thread; returns what each is told, empty for well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"

    def one(process: tuple[int, int]) -> str:
        index, count = process
        try:
            meeting.introduce(coordinator, count, index, seconds)
        except (UserError, PeerError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    with ThreadPoolExecutor(len(processes_)) as pool:
        return list(pool.map(one, processes_))


def test_processes_meet_and_two_with_one_index_are_refused() -> None:
    assert meet((0, 3), (1, 3), (2, 3)) == ["", "", ""]
    twice = "UserError: two processes have --process-id=1; each needs its own, from 0 to 2."
    assert meet((0, 3), (1, 3), (1, 3)) == [twice] * 3
    counts = "UserError: process 1 has --num-processes=3, and process 0 has 2."
    assert meet((0, 2), (1, 3)) == [counts] * 2
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(UserError, match="another process has --process-id=0 too"),
    ):
        meeting.introduce(f"127.0.0.1:{other.getsockname()[1]}", 2, 0, 1.0)


def test_who_does_not_come_is_named() -> None:
    assert meet((0, 3), (2, 3), seconds=1.0)[0] == (
        "PeerError: the processes of this run did not all meet: 1 did not come"
    )
    [alone] = meet((1, 2), seconds=0.5)
    assert alone.startswith("PeerError: ") and "process 0 was not found" in alone


def test_strangers_and_restarted_processes_do_not_disturb_a_meeting() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        zero = pool.submit(meeting.introduce, f"127.0.0.1:{port}", 2 + 1, 0, 20.0)
        for said in (b"GET / HTTP/1.1\r\n", b"1 3"):  # a process 1 that is killed while it waits
            while not zero.done():
                try:
                    with socket.create_connection(("127.0.0.1", port)) as peer:
                        peer.sendall(said)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
        with ThreadPoolExecutor(2) as others:
            for index in (1, 2):
                others.submit(meeting.introduce, f"127.0.0.1:{port}", 3, index, 20.0)
        zero.result()


def test_what_changes_numbers_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = small_dataset(points=True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=1 --xla_a=2")
    before = numerics(dataset)
    assert {"ganjax", "jaxlib", "flax", "optax", "platform", "convolutions"} < before.keys()
    others = {
        "jax_default_prng_impl": "rbg",
        "jax_enable_x64": True,
        "jax_default_matmul_precision": "bfloat16",
        "jax_threefry_partitionable": False,
    }
    for name, value in others.items():
        usual = jax.config.values[name]
        jax.config.update(name, value)
        try:
            changed = numerics(dataset)
        finally:
            jax.config.update(name, usual)
        assert {key for key in before if changed[key] != before[key]} == {name}
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=2 --xla_dump_to=elsewhere --xla_b=1")
    assert numerics(dataset) == before


class Pair:
    """Two processes of one command."""

    def __init__(self, arguments: list[str], *, second: list[str] | None = None, **of_second: str) -> None:
        """Starts them; `of_second` is added to the environment of process 1."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.children = [
            subprocess.Popen(
                [sys.executable, "-m", "ganjax", *(second if i and second else arguments)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "GANJAX_COORDINATOR": coordinator,
                    "GANJAX_NUM_PROCESSES": "2",
                    "GANJAX_PROCESS_ID": str(i),
                    "GANJAX_PEER_TIMEOUT": "60",  # a busy machine is slow to give a sign of life
                    **(of_second if i else {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in (0, 1)
        ]

    def ends(self, timeout: float = 200) -> list[tuple[int, str, str]]:
        """(exit code, stdout without Gloo's lines, stderr) of each; killed at the time-out, in seconds."""
        deadline, found = time.monotonic() + timeout, []
        try:
            for child in self.children:
                out, err = child.communicate(timeout=max(deadline - time.monotonic(), 0.1))
                said = "".join(line for line in out.splitlines(True) if not GLOO.fullmatch(line))
                found.append((child.returncode, said, err))
        finally:
            for child in self.children:
                child.kill()
        return found

    def wait_for_step(self, workdir: Path, step: int) -> None:
        deadline = time.monotonic() + 100
        while last_step(workdir) < step:
            assert all(child.poll() is None for child in self.children), self.ends()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def assert_close(found: Path, expected: Path) -> None:
    """The same state up to rounding, and the same log but for times."""
    one, other = read_state(found), read_state(expected)
    assert one.keys() == other.keys()
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    for row, wanted in zip(logged(found), logged(expected), strict=True):
        assert row.keys() == wanted.keys() and row["verdict"] == wanted["verdict"]
        assert row["loss/dis"] == pytest.approx(wanted["loss/dis"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)  # six starts, on a machine that may be busy
def test_two_processes_of_two_devices_are_one_of_four(tmp_path: Path) -> None:
    """Told to stop, they save one checkpoint and go on from it; the end is that of one process, and goes on in one."""
    runs = Runs(tmp_path)
    # So many steps that the word of the signal, which takes a second or so, arrives before the end.
    often = ("log.every_steps=20", "log.sample_every_steps=800", "checkpoint.every_steps=400")
    options = ("parallel.devices=4", "train.steps=800", "log.tensorboard=False", *often)
    pair = Pair(runs.arguments("two", *options))
    pair.wait_for_step(tmp_path / "two", 20)
    pair.children[1].send_signal(signal.SIGTERM)
    (code, out, err), (other, silent, _) = pair.ends()
    assert (code, other, silent) == (0, 0, ""), err
    stopped = summary(tmp_path / "two")
    assert stopped["reason"] == "preempted" and 20 <= stopped["steps"] < 800 and "Stopped (preempted)" in out
    steps = {int(path.name) for path in (tmp_path / "two" / "checkpoints").iterdir()}
    assert max(steps) == stopped["steps"] and steps <= {400, stopped["steps"]}
    assert [end[0] for end in Pair(runs.arguments("two", *options)).ends()] == [0, 0]
    assert summary(tmp_path / "two")["reason"] == "completed"
    runs.finish("one", *options)
    assert_close(tmp_path / "two", tmp_path / "one")
    grids = [tmp_path / name / "samples" / "step_00000800.png" for name in ("two", "one")]
    pictures = [np.asarray(Image.open(grid)) for grid in grids]
    np.testing.assert_array_equal(*pictures)
    out, _ = runs.finish("two", *options, "train.steps=820", "parallel.devices=1")
    assert "Resuming from step 800" in out and logged(tmp_path / "two")[-1]["step"] == 820


@pytest.mark.slow
def test_two_processes_stream_what_one_holds_in_memory(tmp_path: Path) -> None:
    """The same images of a prepared data set in the same order, each process its part of the batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number:02d}.png")
    prepare(Options(tmp_path / "pictures", tmp_path / "data", 8, workers=1), say=lambda text: None)
    given = {
        "data.name": "folder",
        "data.path": tmp_path / "data",
        "model.conditional": False,
        "train.steps": 12,
        "train.batch_size": 16,
        "gen.width": 8,
        "dis.width": 8,
        "log.every_steps": 4,
        "log.tensorboard": False,
        "monitor.samples": 0,
        "parallel.devices": 2,
    }

    def arguments(delivery: str) -> list[str]:
        options = [f"--config.{key}={value}" for key, value in given.items()]
        command = ["train", "--config=configs/quickstart.py", f"--workdir={tmp_path / delivery}"]
        return [*command, *options, f"--config.data.delivery={delivery}"]

    ends = Pair(arguments("streaming")).ends()
    assert [end[0] for end in ends] == [0, 0], ends
    alone = [sys.executable, "-m", "ganjax", *arguments("resident")]
    subprocess.run(alone, cwd=ROOT, check=True, capture_output=True)
    streamed, held = logged(tmp_path / "streaming"), logged(tmp_path / "resident")
    assert [row["step"] for row in streamed] == [row["step"] for row in held] == [4, 8, 12]
    for row, wanted in zip(streamed, held, strict=True):
        assert "data/wait" in row and "data/wait" not in wanted
        for name in ("loss/dis", "loss/gen", "grad_norm/dis"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-3)


@pytest.mark.slow
def test_a_failing_or_killed_process_ends_the_other(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    options = ("parallel.devices=2", "train.steps=1000000", "log.tensorboard=False")
    pair = Pair(runs.arguments("killed", *options))
    pair.wait_for_step(tmp_path / "killed", 10)
    pair.children[1].kill()
    (code, _, err), _ = pair.ends(timeout=120)
    assert code == 4 and "another process of this run has ended" in err
    other = runs.arguments("other", *options, "seed=1")
    (first, _, said), (second, _, _) = Pair(runs.arguments("other", *options), second=other).ends(timeout=120)
    assert (first, second) == (2, 2) and "process 1" in said and "same command" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
            "process 1 has jax_default_prng_impl rbg, and process 0 has threefry2x32",
        ),
        ({"JAX_ENABLE_X64": "1"}, "process 1 has jax_enable_x64 True"),
        ({"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}, "process 1 has jax_default_matmul_precision bfloat16"),
    ],
    ids=["prng", "x64", "precision"],
)
def test_processes_that_compute_otherwise_are_refused(
    tmp_path: Path, other: dict[str, str], said: str
) -> None:
    ends = Pair(Runs(tmp_path).arguments("two", "train.steps=20", "parallel.devices=2"), **other).ends(
        timeout=120
    )
    assert any(said in err for _, _, err in ends), ends
    assert all("Traceback" not in err for _, _, err in ends)
    assert 2 in [code for code, _, _ in ends]
