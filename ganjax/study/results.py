"""Reads the findings of a study from the folders of its runs: records, curves and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganjax.evals.monitor import read_rows
from ganjax.runtime.files import write_atomically
from ganjax.study.config import RunSpec
from ganjax.study.plan import record_of

RESULTS = "results.jsonl"


def collect(runs: Sequence[RunSpec], workdir: Path) -> list[dict[str, Any]]:
    """Writes `results.jsonl` and returns its records: those of the runs that have ended, in the order of the study."""
    records = [record for run in runs if (record := record_of(run, workdir)) is not None]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(workdir / RESULTS, lines.encode(), "results")
    return records


def curves(
    records: Sequence[Mapping[str, Any]], metrics: Sequence[str], workdir: Path
) -> dict[str, dict[int, dict[str, list[tuple[int, float]]]]]:
    """Returns variant → seed → metric → [(images, value), …] over training."""
    found: dict[str, dict[int, dict[str, list[tuple[int, float]]]]] = {}
    for record in records:
        rows = read_rows(workdir / record["folder"] / "metrics.jsonl")
        lines = {
            name: [
                (int(row["images"]), float(row[f"eval/{name}"]))
                for row in rows
                if row.get(f"eval/{name}") is not None and row.get("images") is not None
            ]
            for name in metrics
        }
        found.setdefault(record["variant"], {})[record["seed"]] = lines
    return found


def picture(record: Mapping[str, Any], workdir: Path) -> Path | None:
    """Returns the last grid of samples of a run; None where it left none."""
    grids = sorted((workdir / record["folder"] / "samples").glob("step_*.png"))
    whole = [path for path in grids if not path.stem.endswith("_scales")]
    return whole[-1] if whole else None
