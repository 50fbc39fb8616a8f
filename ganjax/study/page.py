"""The page of a study: the variants that help, the certainty of that, and samples of the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.run.report import format as words
from ganjax.run.report import page

Record = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]
# variant → seed → metric → [(images, value)]
Curves = Mapping[str, Mapping[int, Mapping[str, Curve]]]

POINTS = 120  # of a curve
FEWEST = 5  # seeds, below which `ganjax.study.inference` gives no verdict
CLAIMS = {
    "confirmed": {"sign": "✓", "kind": "better"},
    "refuted": {"sign": "✗", "kind": "worse"},
    "no effect seen": {"sign": "=", "kind": "none"},
    "too few seeds": {"sign": "?", "kind": "few"},
}
MARKS = {
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "no difference seen": ("=", "none"),
    "too few seeds": ("?", "few"),
}


def write_study_page(
    path: Path,
    title: str,
    records: Iterable[Record],
    analysis: Mapping[str, Any],
    curves: Curves,
    grids: Mapping[str, bytes],
    *,
    planned: int | None = None,
    description: str = "",
    command: str = "",
    claims: Sequence[Any] = (),
    stopped: Sequence[str] = (),
) -> None:
    """Writes the page of a study, finished or not.

    Args:
      path: path of the HTML file.
      title: the study's name.
      records: records of the finished runs, as in `results.jsonl`.
      analysis: `Analysis.to_json()` of `ganjax.study.analysis`.
      curves: a metric over images for each run; runs and metrics may be missing.
      grids: a PNG of the median seed (`median_seed` in the analysis) for each variant that has one.
      planned: number of runs of the whole study; None means as many as are finished.
      description: the study's question, shown below the title.
      command: the command that makes or resumes the study.
      claims: `ganjax.study.claims.Claim`s, the expected and the found results.
      stopped: sentences about stopping at a spike of a loss.

    Raises:
      UserError: the page cannot be written.
    """
    rows = list(records)
    planned = max(planned or 0, len(rows))
    html = page.render(
        "study",
        title=title,
        data=_data(analysis, curves),
        description=description,
        command=command,
        done=len(rows),
        planned=planned,
        total_seconds=sum(float(row.get("seconds") or 0.0) for row in rows),
        metrics=analysis["metrics"],
        base=analysis["base"],
        findings=_findings(analysis),
        tables={metric["name"]: _table(analysis, metric["name"]) for metric in analysis["metrics"]},
        groups=_groups(analysis),
        limits=_limits(analysis),
        grids=_grids(analysis, grids, rows),
        verdict_names=(names := sorted({name for row in rows for name in row.get("verdicts") or ()})),
        health=_health(analysis, rows, names),
        failures=[_failure(row) for row in rows if row["status"] != "completed"],
        curves=any(curves.values()),
        claims=[{"of": claim, "mark": {"text": claim.verdict, **CLAIMS[claim.verdict]}} for claim in claims],
        stopped=[line.replace("`", "") for line in stopped],
        words=words,
    )
    page.write(path, html)


def _data(analysis: Mapping[str, Any], curves: Curves) -> dict[str, Any]:
    variants = [
        {
            "name": variant["name"],
            "group": variant["group"],
            "base": variant["base"],
            "comparisons": variant["comparisons"],
            "spreads": variant["metrics"],
        }
        for variant in analysis["variants"]
    ]
    metrics = [
        {**metric, "curves": {v["name"]: _bands(curves.get(v["name"], {}), metric["name"]) for v in variants}}
        for metric in analysis["metrics"]
    ]
    return {"base": analysis["base"], "metrics": metrics, "variants": variants}


def _bands(runs: Mapping[int, Mapping[str, Curve]], metric: str) -> dict[str, Any] | None:
    """Puts all runs of a variant on one axis of images: the median, the middle half and each seed."""
    series = {
        seed: np.array(
            sorted((x, y) for x, y in of[metric] if y is not None and math.isfinite(y)), np.float64
        )
        for seed, of in sorted(runs.items())
        if metric in of
    }
    series = {seed: points for seed, points in series.items() if len(points)}
    if not series:
        return None
    axis = np.unique(np.concatenate([points[:, 0] for points in series.values()]))
    if len(axis) > POINTS:
        axis = axis[np.linspace(0, len(axis) - 1, POINTS).round().astype(int)]
    lines = np.array(
        [np.interp(axis, points[:, 0], points[:, 1], left=np.nan, right=np.nan) for points in series.values()]
    )
    known = ~np.all(np.isnan(lines), axis=0)
    axis, lines = axis[known], lines[:, known]
    low, middle, high = np.nanquantile(lines, [0.25, 0.5, 0.75], axis=0)
    return {
        "images": _rounded(axis),
        "low": _rounded(low),
        "middle": _rounded(middle),
        "high": _rounded(high),
        "seeds": list(series),
        "lines": [_rounded(line) for line in lines],
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    """Rounds values to five digits, more than a screen shows; NaN becomes None."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def _mark(verdict: str) -> dict[str, str]:
    sign, kind = MARKS[verdict]
    return {"text": verdict, "sign": sign, "kind": kind}


