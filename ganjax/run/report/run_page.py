"""The page of a run: samples over time, curves with the monitor's verdicts, its config, and its time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganjax.config.options import BY_KEY
from ganjax.evals.monitor import ADVICE
from ganjax.run.recovery import Remedy
from ganjax.run.report import format as words
from ganjax.run.report import page
from ganjax.run.report.run_data import RunData, Series, read_run, series_of

FRAMES = 24  # pictures of the slider over training time
FRAME_SIDE = 560  # pixels
MARKS = 40  # stretches of verdicts that are drawn


@dataclass(frozen=True)
class Panel:
    """A plot.

    Attributes:
      id, title, note: its key, its heading, and a remark on its content.
      prefixes: prefixes of the series that it takes.
      log: True if its axis is logarithmic at first.
    """

    id: str
    title: str
    note: str
    prefixes: tuple[str, ...]
    log: bool = False


SHARES = ("coverage", "diversity", "quality", "separation", "memorised", "ms_ssim")
PANELS = (
    Panel(
        "monitor",
        "The monitor's signals",
        "Mostly shares: coverage, diversity and quality of samples should come near 1.",
        (*(f"monitor/{name}" for name in SHARES), "dis/accuracy", "balance/"),
    ),
    Panel("losses", "Losses", "They have no target: see lesson 2.", ("loss/", "dis/", "gen/")),
    Panel(
        "logits",
        "What D says",
        "Mean logits of real, of unseen real (held out) and of fake images.",
        ("logit/", "monitor/real", "monitor/fake", "monitor/heldout"),
    ),
    Panel(
        "gradients",
        "Gradient norms",
        "They should neither vanish nor grow; of each scale where there are several.",
        ("grad_norm/", "monitor/gradient"),
        log=True,
    ),
    Panel(
        "updates",
        "Size of an update",
        "Change of the weights in a step, relative to them: about .001 is usual.",
        ("update_ratio/",),
        log=True,
    ),
    Panel("sigma", "Spectral norms σ", "Of the weights, before normalisation.", ("sigma/",)),
    Panel(
        "rates",
        "Learning rates and schedules",
        "As they were in force.",
        ("lr/", "schedule/", "noise/", "ada/", "augment/"),
        log=True,
    ),
    Panel("speed", "Throughput", "Images a second.", ("images_per_second",)),
    Panel("other", "Other", "What else was logged.", ("",)),
)
HIDDEN = ("dis/adversarial", "dis/penalty", "dis/sign_real", "gen/adversarial")  # until asked for
NO_CURVE = {"images", "seconds"}


def write_run_page(workdir: Path, out: Path | None = None) -> Path:
    """Writes the page of the run in `workdir`, finished or not.

    Args:
      workdir: folder of the run.
      out: the HTML file; `report.html` in the workdir by default.

    Raises:
      UserError: the folder has no run, or the page cannot be written.
    """
    run = read_run(workdir)
    path = out or workdir / "report.html"
    series = {name: of for name, of in series_of(run.rows).items() if name not in NO_CURVE}
    plots = plots_of(series)
    frames = _frames(run)
    html = page.render(
        "run",
        title=run.name,
        data={
            "series": series,
            "plots": plots,
            "clock": clock(run),
            "marks": marks(run),
            "running": run.reason is None,
            "frames": [{k: v for k, v in frame.items() if k != "scales" or v} for frame in frames],
        },
        run=run,
        state=state(run),
        facts=_facts(run),
        plots=plots,
        frames=frames,
        reals=_picture(run.folder / "samples" / "reals.png", page.PICTURE_BYTES),
        marks=marks(run),
        changes=[_option(key, default, value) for key, default, value in run.changes()],
        options=[(key, words.option(value)) for key, value in sorted(run.config.items())],
        environment=_environment(run),
        latest=[(name, words.number(run.last(name), 4)) for name in series],
        remedies=[_remedy(remedy) for remedy in run.remedies],
        words=words,
    )
    page.write(path, html)
    return path


def state(run: RunData) -> str:
    """Returns the state of the run, in words."""
    return run.reason or "running, or killed"


def plots_of(series: Iterable[str]) -> list[dict[str, Any]]:
    """Assigns series to plots: a plot for each metric, then each other series to the first plot that takes it."""
    left = sorted(series, key=_natural)
    metrics = [name for name in left if name.startswith("eval/")]
    panels = [
        Panel(
            f"metric-{i}", name.removeprefix("eval/"), "Measured on samples of the averaged weights.", (name,)
        )
        for i, name in enumerate(metrics)
    ]
    plots = []
    for panel in (*panels, *PANELS):
        chosen = [name for name in left if name.startswith(panel.prefixes)]
        if panel.id.startswith("metric-"):
            chosen = [name for name in left if name == panel.prefixes[0]]
        left = [name for name in left if name not in chosen]
        chosen.sort(
            key=lambda name: next(i for i, prefix in enumerate(panel.prefixes) if name.startswith(prefix))
        )
        if chosen:
            hidden = [name for name in chosen if name in HIDDEN]
            plots.append({**asdict(panel), "series": chosen, "hidden": hidden})
    return plots


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a key for sorting: `layer_2` before `layer_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def clock(run: RunData) -> Series:
    """Returns images and seconds over steps, for other axes."""
    rows = [{key: row.get(key) for key in ("step", "images", "seconds")} for row in run.rows]
    return series_of([row for row in rows if None not in row.values()], points=400)


def marks(run: RunData) -> list[dict[str, Any]]:
    """Returns the last `MARKS` stretches of verdicts that are not plain health, each with the lesson it points to."""
    found = []
    for stretch in run.stretches:
        names = [name for name in stretch.verdict.split(", ") if name in ADVICE]
        if names:
            fine = all(name in ("still learning", "harmless oscillation") for name in names)
            found.append(
                {
                    "first": stretch.first,
                    "last": stretch.last,
                    "verdict": stretch.verdict,
                    "lesson": "; ".join(dict.fromkeys(ADVICE[name][0] for name in names)),
                    "fine": fine,
                }
            )
    return found[-MARKS:]


def _facts(run: RunData) -> list[tuple[str, str]]:
    seconds, rate = run.last("seconds"), run.images_per_second()
    facts = [
        ("State", state(run)),
        ("Step", f"{words.count(run.step)} of {words.count(run.total_steps)}"),
        ("Images", words.count(run.last("images") or 0)),
        ("Time so far", words.duration(seconds)),
    ]
    if run.reason is None:
        facts.append(("Time left", words.duration(run.seconds_left())))
    facts.append(
        (
            "Images a second",
            words.NONE if rate is None else words.count(rate) if rate >= 100 else words.number(rate),
        )
    )
    return facts


def _frames(run: RunData) -> list[dict[str, Any]]:
    """Returns pictures over training time, as evenly spaced in time as possible.

    The first picture and the newest are among them.
    """
    count = len(run.grids)
    chosen = sorted(
        {round(i * (count - 1) / max(FRAMES - 1, 1)) for i in range(FRAMES)}
        if count > FRAMES
        else range(count)
    )
    most = min(page.PICTURE_BYTES, page.PICTURES_BYTES // max(2 * len(chosen), 1))
    frames = []
    for index in chosen:
        step, grid, scales = run.grids[index]
        source, rows = _picture(grid, most), _picture(scales, most) if scales else None
        if source:
            frames.append({"step": step, "source": source, "scales": rows})
    return frames


def _picture(path: Path, most: int) -> str | None:
    """Returns the picture as a `data:` URI, or None where the file is gone or torn."""
    try:
        return page.picture(path.read_bytes(), side=FRAME_SIDE, most=most)
    except Exception:  # what Pillow raises for damaged bytes is no closed list
        return None


def _option(key: str, default: Any, value: Any) -> dict[str, str]:
    known = BY_KEY.get(key)
    return {
        "key": key,
        "value": words.option(value),
        "default": words.option(default) if known else "an option this version does not know",
        "help": known.help if known else "",
    }


def _environment(run: RunData) -> list[tuple[str, str]]:
    found = run.environment
    rows = [
        (name, str(found[name]))
        for name in ("time", "host", "platform", "allocator", "convolutions")
        if found.get(name)
    ]
    devices = found.get("devices")
    if isinstance(devices, list) and devices:
        rows.append(
            ("devices", f"{len(devices)}: {', '.join(map(str, devices[:8]))}{' …' * (len(devices) > 8)}")
        )
    command = found.get("command")
    if isinstance(command, list):
        rows.append(("command", " ".join(map(str, command))))
    versions = found.get("versions")
    if isinstance(versions, dict):
        rows += [(str(name), str(version)) for name, version in versions.items() if version]
    return rows


def _remedy(remedy: Remedy) -> str:
    where = f"back to step {words.count(remedy.to_step)}" if remedy.to_step else "from scratch"
    return (
        f"At step {words.count(remedy.step)}, {remedy.verdict}: {where}, learning rates "
        f"× {remedy.rate_gen:g} (G) and {remedy.rate_dis:g} (D)"
    )


def write_compare_page(workdirs: Sequence[Path], out: Path) -> Path:
    """Writes a page that compares runs, beginning with the differences of their configs.

    Args:
      workdirs: folders of two runs or more.
      out: the HTML file.

    Raises:
      UserError: a folder without a run, or the page cannot be written.
    """
    runs = [read_run(folder) for folder in workdirs]
    names = _names(runs)
    series = [series_of(run.rows, points=120_000 // len(runs)) for run in runs]
    shared = [name for name in dict.fromkeys(n for of in series for n in of) if name not in NO_CURVE]
    html = page.render(
        "compare",
        title=" against ".join(names) if len(names) < 4 else f"{len(names)} runs",
        data={
            "runs": [
                {"name": name, "series": of, "clock": clock(run)}
                for name, run, of in zip(names, runs, series, strict=True)
            ],
            "plots": plots_of(shared),
        },
        names=names,
        differences=_config_differences(runs),
        facts=_facts_of(runs),
        plots=plots_of(shared),
        grids=[frames[-1] if (frames := _frames_newest(run)) else None for run in runs],
    )
    page.write(out, html)
    return out


def _names(runs: Sequence[RunData]) -> list[str]:
    """Returns the folders' names, with as much of the path as tells them apart."""
    paths = [run.folder.absolute() for run in runs]
    for length in range(1, 8):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{index}: {path}" for index, path in enumerate(paths, 1)]


