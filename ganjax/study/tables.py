"""The results of a study as a Markdown table and as `results.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ganjax.run.report.format import between, number, probability, signed
from ganjax.runtime.files import csv_text
from ganjax.study.analysis import Analysis, Comparison, Spread, Variant
from ganjax.study.inference import FEWEST

COLUMNS = ("variant", "group", "seed", "base", "status", "reason", "steps", "images", "seconds", "collapsed")


def describe(analysis: Analysis) -> str:
    """Returns the study as Markdown.

    It has a table of the primary metric, the limits of so many seeds, and the other metrics.
    """
    primary = analysis.metrics[0]
    lines = [
        f"Primary metric: `{_cell(primary['name'])}`, {primary['better']} is better. Means over seeds, 95 % intervals; "
        f"differences from `{_cell(analysis.base)}` on the same seeds.",
        "",
        "| Variant | Seeds | Mean | Median | Difference | In base SD, + is better | Beats base | p (Holm) | Verdict | "
        "Failed | Collapsed | Cost |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    group = None
    for variant in analysis.variants:
        if not variant.base and variant.group != group:
            group = variant.group
            lines += [f"| **{_cell(group)}** |" + " |" * 11] if group else []
        lines.append(_row(variant, analysis.primary))
    lines += ["", *_limits(analysis)]
    if len(analysis.metrics) > 1:
        lines += ["", *_others(analysis)]
    return "\n".join(lines) + "\n"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _cell(text: str) -> str:
    """Returns the text as one line that cannot end its cell or begin markup of its own."""
    plain = " ".join(str(text).split())
    for mark in ("\\", "|", "`", "*", "_", "<", "["):
        plain = plain.replace(mark, "&lt;" if mark == "<" else "\\" + mark)
    return plain


def _row(variant: Variant, metric: str) -> str:
    of: Spread = variant.metrics[metric]
    found: Comparison | None = variant.comparisons.get(metric)
    cells = [
        _cell(variant.name) + (" (base)" if variant.base and variant.name != "base" else ""),
        str(of.n) + (f" of {variant.runs}" if of.n != variant.runs else ""),
        _joined(number(of.mean), between(of.interval)),
        number(of.median),
    ]
    if found is None:
        cells += ["", "", "", "", ""]
    else:
        cells += [
            _joined(signed(found.difference), between(found.interval, signed)),
            _joined(signed(found.effect), between(found.effect_interval, signed)),
            "–" if found.improvement is None else f"{found.improvement:.0%}",
            probability(found.p_corrected),
            found.verdict if found.verdict not in ("better", "worse") else f"**{found.verdict}**",
        ]
    failures = variant.diverged + variant.failed
    cells += [
        f"{failures} of {variant.runs}",
        f"{variant.collapsed} of {variant.runs}",
        "–" if variant.cost is None else f"{variant.cost:.2f}×",
    ]
    return "| " + " | ".join(cells) + " |"


def _limits(analysis: Analysis) -> list[str]:
    """Returns sentences about the differences that so many seeds can show."""
    found = [c for v in analysis.variants if (c := v.comparisons.get(analysis.primary))]
    seen = [c.detectable for c in found if c.detectable is not None and c.pairs >= FEWEST]
    if not seen:
        return [f"No variant has {FEWEST} seeds beside the base yet: nothing can be told."]
    low, high = number(min(seen), 2), number(max(seen), 2)
    size = low if low == high else f"{low} to {high}"
    family = "group" if analysis.corrected_within == "group" else "study"
    correction = (
        f"up to {analysis.comparisons} comparisons in a group"
        if family == "group"
        else (f"{analysis.comparisons} comparison{'s' * (analysis.comparisons != 1)}")
    )
    text = (
        f"With these seeds, and corrected for {correction}, a difference of {size} standard deviations of the base is "
        "found four times out of five; smaller ones mostly stay unseen."
    )
    if any(c.test == "t" for c in found):
        text += " With so few seeds the p-values are those of a t-test, which takes differences to be about normal."
    return [text]


def _others(analysis: Analysis) -> list[str]:
    names = [metric["name"] for metric in analysis.metrics[1:]]
    heads = " | ".join(
        f"{_cell(metric['name'])} ({'↑' if metric['better'] == 'higher' else '↓'})"
        for metric in analysis.metrics[1:]
    )
    lines = [
        "Other metrics, each corrected by itself:",
        "",
        f"| Variant | {heads} |",
        "|---|" + "---|" * len(names),
    ]
    for variant in analysis.variants:
        cells = []
        for name in names:
            of, found = variant.metrics[name], variant.comparisons.get(name)
            clear = found is not None and found.verdict in ("better", "worse")
            mark = f", **{found.verdict}**" if found and clear else ""
            cells.append(_joined(number(of.mean), between(of.interval)) + mark)
        lines.append(f"| {_cell(variant.name)} | " + " | ".join(cells) + " |")
    return lines


def to_csv(records: Iterable[Mapping[str, Any]], metrics: Sequence[Mapping[str, str]]) -> str:
    """Returns one line a run: variant, end, metrics, `verdicts` joined by `; `, `differences` as JSON.

    A text that a spreadsheet would take for a formula begins with an apostrophe.

    Args:
      records: records as for `analyse`.
      metrics: their names become columns, after which come all others that any record has.
    """
    rows = list(records)
    names = list(
        dict.fromkeys([m["name"] for m in metrics] + [n for row in rows for n in row.get("metrics") or {}])
    )
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow([*COLUMNS, *map(csv_text, names), "verdicts", "differences"])
    for row in rows:
        values = row.get("metrics") or {}
        table.writerow(
            [
                *(_value(row.get(column)) for column in COLUMNS),
                *(_value(values.get(name)) for name in names),
                csv_text("; ".join(row.get("verdicts") or ())),
                json.dumps(row.get("differences") or {}, sort_keys=True),
            ]
        )
    return file.getvalue()


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return csv_text(value)
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
