"""A faster allocator is chosen where there is one and nowhere else, really comes, and gives compilers' memory back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from paths import ROOT

from ganjax.runtime import allocator as machine
from ganjax.training import parallel

VARIABLES = ("GLIBC_TUNABLES", "GANJAX_MALLOC", "JAX_PLATFORMS", "LD_PRELOAD", "LD_LIBRARY_PATH")
Starts = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Starts:
    """A machine with tcmalloc and huge pages for who asks; (arguments, environment) of each new start, which does not
    happen."""
    starts: Starts = []
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / machine.TCMALLOC[0]).touch()
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(machine, "FOLDERS", (str(tmp_path / "missing"), str(tmp_path)))
    monkeypatch.setattr(machine, "_glibc", lambda: (2, 35))
    monkeypatch.setattr(machine, "only_cpu", lambda platforms: platforms in (None, "cpu"))
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(os, "execve", lambda _, arguments, env: starts.append((arguments, env)))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return starts


def test_starts_anew_with_tcmalloc(started: Starts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.start_with_allocator()
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    machine.start_with_allocator()
    (arguments, first), (_, second) = started
    assert arguments == [sys.executable, *sys.orig_argv[1:]]
    assert first["LD_PRELOAD"] == str(tmp_path / machine.TCMALLOC[0]) and first["PATH"] == os.environ["PATH"]
    assert first["GANJAX_MALLOC"] == "tcmalloc" and "GLIBC_TUNABLES" not in first
    assert second["LD_PRELOAD"] == f"{first['LD_PRELOAD']} libother.so"


def test_starts_anew_with_huge_pages_where_there_is_no_tcmalloc(
    started: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "FOLDERS", ())
    machine.start_with_allocator()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    machine.start_with_allocator()
    (_, first), (_, second) = started
    assert first["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and "LD_PRELOAD" not in first
    assert second["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    "name, value",
    [
        ("GANJAX_MALLOC", "off"),
        # It has started anew: no endless loop, even where the library does not load.
        ("GANJAX_MALLOC", "tcmalloc"),
        ("LD_PRELOAD", "/opt/libjemalloc.so.2"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0"),
        ("JAX_PLATFORMS", "cuda"),
    ],
)
def test_leaves_alone_what_is_set(
    started: Starts, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    machine.start_with_allocator()
    assert not started


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_leaves_alone_a_system_that_gives_huge_pages_to_all_or_none(
    started: Starts, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    monkeypatch.setattr(machine, "FOLDERS", ())
    machine.HUGE_PAGES.unlink() if setting is None else machine.HUGE_PAGES.write_text(setting)
    machine.start_with_allocator()
    assert not started
    assert machine._gets_huge_pages() == (setting is not None and "[always]" in setting)


@pytest.mark.parametrize("version", [(2, 34), (0, 0)])
def test_leaves_alone_a_library_that_cannot(
    started: Starts, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(machine, "FOLDERS", ())
    monkeypatch.setattr(machine, "_glibc", lambda: version)
    machine.start_with_allocator()
    assert not started


def test_a_start_that_fails_is_no_failure(started: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "execve", refuse)
    machine.start_with_allocator()


REAL = """
import ctypes, os, re
from ganjax.runtime import allocator as machine
{change}
machine.start_with_allocator()
release = machine.releaser()
release and release()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 64 * 2**20
ctypes.memset(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))), 1, size)
huge = sum(map(int, re.findall(r"AnonHugePages: +(\\d+) kB", open("/proc/self/smaps").read())))
print(os.getpid(), huge, release is not None, machine.allocator())
"""


def really(change: str = "", **environment: str) -> tuple[int, bool, str]:
    """kB of huge pages, whether memory can be released, and the allocator of a program that chooses one."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    child = subprocess.Popen(
        [sys.executable, "-c", REAL.format(change=change)],
        cwd=ROOT,
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, huge, releases, name = child.communicate(timeout=60)[0].strip().split(maxsplit=3)
    assert int(pid) == child.pid  # the same process, whoever watches it
    return int(huge), releases == "True", name


@pytest.mark.skipif(machine.tcmalloc() is None, reason="apt-get install libtcmalloc-minimal4")
def test_tcmalloc_really_comes() -> None:
    assert really()[1:] == (True, "tcmalloc")


@pytest.mark.skipif(not machine._gives_who_asks(), reason="nothing to ask for here")
def test_huge_pages_really_come() -> None:
    huge, releases, name = really("machine.tcmalloc = lambda: None")
    assert name == "glibc with huge pages" and huge > 32 * 1024 and releases
    huge, releases, name = really(GANJAX_MALLOC="off")
    assert name == "glibc" and huge < 32 * 1024 and not releases


def test_memory_goes_back_after_a_compilation_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[None] = []
    listeners: list[Callable[..., None]] = []
    heard: list[str] = []
    monkeypatch.setattr(machine, "releaser", lambda: lambda: released.append(None))
    monkeypatch.setattr(parallel.native, "only_cpu", lambda: True)
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    parallel._release_after_compiling.__wrapped__()
    monkeypatch.undo()
    (after,) = listeners
    after(parallel.COMPILED, 1.0)
    assert len(released) == 1
    after(parallel.COMPILED, 0.001)
    after("/another/event", 1.0)
    assert len(released) == 1
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: heard.append(event))
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert parallel.COMPILED in heard  # JAX still calls it that