def _findings(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the variants of each verdict in the primary metric."""
    primary = analysis["metrics"][0]["name"]
    found: dict[str, list[str]] = {verdict: [] for verdict in MARKS}
    for variant in analysis["variants"]:
        if primary in variant["comparisons"]:
            found[variant["comparisons"][primary]["verdict"]].append(variant["name"])
    return [{"mark": _mark(verdict), "names": names} for verdict, names in found.items() if names]


def _groups(analysis: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(v["group"] for v in analysis["variants"] if not v["base"] and v["group"]))


def _table(analysis: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """Returns the rows of one metric's table: variants, and a heading where the group changes."""
    rows: list[dict[str, Any]] = []
    group = None
    for variant in analysis["variants"]:
        if not variant["base"] and variant["group"] != group:
            group = variant["group"]
            if group:
                rows.append({"heading": group})
        rows.append(_row(variant, metric))
    return rows


def _row(variant: Mapping[str, Any], metric: str) -> dict[str, Any]:
    of, found = variant["metrics"][metric], variant["comparisons"].get(metric)
    row = {
        "name": variant["name"],
        "base": variant["base"],
        "differences": _differences(variant["differences"]),
        "seeds": str(of["n"]) + (f" of {variant['runs']}" if of["n"] != variant["runs"] else ""),
        "mean": words.number(of["mean"]),
        "interval": words.between(of["interval"]),
        "median": words.number(of["median"]),
        "failed": _share(variant["diverged"] + variant["failed"], variant["runs"]),
        "collapsed": _share(variant["collapsed"], variant["runs"]),
        "cost": words.NONE if variant["cost"] is None else f"{variant['cost']:.2f}×",
        "mark": None,
    }
    if found:
        chance = found["improvement"]
        row |= {
            "mark": _mark(found["verdict"]),
            "difference": words.signed(found["difference"]),
            "difference_interval": words.between(found["interval"], words.signed),
            "improvement": words.NONE if chance is None else f"{chance:.0%}",
            "p": words.probability(found["p_corrected"]),
        }
    return row


def _differences(differences: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (option, the base's value, the variant's value)."""
    return [(key, words.option(was), words.option(now)) for key, (was, now) in differences.items()]


def _share(part: int, of: int) -> str:
    return f"{part} of {of}" if of else words.NONE


def _limits(analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the differences that so many seeds can show in the primary metric."""
    primary = analysis["metrics"][0]["name"]
    found = [v["comparisons"][primary] for v in analysis["variants"] if primary in v["comparisons"]]
    sizes = sorted(c["detectable"] for c in found if c["detectable"] is not None and c["pairs"] >= FEWEST)
    if not sizes:
        return None
    low, high = words.number(sizes[0], 2), words.number(sizes[-1], 2)
    return {
        "size": low if low == high else f"{low} to {high}",
        "comparisons": analysis["comparisons"],
        "within": analysis["corrected_within"],
        "t": any(c["test"] == "t" for c in found),
    }


def _grids(
    analysis: Mapping[str, Any], grids: Mapping[str, bytes], rows: Sequence[Record]
) -> list[dict[str, Any]]:
    primary = analysis["metrics"][0]["name"]
    values = {(row["variant"], row["seed"]): (row.get("metrics") or {}).get(primary) for row in rows}
    most = min(page.PICTURE_BYTES, page.PICTURES_BYTES // max(len(grids), 1))
    return [
        {
            "name": variant["name"],
            "seed": variant["median_seed"],
            "value": words.number(values.get((variant["name"], variant["median_seed"]))),
            "source": page.picture(grids[variant["name"]], side=480, most=most),
        }
        for variant in analysis["variants"]
        if variant["name"] in grids
    ]


def _health(
    analysis: Mapping[str, Any], rows: Sequence[Record], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the monitor's findings and the runs' costs, for each variant."""
    return [
        {
            "name": variant["name"],
            "counts": [
                sum(name in (row.get("verdicts") or ()) for row in rows if row["variant"] == variant["name"])
                for name in names
            ],
            "runs": variant["runs"],
            "failed": _share(variant["diverged"] + variant["failed"], variant["runs"]),
            "failed_interval": _percent(variant["failure_interval"]),
            "collapsed": _share(variant["collapsed"], variant["runs"]),
            "collapsed_interval": _percent(variant["collapse_interval"]),
            "seconds": words.duration(variant["seconds"]),
            "cost": words.NONE if variant["cost"] is None else f"{variant['cost']:.2f}×",
        }
        for variant in analysis["variants"]
    ]


def _percent(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _failure(row: Record) -> dict[str, Any]:
    return {
        "name": row["variant"],
        "seed": row["seed"],
        "status": row["status"],
        "steps": words.count(row.get("steps") or 0),
        "reason": row.get("reason") or "no reason was given",
    }
