"""The pages in a real browser: at three widths, light and dark, without errors or requests, controls at work."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest

from ganjax.report import page, words
from ganjax.report.study_page import write_study_page

WIDTHS = {"desktop": (1280, 900), "tablet": (768, 1024), "phone": (390, 844)}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here; on Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A page in the browser, with all that went wrong."""

    def __init__(self, browser: Any, path: Path, width: str, theme: str) -> None:
        w, h = WIDTHS[width]
        self.context = browser.new_context(viewport={"width": w, "height": h}, color_scheme=theme)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(path.as_uri())

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("data:", "file:")) or request.url.endswith((".js", ".css", ".png")):
            self.wrong.append(f"request: {request.url[:100]}")

    def see_all(self) -> None:
        """Scrolls down, so that every plot is drawn."""
        height = self.page.evaluate("document.body.scrollHeight")
        for top in range(0, height, 700):
            self.page.evaluate(f"window.scrollTo({{top: {top}, behavior: 'instant'}})")
            self.page.wait_for_timeout(40)
        self.page.wait_for_function(
            "[...plots].every(([id, plot]) => plot.seen && document.querySelector(`#${id} .main-svg`))"
        )

    def check(self) -> None:
        assert not self.wrong, self.wrong
        overflow = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"the page is {overflow} px wider than the screen"

    def traces(self, plot: str) -> list[dict[str, Any]]:
        found = self.page.evaluate(f"$('{plot}').data.map((t) => ({{name: t.name, n: t.x.length, y: t.y}}))")
        return list(found)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "report.html"
    write_study_page(path, f"Ten lessons {pages.NASTY}", **pages.made_up_study())
    return path


def unsafe_text(html: str) -> list[str]:
    """What of the nasty text came into the page as markup."""
    return re.findall(r"<script>document\.title|<img src=x", html)


def test_text_from_files_is_escaped_and_the_page_small(study_page: Path) -> None:
    html = study_page.read_text()
    assert not unsafe_text(html) and study_page.stat().st_size < 10e6
    assert "70 of 82 runs are done" in html and "diverged" in html and "median seed" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html.split("<script>")[0])


def test_pictures_are_made_to_fit() -> None:
    small = page.picture(pages.grid_png(0, side=64))
    assert small.startswith("data:image/png;base64,")
    large = page.picture(pages.grid_png(0, side=900), most=60_000)
    assert large.startswith("data:image/webp;base64,") and len(large) < 60_000 * 4 / 3 + 100


def test_a_study_without_a_single_run_has_a_page(tmp_path: Path) -> None:
    from ganjax.study.statistics import analyse

    path = tmp_path / "report.html"
    analysis = analyse([], pages.METRICS, "base").to_json()
    write_study_page(path, "nothing yet", [], analysis, {}, {}, planned=10)
    assert "0 of 10 runs are done" in path.read_text() and "No variant has runs" in path.read_text()


@needs_browser
@pytest.mark.parametrize(
    ("width", "theme"),
    [("desktop", "light"), ("desktop", "dark"), ("tablet", "light"), ("phone", "light"), ("phone", "dark")],
)
def test_study_page_in_a_browser(browser: Any, study_page: Path, width: str, theme: str) -> None:
    with Visit(browser, study_page, width, theme) as visit:
        visit.see_all()
        assert visit.page.title().startswith("Ten lessons </script>")
        ink = visit.page.evaluate("getComputedStyle(document.body).color")
        assert (ink == "rgb(231, 233, 235)") == (theme == "dark")
        visit.check()


@needs_browser
def test_controls_of_the_study_page(browser: Any, study_page: Path) -> None:
    with Visit(browser, study_page, "desktop", "light") as visit:
        visit.see_all()
        title = "$('forest').layout.xaxis.title.text"
        assert visit.page.evaluate(title) == "difference in standard deviations of the base, better →"
        assert visit.page.locator("table:visible").first.locator("tbody tr").count() == 11
        visit.page.select_option("#unit", "raw")
        visit.page.select_option("#metric", "1")
        assert visit.page.evaluate(title) == "difference in kl, better →"
        left, right = visit.page.evaluate("$('forest').layout.xaxis.range")
        assert left > right  # lower is better, and better is to the right
        assert "kl" in visit.page.locator(".table:visible p").inner_text()

        assert {trace["name"] for trace in visit.traces("curves")} == {"base", "G ×½", "G ×2"}
        visit.page.select_option("#group", "5 learning rate")
        assert {trace["name"] for trace in visit.traces("curves")} == {"base", "lr ×4", "lr ×½"}
        visit.page.select_option("#spread", "seeds")
        assert len(visit.traces("curves")) == 30
        visit.page.check("#log")
        assert visit.page.evaluate("$('curves').layout.yaxis.type") == "log"

        visit.page.click("#theme")
        visit.page.click("#theme")
        assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert visit.page.evaluate("$('curves').layout.font.color") == "#e7e9eb"
        visit.check()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (0.0, "0.00"),
        (None, "–"),
        (1.234e-5, "1.23e-05"),
        (99.99, "100"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (75, "1 min 15 s"), (7260, "2 h 1 min"), (259_200, "3 d"), (None, "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text
