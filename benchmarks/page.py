"""How long the page of a long run takes to load: size, and seconds by the clock in headless Chromium.

    python benchmarks/page.py --lines=20000

The run is that of tests/pages.py, with 30 grids of 300 pixels. A load is from navigation to the browser's load event,
and to the first screen with all its plots drawn; each of them in a browser of its own, so that nothing is cached.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ganjax.run.report.run_page import write_run_page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import pages

# The plots that the window shows are drawn: others wait until they are scrolled to.
DRAWN = """[...plots].every(([id]) => {
  const box = document.getElementById(id).getBoundingClientRect();
  return box.top > innerHeight || box.bottom < 0 || !box.height || document.querySelector(`#${id} .main-svg`);
})"""
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def load(playwright: Any, browser: str, path: Path, size: tuple[int, int]) -> tuple[float, float]:
    """Seconds to the load event, and to the first screen with its plots."""
    opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
    page = opened.new_page(viewport={"width": size[0], "height": size[1]})
    start = time.perf_counter()
    page.goto(path.as_uri(), wait_until="load")
    loaded = time.perf_counter() - start
    while not page.evaluate(DRAWN):
        page.wait_for_timeout(10)
    drawn = time.perf_counter() - start
    opened.close()
    return loaded, drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=20_000, help="log lines of the run")
    parser.add_argument("--loads", type=int, default=5, help="of each width")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = pages.made_up_run(Path(folder) / "run", arguments.lines)
        start = time.perf_counter()
        path = write_run_page(run)
        seconds = time.perf_counter() - start
        print(
            f"{arguments.lines:,} log lines: {path.stat().st_size / 1e6:.2f} MB, written in {seconds:.1f} s"
        )
        for width, size in SIZES.items():
            times = [load(playwright, arguments.browser, path, size) for _ in range(arguments.loads)]
            for name, values in zip(
                ("load event", "first screen drawn"), zip(*times, strict=True), strict=True
            ):
                middle = statistics.median(values)
                print(f"{width}, {name}: {middle:.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