def _config_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Returns (option, value in each run) of the options that are not the same in all; versions come last."""
    known = [run.environment.get("versions") for run in runs]
    versions = [{f"version of {k}": v for k, v in of.items()} if isinstance(of, dict) else {} for of in known]
    rows = []
    for tables in ([run.config for run in runs], versions):
        for key in sorted({key for table in tables for key in table}):
            values = [words.option(table[key]) if key in table else "not set" for table in tables]
            if len(set(values)) > 1:
                rows.append((key, values))
    return rows


def _facts_of(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Returns (fact, value in each run): the state of the runs, and their last metrics."""
    columns = [dict([*_facts(run), ("Verdict", run.verdict)]) for run in runs]
    measured = sorted({name for run in runs for row in run.rows for name in row if name.startswith("eval/")})
    measured += ["monitor/coverage", "monitor/diversity", "monitor/quality", "loss/dis", "loss/gen"]
    for column, run in zip(columns, runs, strict=True):
        column |= {name: words.number(run.last(name), 4) for name in measured}
    rows = [(key, [column.get(key, words.NONE) for column in columns]) for key in columns[0]]
    return [(key, values) for key, values in rows if any(value != words.NONE for value in values)]


def _frames_newest(run: RunData) -> list[dict[str, Any]]:
    """Returns the newest picture that can be read."""
    for step, grid, _ in reversed(run.grids[-3:]):
        if source := _picture(grid, page.PICTURE_BYTES):
            return [{"step": step, "source": source}]
    return []
