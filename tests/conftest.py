"""Settings all tests share, made before jax is imported, and the command line as a fixture.

What is set in the environment also reaches the child processes of tests; what is set through `jax.config` does not,
so `ganjax` runs there as it does for a user. GANJAX_TEST_PLATFORM=cuda|tpu runs the tests on that platform.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from browser import BROWSER
from paths import ROOT

PLATFORM = os.environ.get("GANJAX_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
# A thread pool as small as the machine can deadlock on collectives between CPU devices.
os.environ.setdefault("PJRT_NPROC", "16")
os.environ.setdefault("MPLBACKEND", "agg")

# One cache for the session: a child process that compiles what another compiled before starts in half the time.
CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ganjax-jax-cache-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402  only now

if PLATFORM == "cpu":
    jax.config.update("jax_num_cpu_devices", 4)  # a test takes what it needs: jax.devices()[:2]
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what `tests/slow_tests.txt` lists, which is made from measured times."""
    listed = (ROOT / "tests" / "slow_tests.txt").read_text().splitlines()
    slow = {line.partition("  #")[0] for line in listed if not line.startswith("#")}
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure() -> None:
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; for tests that are marked `browser.needs_browser`."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class RunCli(Protocol):
    def __call__(
        self,
        *args: str | Path,
        timeout: float = ...,
        cwd: str | Path = ...,
        env: Mapping[str, str] | None = ...,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`run_cli("train", "--config=…", timeout=120, cwd=…, env={…})`: ganjax in a child process.

    Returns the CompletedProcess with `returncode`, `stdout` and `stderr` (text). `env` adds to the environment. At
    the timeout (seconds) the child is killed and the test fails. Relative paths are the checkout's by default.
    """

    def run(
        *args: str | Path,
        timeout: float = 240,
        cwd: str | Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ganjax", *map(str, args)]
        return subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
