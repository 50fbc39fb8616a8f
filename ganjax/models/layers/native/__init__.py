"""C++ kernels for operations at which XLA is slow on CPU, compiled on the machine that runs them.

XLA's convolutions reach a part of what a CPU can do, their kernel gradients a quarter to a half (docs/performance.md).
`convolution.cc` holds replacements, called through XLA's foreign function interface. They are compiled when they are
first needed, with the machine's own C++ compiler and for its own instructions (some seconds), and kept in
`~/.cache/ganjax/native`, a folder that only its user may write. A file that is not whole or not that user's is not
loaded, but made anew; where the folder itself is another's, nothing is kept. Without a compiler, or with
`GANJAX_NATIVE=off`, XLA's convolutions are used: the same results to rounding, slower. A run's `environment.json` and
page say which it has.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from ganjax.runtime import allocator as machine
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import cache_dir, only_mine, replace_file

SOURCE = Path(__file__).with_name("convolution.cc")
TARGETS = {
    "ganjax_forward": "GanjaxForward",
    "ganjax_forward_half": "GanjaxForwardHalf",
    "ganjax_kernel_gradient": "GanjaxKernelGradient",
    "ganjax_kernel_gradient_half": "GanjaxKernelGradientHalf",
    "ganjax_smooth": "GanjaxSmooth",
}
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-w")
OFF, MISSING = "as GANJAX_NATIVE asks", "slower than native ones, which are missing"
COMPILE_SECONDS = 300  # after which a compiler is taken to hang
_portable = contextvars.ContextVar("portable", default=False)
_building = threading.Lock()


class _Missing(Exception):
    """Error that says why there are no native kernels here."""


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Restricts what is traced inside it to XLA's own operations: for programs that leave this machine."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def in_use() -> bool:
    """Returns True if what is traced now may call the native kernels. Compiles them where that is still to be done."""
    return not _portable.get() and jax.default_backend() == "cpu" and why_not() is None


def describe(used: bool) -> str:
    """Returns, for `environment.json`, which convolutions a run has here. Nothing is compiled where none are `used`."""
    if not used:
        return "none"
    if jax.default_backend() != "cpu":
        return "XLA's"
    reason = why_not()
    if reason is None:
        return "native"
    return f"XLA's, {reason}" if reason == OFF else f"XLA's, {MISSING}: {reason}"


def begin() -> None:
    """Starts to compile the kernels in the background where JAX can only mean the CPU.

    Meanwhile imports and data take their time.

    Starts no backend of JAX: its number of devices may not be decided yet.
    """
    if _off() or not only_cpu():
        return

    def build() -> None:
        with contextlib.suppress(_Missing, UserError, OSError, subprocess.SubprocessError):  # `why_not` tells
            _library()

    threading.Thread(target=build, name="native convolutions").start()


def only_cpu() -> bool:
    """Returns True if JAX can only mean the CPU, by what is installed and asked for. Starts no backend."""
    return machine.only_cpu(jax.config.values["jax_platforms"])


def _off() -> bool:
    return os.environ.get("GANJAX_NATIVE", "").lower() in ("off", "0", "no", "false")


@functools.cache
def why_not() -> str | None:
    """Returns None where the native kernels are ready, else the reason, for a person to read."""
    if _off():
        return OFF
    try:
        library = _library()
        for target, symbol in TARGETS.items():
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    except (_Missing, UserError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None


def _library() -> ctypes.CDLL:
    """Returns the compiled library, from the cache where it is there, whole, and this user's alone."""
    with _building:
        return _loaded()


@functools.cache
def _loaded() -> ctypes.CDLL:
    compiler = next(
        (
            found
            for name in (os.environ.get("CXX"), "c++", "g++", "clang++")
            if name and (found := shutil.which(name))
        ),
        None,
    )
    if compiler is None:
        raise _Missing("no C++ compiler; on Debian: apt-get install g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS)
    native = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"
    parts = [SOURCE.read_text(), version.stdout, jax.__version__, native, *FLAGS, _processor()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
    cache = cache_dir("native")
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        if cache.lstat().st_uid == os.geteuid():
            cache.chmod(0o700)
    private = only_mine(cache)
    # The name ends in the checksum of the content: one that was cut would end the process with SIGBUS.
    for kept in cache.glob(f"convolution-{key}-*.so") if private else ():
        if only_mine(kept) and kept.stem.endswith(hashlib.sha256(kept.read_bytes()).hexdigest()):
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="ganjax-") as folder:
        made = Path(folder, "convolution.so")
        _compile([compiler, *FLAGS, native], made)
        content = made.read_bytes()
        kept = cache / f"convolution-{key}-{hashlib.sha256(content).hexdigest()}.so"
        if private:
            with contextlib.suppress(OSError):  # a full disk: it is compiled again the next time
                replace_file(kept, content)
                kept.chmod(0o600)
                return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(made))


def _compile(command: Sequence[str], to: Path) -> None:
    finished = subprocess.run(
        [*command, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(to)],
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
    )
    if finished.returncode:
        first = next(
            (line for line in finished.stderr.splitlines() if "error" in line), finished.stderr[:200]
        )
        raise _Missing(f"{command[0]} could not compile them: {first.strip()}")


def _processor() -> str:
    """Returns what the compiled code depends on: a cache in a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
