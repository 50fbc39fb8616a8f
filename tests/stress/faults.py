"""Brings a fault upon a small run and prints what was promised and what happened, a line each.

    python tests/stress/faults.py
    python tests/stress/faults.py --only=disk,peer

Run it as root for those that mount a small file system; `apt-get install faketime` for the clock. What does not
apply is said. Exit code 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import kill_study

ROOT = Path(__file__).resolve().parents[2]
STEPS = 120
TINY = (
    "--config=configs/grid.py",
    "--config.gen.width=8",
    "--config.dis.width=8",
    "--config.train.batch_size=32",
    "--config.parallel.devices=2",
    "--config.checkpoint.every_steps=20",
    "--config.log.every_steps=5",
    "--config.log.sample_every_steps=60",
    "--config.monitor.samples=64",
)
PEER_TIMEOUT = 10


class Skip(Exception):
    """Why a fault cannot be brought about here."""


class Broken(Exception):
    """What happened instead of what was promised."""


class Bench:
    """Runs in a folder, all of one config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(
        self,
        workdir: Path,
        *options: str,
        processes: int = 1,
        indices: Sequence[int] = (),
        **environment: str,
    ) -> list[subprocess.Popen[str]]:
        """The processes of one run; `indices` in place of 0, 1, …"""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        several = {"GANJAX_COORDINATOR": coordinator, "GANJAX_NUM_PROCESSES": str(processes)}
        given = [f"--config.train.steps={STEPS}", *(f"--config.{option}" for option in options)]
        return [
            subprocess.Popen(
                [sys.executable, "-m", "ganjax", "train", *TINY, *given, f"--workdir={workdir}"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "GANJAX_PEER_TIMEOUT": str(PEER_TIMEOUT),
                    **(several if processes > 1 else {}),
                    "GANJAX_PROCESS_ID": str(i) if processes > 1 else "",
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in indices or range(processes)
        ]

    def run(self, workdir: Path, *options: str, **environment: str) -> tuple[int, str]:
        """Exit code and what was said, of one process."""
        return end(self.start(workdir, *options, **environment)[0])

    def whole(self, workdir: Path) -> None:
        """The run goes on to its end, and its log has each step once."""
        code, said = self.run(workdir)
        expect(code == 0 and reason(workdir) == "completed", f"it did not go on: exit code {code}, {said}")
        steps = [row["step"] for row in log(workdir)]
        expect(steps == list(range(5, STEPS + 1, 5)), f"the log holds {steps}")


def end(child: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    """Exit code and what was said; Broken where it hangs or shows a traceback."""
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise Broken(f"it still ran after {timeout:.0f} s") from None
    expect("Traceback" not in err, err)
    return child.returncode, err.strip() or (out.strip().splitlines() or [""])[-1]


def expect(fine: bool, otherwise: str) -> None:
    if not fine:
        raise Broken(otherwise)


def log(workdir: Path) -> list[dict[str, float]]:
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def reason(workdir: Path) -> str:
    return str(json.loads((workdir / "summary.json").read_text())["reason"])


def until(workdir: Path, step: int, child: subprocess.Popen[str]) -> None:
    """Waits for a log line of this step or a later one."""
    deadline = time.monotonic() + 100
    while max((row["step"] for row in log(workdir)), default=0) < step:
        if child.poll() is not None or time.monotonic() > deadline:
            raise Broken(f"it did not reach step {step}: {end(child)}")
        time.sleep(0.02)


@contextmanager
def small_disk(bench: Bench, megabytes: float) -> Iterator[Path]:
    """A file system of its own."""
    place = Path(tempfile.mkdtemp(dir=bench.folder))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise Skip("mounting is not allowed here")
    try:
        yield place
    finally:
        while not subprocess.run(["umount", "-l", str(place)], capture_output=True).returncode:
            pass  # what was bound over it, and itself


def disk_full(bench: Bench) -> str:
    with small_disk(bench, 1.5) as disk:
        (disk / "ballast").write_bytes(bytes(1_000_000))
        code, said = bench.run(disk / "run")
        expect(code == 2 and ("Could not write" in said or "could not be saved" in said), f"{code}: {said}")
        (disk / "ballast").unlink()
        bench.whole(disk / "run")
        return f"exit code {code}: {said}"


def disk_read_only(bench: Bench) -> str:
    with small_disk(bench, 20) as disk:
        [child] = bench.start(disk / "run", "train.steps=1000000")
        until(disk / "run", 25, child)
        # The run holds files open for writing, so only its own part of the tree can be made read-only.
        again = ["mount", "-o", "remount,ro", str(disk)]
        if subprocess.run(again, capture_output=True).returncode:
            subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        code, said = end(child)
        expect(code == 2 and "Read-only" in said, f"{code}: {said}")
        return f"exit code {code}: {said}"


def workdir_vanished(bench: Bench) -> str:
    workdir = bench.folder / "vanished"
    [child] = bench.start(workdir, "train.steps=1000000")
    until(workdir, 45, child)
    workdir.rename(bench.folder / "elsewhere")
    code, said = end(child)
    found = sorted(path.name for path in workdir.iterdir()) if workdir.exists() else []
    expect(code == 2 and "was removed" in said and found in ([], ["checkpoints"]), f"{code}: {said}; {found}")
    return f"exit code {code}: {said}"


def two_runs(bench: Bench) -> str:
    workdir = bench.folder / "shared"
    [first] = bench.start(workdir, "train.steps=1000000")
    until(workdir, 5, first)
    code, said = bench.run(workdir)
    expect(code == 2 and "is in use" in said and first.poll() is None, f"{code}: {said}")
    first.send_signal(signal.SIGTERM)
    expect(end(first)[0] == 0, "the first run suffered")
    return f"exit code {code}: {said}"


def checkpoint_flipped(bench: Bench) -> str:
    sys.path.insert(0, str(ROOT))
    import warnings

    from ganjax.runtime.checkpoint import Checkpointer

    workdir = finished(bench, "flipped")
    template, newest = template_of(workdir), workdir / "checkpoints" / str(STEPS)
    files = [file for file in sorted(newest.rglob("*")) if file.is_file() and file.stat().st_size]
    draw, found, silent = random.Random(0), 0, []
    for _ in range(100):
        file = draw.choice(files)
        content = bytearray(whole := file.read_bytes())
        at, bit = draw.randrange(len(content)), draw.randrange(8)
        content[at] ^= 1 << bit
        file.write_bytes(content)
        with (
            Checkpointer(workdir / "checkpoints", keep=0) as saved,
            warnings.catch_warnings(record=True) as seen,
        ):
            warnings.simplefilter("always")
            step = saved.restore(template)[0]
        passed_over = step == STEPS - 20 and any("is passed over" in str(w.message) for w in seen)
        found += passed_over
        silent += [] if passed_over else [f"{file.name}, byte {at}"]
        file.write_bytes(whole)
    expect(found == 100, f"{100 - found} went unnoticed: {silent}")
    return "100 of 100 flips found; each time the checkpoint before was taken, with a warning"


def checkpoint_damaged(bench: Bench, damage: Callable[[Path], None]) -> str:
    workdir = finished(bench, f"damaged_{damage.__name__.strip('_')}")
    damage(workdir / "checkpoints" / str(STEPS))
    (workdir / "summary.json").unlink()
    [child] = bench.start(workdir)
    code, said = end(child)
    expect(code == 0 and "is passed over" in said, f"{code}: {said}")
    expect([row["step"] for row in log(workdir)] == list(range(5, STEPS + 1, 5)), "the log is not whole")
    return next(line for line in said.splitlines() if "is passed over" in line).partition("Warning: ")[2]


def _truncated(folder: Path) -> None:
    largest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def _empty_file(folder: Path) -> None:
    os.truncate(folder / "ganjax_manifest.json", 0)


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def finished(bench: Bench, name: str) -> Path:
    """A copy of a run that has ended."""
    original = bench.folder / "finished"
    if not original.exists():
        bench.whole(original)
    return Path(shutil.copytree(original, bench.folder / name))


def template_of(workdir: Path) -> object:
    from ganjax.config.recipe import from_workdir
    from ganjax.run.setup import prepare

    return prepare(from_workdir(workdir)).build.shapes()


def not_finite(bench: Bench) -> str:
    workdir = bench.folder / "diverged"
    options = ("optimizer.name=sgd", "optimizer.learning_rate=1000.0", "optimizer.warmup_steps=100")
    given = [f"{net}.{option}" for net in ("gen", "dis") for option in options]
    code, said = bench.run(workdir, *given, "penalty.name=none")
    expect(code == 3 and reason(workdir) == "diverged" and "at step 0" not in said, f"{code}: {said}")
    expect(any((workdir / "diverged").iterdir()), "nothing was saved")
    return f"exit code {code}: {said}"


def peer(bench: Bench, victim: int, number: signal.Signals) -> str:
    """Kills or freezes one of two; then both go on, and end as a run that nothing happened to."""
    workdir = bench.folder / f"peer_{victim}_{number.name}"
    run = bench.start(workdir, processes=2)
    until(workdir, 25, run[0])
    run[victim].send_signal(number)
    begun = time.monotonic()
    code, said = end(run[1 - victim], timeout=5 * PEER_TIMEOUT)
    seconds = time.monotonic() - begun
    run[victim].kill()
    run[victim].communicate()
    expect(code in (4, -signal.SIGABRT), f"{code}: {said}")
    for child in bench.start(workdir, processes=2):
        expect((ending := end(child))[0] == 0, f"it did not go on: {ending}")
    expect(reason(workdir) == "completed", "it did not go on to its end")
    told = next((line for line in said.splitlines() if "another" in line), said)
    return f"exit code {code} after {seconds:.1f} s: {told}"


def stop_one(bench: Bench, number: signal.Signals) -> str:
    workdir = bench.folder / f"stopped_{number.name}"
    run = bench.start(workdir, "train.steps=1000000", processes=2)
    until(workdir, 25, run[0])
    run[1].send_signal(number)
    endings = [end(child) for child in run]
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    step = json.loads((workdir / "summary.json").read_text())["steps"]
    expect([code for code, _ in endings] == [0, 0] and steps[-1] == step, f"{endings}, checkpoints {steps}")
    return f"exit codes 0 and 0, {reason(workdir)!r}, both at step {step}, checkpoint {steps[-1]}"


def clock_jumps(bench: Bench) -> str:
    if not shutil.which("faketime"):
        raise Skip("faketime is not installed")
    workdir, hours = bench.folder / "clock", bench.folder / "hours"
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    hours.write_text("+0")
    clock = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(hours),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    [child] = bench.start(workdir, **clock)
    until(workdir, 20, child)
    hours.write_text("-400d")
    until(workdir, 60, child)
    hours.write_text("+400d")
    code, said = end(child)
    seconds = [row["seconds"] for row in log(workdir)]
    fine = code == 0 and reason(workdir) == "completed" and seconds == sorted(seconds) and seconds[-1] < 300
    expect(fine, f"{code}: {said}; seconds {seconds}")
    return f"400 days back, 800 forward: completed, {seconds[-1]:.0f} s on its own clock, which only grew"


def terminal_closes(bench: Bench) -> str:
    """The run's terminal goes away, as with a lost ssh or a closed window; it has no other place to write to."""
    workdir = bench.folder / "terminal"
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ganjax",
            "train",
            *TINY,
            "--config.train.steps=1000000",
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    deadline = time.monotonic() + 100
    while not log(workdir) or log(workdir)[-1]["step"] < 25:
        expect(child.poll() is None and time.monotonic() < deadline, "it did not reach step 25")
        if select.select([ours], [], [], 0.02)[0]:
            os.read(ours, 1 << 16)
    os.close(ours)
    code = child.wait(60)
    steps = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    summary = json.loads((workdir / "summary.json").read_text())
    fine = code == 0 and summary["reason"] == "preempted" and summary["steps"] == steps
    expect(fine, f"exit code {code}, {summary['reason']} at {summary['steps']}, checkpoint {steps}")
    return f"exit code 0, {summary['reason']!r}, checkpoint of step {steps}"


def study_disk_full(bench: Bench) -> str:
    """A study on a disk that is full at three sizes of what is left, against one with room enough."""
    small = kill_study.STUDY.replace("kimg=200", "kimg=20").replace("(0, 1, 2, 3)", "(0, 1)")
    (bench.folder / "study.py").write_text(small)

    def study(folder: Path) -> tuple[int, str, list[dict[str, object]]]:
        command = kill_study.command(bench.folder / "study.py", folder, 2)
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        code, said = end(child, timeout=400)
        file = folder / "results.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return (
            code,
            said,
            [{key: record[key] for key in ("folder", "status", "metrics")} for record in records],
        )

    code, said, whole = study(bench.folder / "whole")
    expect(code == 0 and len(whole) == 6, f"{code}: {said}")
    codes, ended = [], []
    with small_disk(bench, 40) as disk:
        for free in (200_000, 600_000, 3_000_000, None):
            if free is not None:
                room = shutil.disk_usage(disk).free
                (disk / "ballast").write_bytes(bytes(room - free))
            code, said, found = study(disk / "study")
            codes.append(code)
            ended.append(len(found))
            expect(code in (0, 2) and all(record in whole for record in found), f"{code}: {said}; {found}")
            (disk / "ballast").unlink(missing_ok=True)
    expect(codes == [2, 2, 2, 0] and found == whole, f"exit codes {codes}, {ended} runs ended")
    return f"exit codes {codes}; {ended} of 6 runs had ended; in the end the numbers of the unbroken study"


def one_index_twice(bench: Bench) -> str:
    run = bench.start(bench.folder / "twice", processes=3, indices=(0, 1, 1))
    begun = time.monotonic()
    endings = [end(child, timeout=3 * PEER_TIMEOUT) for child in run]
    seconds = time.monotonic() - begun
    expect(
        all(code == 2 and "two processes have --process-id=1" in said for code, said in endings), f"{endings}"
    )
    return f"exit codes 2, 2 and 2 after {seconds:.1f} s: {endings[0][1]}"


def library_cut(bench: Bench) -> str:
    """Cuts the compiled convolutions in the cache at many lengths; each process makes them anew."""
    cache = bench.folder / "native-cache"
    code = "from ganjax.models.layers import native; print(native.why_not())"

    def start() -> str:
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        expect(done.returncode == 0, f"exit code {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    if (reason := start()) != "None":
        raise Skip(reason)
    [library] = cache.rglob("*.so")
    whole = library.read_bytes()
    lengths = (0, 4096, len(whole) // 2, len(whole) - 1)
    for length in lengths:
        library.write_bytes(whole[:length])
        expect(
            start() == "None" and library.read_bytes() == whole, f"cut at {length} bytes it was not mended"
        )
    return f"cut at {', '.join(map(str, lengths))} of {len(whole)} bytes: made anew each time"


def run_as_nobody(bench: Bench) -> str:
    """A user whom the system does not know, without HOME, as `docker run --user` makes it."""
    place = bench.folder / "nobody"
    place.mkdir()
    without = " ".join(f"-u {name}" for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"))
    inside = f"unshare --user --map-user=4321 --map-group=4321 env {without} TMPDIR={place}".split()
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        raise Skip("this system gives no user other numbers")
    tiny = (
        "data.resolution=8",
        "gen.width=8",
        "dis.width=8",
        "train.steps=4",
        "log.every_steps=2",
        "monitor.samples=0",
    )
    command = ["train", "--config=configs/quickstart.py", f"--workdir={place / 'run'}"]
    command = [sys.executable, "-m", "ganjax", *command, *(f"--config.{option}" for option in tiny)]
    done = subprocess.run([*inside, *command], cwd=ROOT, capture_output=True, text=True, timeout=400)
    expect(done.returncode == 0 and "Traceback" not in done.stderr, f"{done.returncode}: {done.stderr}")
    caches = sorted(path.name for path in (place / "ganjax-4321").iterdir())
    expect("native" in caches and "programs" in caches and not (ROOT / "~").exists(), f"caches: {caches}")
    return f"exit code 0; its caches, {' and '.join(caches)}, are in a temporary folder of its own"


def prepare_on_a_full_disk(bench: Bench) -> str:
    from PIL import Image

    pictures = bench.folder / "pictures"
    pictures.mkdir()
    for i in range(200):
        noise = random.Random(i).randbytes(64 * 64 * 3)
        Image.frombytes("RGB", (64, 64), noise).save(pictures / f"{i}.png")

    def prepare(disk: Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "ganjax", "data", "prepare", str(pictures), f"--out={disk / 'set'}"]
        child = subprocess.Popen(
            [*command, "--resolution=64"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return end(child)

    told = []
    for megabytes in (1.5, 3.5, 5.0):  # full among the chunks, among the shards, and after them
        with small_disk(bench, megabytes) as disk:
            code, said = prepare(disk)
            told.append(said)
            expect(code == 2 and "Could not write" in said, f"{megabytes} MB: {code}: {said}")
            subprocess.run(["mount", "-o", "remount,size=20M", str(disk)], check=True)
            expect((ending := prepare(disk))[0] == 0, f"it did not go on: {ending}")
    return f"exit code 2: {told[1]}"


FAULTS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "disk full": ("exit 2, says so; goes on once there is room", disk_full),
    "disk turns read-only": ("exit 2, says so", disk_read_only),
    "workdir vanishes": ("exit 2, says so; no new run, but a save in flight may end", workdir_vanished),
    "two runs on one workdir": ("the second: exit 2; the first goes on", two_runs),
    "checkpoint, a bit flipped": ("found, the one before is taken", checkpoint_flipped),
    "checkpoint truncated": ("passed over with a warning", lambda b: checkpoint_damaged(b, _truncated)),
    "checkpoint, empty file": ("passed over with a warning", lambda b: checkpoint_damaged(b, _empty_file)),
    "checkpoint, empty folder": (
        "passed over with a warning",
        lambda b: checkpoint_damaged(b, _empty_folder),
    ),
    "NaN at step k": ("exit 3, names step and network, state saved", not_finite),
    "peer 1 killed": ("process 0 ends with a message; both go on", lambda b: peer(b, 1, signal.SIGKILL)),
    "peer 0 killed": ("process 1 ends with a message; both go on", lambda b: peer(b, 0, signal.SIGKILL)),
    "peer 1 frozen": (f"process 0 ends, after some {PEER_TIMEOUT} s", lambda b: peer(b, 1, signal.SIGSTOP)),
    "peer 1 gets SIGTERM": ("both: one checkpoint, exit 0", lambda b: stop_one(b, signal.SIGTERM)),
    "peer 1 gets Ctrl-C": ("both: one checkpoint, exit 0", lambda b: stop_one(b, signal.SIGINT)),
    "terminal closes": ("one checkpoint, exit 0", terminal_closes),
    "study, disk full three times": ("exit 2 each; in the end the same numbers", study_disk_full),
    "clock jumps": ("nothing happens", clock_jumps),
    "one index given twice": ("all end with exit 2 and say so", one_index_twice),
    "native library cut": ("made anew", library_cut),
    "unknown user without HOME": ("trains", run_as_nobody),
    "prepare on a full disk": ("exit 2, says so; goes on once there is room", prepare_on_a_full_disk),
}


def main() -> int:
    """Goes through the faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="parts of their names, joined by commas")
    arguments = parser.parse_args()
    wanted = [part for part in arguments.only.split(",") if part]
    folder = Path(tempfile.mkdtemp(prefix="ganjax-faults-"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax-cache"))
    bench, broken = Bench(folder), 0
    for name, (promise, bring) in FAULTS.items():
        if wanted and not any(part in name for part in wanted):
            continue
        try:
            mark, happened = "as promised", bring(bench)
        except Skip as why:
            mark, happened = "not tried", str(why)
        except Broken as what:
            mark, happened, broken = "BROKEN", str(what), broken + 1
        print(f"{name}\n  promised: {promise}\n  {mark}:")
        print(textwrap.indent(textwrap.fill(happened.replace(str(folder), "…"), 110), "    "), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
