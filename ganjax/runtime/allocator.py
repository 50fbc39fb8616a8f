"""Finds out what the machine offers before JAX starts: whether it can only mean the CPU, and which allocator suits it.

XLA takes memory for the intermediate values of a step anew at each call. On CPU the allocator of the C library gives
it, and glibc maps and unmaps each time what is large: the first touch of each page of 4 kB costs a fault, a fifth of
MSG-DCGAN-64's step (docs/performance.md). tcmalloc keeps such blocks and finds them again; it is loaded before all
else where it is installed. Without it glibc from 2.35 on can ask for pages of 2 MB, where Linux gives these to who asks
("madvise", the default of most distributions): fewer faults. Both are chosen when a program starts, so it starts twice.
`GANJAX_MALLOC=off` leaves all as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")  # of gperftools
FOLDERS = (
    f"/usr/lib/{getattr(sys.implementation, '_multiarch', '')}",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"
TUNABLE = "glibc.malloc.hugetlb"
MARK = "GANJAX_MALLOC"  # `off`, or what a program that has started anew started with
M_MMAP_THRESHOLD = -3  # of mallopt(3), by its number in glibc's malloc.h
MAPPED_BYTES = 16 * 1024**2


def only_cpu(platforms: str | None) -> bool:
    """Returns True where JAX can only mean the CPU, by what is installed and by `platforms` (`JAX_PLATFORMS`)."""
    if platforms:
        return platforms == "cpu"
    return not (importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu"))


def memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def start_with_allocator() -> None:
    """Starts this program anew, as the same process, with a faster allocator or faster settings, if there are any.

    Call it before anything else: what has been imported is imported again, and what was printed is printed twice.
    """
    if sys.platform != "linux" or os.environ.get(MARK) or not sys.executable:
        return
    preloaded, tunables = os.environ.get("LD_PRELOAD", ""), os.environ.get("GLIBC_TUNABLES", "")
    if "malloc" in preloaded or TUNABLE in tunables or not only_cpu(os.environ.get("JAX_PLATFORMS")):
        return  # a user has chosen, or memory is not the host's
    library = tcmalloc()
    if library is not None:
        changes = {MARK: "tcmalloc", "LD_PRELOAD": " ".join(filter(None, [str(library), preloaded]))}
    elif _gives_who_asks():
        changes = {MARK: "huge pages", "GLIBC_TUNABLES": ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))}
    else:
        return
    with contextlib.suppress(OSError):  # a speed-up is no reason to fail
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **changes})


def allocator() -> str:
    """Names this process's allocator: `tcmalloc`, `jemalloc`, `glibc with huge pages`, `glibc` or `of the system`."""
    if sys.platform == "linux":
        loaded = ctypes.CDLL(None)
        if hasattr(loaded, "MallocExtension_ReleaseFreeMemory"):
            return "tcmalloc"
        if hasattr(loaded, "mallctl"):
            return "jemalloc"
        if _glibc() > (0, 0):
            return "glibc with huge pages" if _gets_huge_pages() else "glibc"
    return "of the system"


def releaser() -> Callable[[], Any] | None:
    """Returns a function that gives freed memory back to the system; None where that is left alone or not known.

    With huge pages glibc is also told to map blocks from `MAPPED_BYTES` on apart, and to unmap them at their end: in
    its heap they would leave holes that a few bytes keep open.
    """
    if os.environ.get(MARK, "").lower() == "off":
        return None
    found = allocator()
    if found == "tcmalloc":
        return ctypes.CDLL(None).MallocExtension_ReleaseFreeMemory
    if not found.startswith("glibc"):
        return None
    glibc = ctypes.CDLL(None)
    if found == "glibc with huge pages":
        glibc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    return lambda: glibc.malloc_trim(0)


def tcmalloc() -> Path | None:
    """Returns the path of the tcmalloc library where it is installed."""
    folders = (*os.environ.get("LD_LIBRARY_PATH", "").split(":"), f"{sys.prefix}/lib", *FOLDERS)
    files = (Path(folder, name) for folder in folders if folder for name in TCMALLOC)
    return next((file for file in files if file.exists() and not re.search(r"[\s:]", str(file))), None)


def _huge_pages() -> str:
    """Returns to whom Linux gives huge pages: `always`, `madvise`, `never`, or empty where there are none."""
    with contextlib.suppress(OSError):
        chosen = re.search(r"\[(\w+)\]", HUGE_PAGES.read_text())
        return chosen.group(1) if chosen else ""
    return ""


def _gives_who_asks() -> bool:
    """Returns True where glibc can ask for huge pages and Linux gives them only to those who ask."""
    return _huge_pages() == "madvise" and _glibc() >= (2, 35)


def _gets_huge_pages() -> bool:
    asked = re.search(rf"{re.escape(TUNABLE)}=[12]", os.environ.get("GLIBC_TUNABLES", ""))
    return _huge_pages() == "always" or bool(asked and _gives_who_asks())


def _glibc() -> tuple[int, int]:
    """Returns the version of glibc; (0, 0) with another C library."""
    with contextlib.suppress(ValueError, OSError):
        found = re.fullmatch(r"glibc (\d+)\.(\d+).*", os.confstr("CS_GNU_LIBC_VERSION") or "")
        if found:
            return int(found[1]), int(found[2])
    return 0, 0
