"""The pages in a real browser: at three widths, light and dark, without errors or requests, controls at work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from browser import WIDTHS, needs_browser

from ganjax.run.callbacks.page import FIRST_SECONDS, LEAST_SECONDS, Page
from ganjax.run.report import format as words
from ganjax.run.report import page, run_data
from ganjax.run.report.run_page import write_compare_page, write_run_page
from ganjax.runtime.errors import UserError
from ganjax.study.page import write_study_page


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
        """Scrolls from plot to plot, each of which is drawn once it is in view."""
        for plot in self.page.evaluate("[...plots.keys()]"):
            self.page.evaluate(f"$('{plot}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
            self.until(f"plots.get('{plot}').seen && document.querySelector('#{plot} .main-svg')")

    def until(self, condition: str) -> None:
        """Waits up to 10 s. (Playwright's own wait evaluates a string, which the page's policy forbids.)"""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not within 10 s: {condition}")

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
    from ganjax.study.analysis import analyse

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
        (-1.234e-5, "−1.23e-05"),
        (123.4, "123"),
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


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20,000 log lines, with its page."""
    folder = pages.made_up_run(tmp_path_factory.mktemp("runs") / "long", 20_000)
    write_run_page(folder)
    return folder


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not done, its last line torn, with its page."""
    folder = pages.made_up_run(tmp_path_factory.mktemp("runs") / "going on", done=False)
    write_run_page(folder)
    return folder


def test_run_page_says_how_it_stands(going_on: Path) -> None:
    html = (going_on / "report.html").read_text()
    assert not unsafe_text(html)
    text = " ".join(re.sub("<[^>]*>", " ", html.split("<main")[1].split("</main>")[0]).split())
    assert "running, or killed" in text and "3 000 of 6 000" in text
    assert "Time left 2 min 30 s" in text  # 3,000 steps of .05 s
    assert (
        "gen.optimizer.learning_rate peak learning rate of G 0.0005 0.0002" in text
    )  # differs from the default
    assert "mode collapse steps 1 210 to 1 790. Lesson 5, learning rate" in text
    assert text.index("gen.optimizer.learning_rate") < text.index("All 9 options")


def test_long_run_stays_small_and_keeps_its_spikes(long_run: Path) -> None:
    assert (long_run / "report.html").stat().st_size < 10e6
    rows = run_data.read_rows(long_run / "metrics.jsonl")
    series = run_data.series_of(rows)["loss/gen"]
    values = [row["loss/gen"] for row in rows]
    assert len(series["x"]) <= run_data.MOST_POINTS and series["x"][-1] == rows[-1]["step"]
    assert max(series["y"]) == pytest.approx(max(values), rel=1e-4)
    assert min(series["y"]) == pytest.approx(min(values), rel=1e-4)
    assert None in run_data.series_of(rows)["loss/dis"]["y"]  # a loss that was not finite leaves a gap


def test_a_run_without_log_lines_has_a_page_and_a_folder_without_a_run_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 10}, "data": {"name": "x<y"}}))
    assert "No log lines yet" in write_run_page(tmp_path).read_text()
    with pytest.raises(UserError, match=r"holds no run: its config\.json"):
        write_run_page(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no run"):
        write_compare_page([tmp_path, tmp_path / "nothing"], tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()


def test_page_of_a_running_run_keeps_to_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [0.0], list[str]()

    def slow(folder: Path) -> None:
        now[0] += 5

    monkeypatch.setattr("ganjax.run.callbacks.page.write_run_page", slow)
    live = Page(tmp_path, 10, tell=told.append, clock=lambda: now[0])
    assert not live.write()
    now[0] += FIRST_SECONDS
    assert live.write()
    now[0] += 499  # 5 s are a hundredth of 500 s
    assert not live.write() and live.write(last=True)
    now[0] += 501
    assert live.write() and not Page(tmp_path, 10, enabled=False).write(last=True)

    monkeypatch.setattr("ganjax.run.callbacks.page.write_run_page", lambda folder: None)
    quick = Page(tmp_path, 10, tell=told.append, clock=lambda: now[0])
    for seconds, due in ((FIRST_SECONDS, True), (LEAST_SECONDS - 1, False), (1, True)):
        now[0] += seconds
        assert quick.write() == due

    def broken(folder: Path) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("ganjax.run.callbacks.page.write_run_page", broken)
    assert not live.write(last=True) and not live.write(last=True)
    assert len(told) == 1 and "the disk is full" in told[0]


@needs_browser
@pytest.mark.parametrize(
    ("width", "theme"), [("desktop", "light"), ("tablet", "dark"), ("phone", "light"), ("phone", "dark")]
)
def test_run_page_in_a_browser(browser: Any, going_on: Path, width: str, theme: str) -> None:
    with Visit(browser, going_on / "report.html", width, theme) as visit:
        visit.see_all()
        unnamed = (
            "[...document.querySelectorAll('img, [role=img]')].filter((e) => !(e.alt || e.ariaLabel)).length"
        )
        assert visit.page.evaluate(unnamed) == 0
        visit.check()


@needs_browser
def test_long_run_loads_in_seconds(browser: Any, long_run: Path) -> None:
    """Takes the processor's time of the page's process: 1 to 2 s here, 2.1 s beside another test on a slow machine."""
    with Visit(browser, long_run / "report.html", "desktop", "light") as visit:
        session = visit.context.new_cdp_session(visit.page)
        session.send("Performance.enable")
        found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        visit.see_all()
        visit.check()
    assert 0 < found["ProcessTime"] < 4, found


@needs_browser
def test_controls_of_the_run_page(browser: Any, going_on: Path) -> None:
    with Visit(browser, going_on / "report.html", "desktop", "light") as visit:
        visit.see_all()
        page, losses = visit.page, "plot-losses"
        newest = page.get_attribute("#grid", "src")
        page.locator("#time").fill("0")
        assert page.get_attribute("#grid", "src") != newest and "step 100" in page.inner_text("#when")
        assert page.get_attribute("#grid", "alt") == "Grid of samples at step 100"
        page.click("#play")
        visit.until("Number($('time').value) > 0")
        page.click("#play")

        def spread() -> float:
            return float(np.std([y for y in visit.traces(losses)[-1]["y"] if y is not None]))

        rough = spread()
        page.locator("#smooth").fill("0.9")
        assert spread() < rough / 2 and len(visit.traces(losses)) == 4  # two lines, and two pale ones
        page.check(f".log[data-plot={losses}]")
        assert page.evaluate(f"$('{losses}').layout.yaxis.type") == "log"
        page.select_option("#axis", "hours")
        hours = page.evaluate(f"Math.max(...$('{losses}').data[1].x)")
        assert hours == pytest.approx(3000 * 0.05 / 3600, rel=1e-3)
        shapes = f"$('{losses}').layout.shapes.length"
        assert page.evaluate(shapes) == 1
        assert "Lesson 5" in page.evaluate(f"$('{losses}').layout.annotations[0].hovertext")
        page.uncheck("#verdicts")
        assert page.evaluate(shapes) == 0
        visit.check()


@needs_browser
def test_comparison_begins_with_the_differences(browser: Any, tmp_path: Path) -> None:
    runs = [pages.made_up_run(tmp_path / name / "seed_0", lines) for name, lines in (("a", 60), ("b", 80))]
    config = json.loads((runs[1] / "config.json").read_text())
    config["gen"]["optimizer"]["learning_rate"] = 0.002
    (runs[1] / "config.json").write_text(json.dumps(config))
    with Visit(browser, write_compare_page(runs, tmp_path / "compare.html"), "phone", "dark") as visit:
        visit.see_all()
        section = visit.page.locator("main section").first
        assert section.locator("h2").inner_text() == "What differs"
        assert "gen.optimizer.learning_rate" in section.inner_text() and "0.002" in section.inner_text()
        assert "data.path" not in section.inner_text()
        assert [trace["name"] for trace in visit.traces("plot-losses")] == ["a/seed_0", "b/seed_0"]
        before = visit.traces("plot-losses")
        visit.page.select_option(".series[data-plot=plot-losses]", "loss/gen")
        assert visit.traces("plot-losses") != before
        visit.check()
