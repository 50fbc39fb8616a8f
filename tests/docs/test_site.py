"""The documentation as a site: it builds without a warning, and reads without a network, on a phone too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, WIDTHS, needs_browser
from paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},  # mkdocs-material about its successor
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    return folder


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
    assert "From zero to a TPU" in (site / "launch.html").read_text()
    help_texts = (site / "commands.html").read_text()
    assert "Example: ganjax data prepare" in help_texts and "gen.optimizer.learning_rate = " in help_texts
    api = (site / "api.html").read_text()
    assert "ganjax.run.api.Run" in api and "truncation" in api
    assert (site / "examples" / "shallow.py").exists() and not list(site.glob("*.py"))


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_pages_read_offline(site: Path, browser: Any, width: str) -> None:
    assert BROWSER
    wrong: list[str] = []
    w, h = WIDTHS[width]
    theme = "dark" if width == "phone" else "light"
    context = browser.new_context(viewport={"width": w, "height": h}, color_scheme=theme)
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"{page.url} {message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url} {error}"))
    page.on(
        "request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url)
    )
    for path in sorted(set(site.glob("*.html")) - {site / "404.html"}):  # which is for servers
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth") > w:
            wrong.append(f"{path.name} is wider than the {width}")
        wrong += page.evaluate(
            "[...document.images].filter(image => !image.naturalWidth).map(image => 'no image ' + image.src)"
        )
    context.close()
    assert not wrong


@needs_browser
def test_the_search_finds_an_option_and_leads_there(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").press_sequentially("label smoothing")  # the page listens to keys
    page.click("li.md-search-result__item a")
    page.wait_for_url("**/techniques.html*")
    assert page.locator("h1").inner_text().startswith("Techniques")
    page.close()
