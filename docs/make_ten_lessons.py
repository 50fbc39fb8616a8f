"""Prints the table of docs/ten_lessons.md: python docs/make_ten_lessons.py STUDY [STUDY …], folders of the ten lessons.

A row for each variant; for each study the difference of its primary metric from the base, in standard deviations of the
base over seeds (positive is better), its 95 % interval, what was claimed and what was found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ganjax.run.report.format import between, signed
from ganjax.study.analysis import Analysis, analyse
from ganjax.study.claims import judge_claims


def read(folder: Path) -> tuple[str, Analysis, dict[str, str]]:
    """The study's title, what it found, and for each variant with an expectation the verdict on its claim."""
    study = json.loads((folder / "study.json").read_text())
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    metrics = [{"name": name, "better": better} for name, better in study["metrics"].items()]
    analysis = analyse(records, metrics, "base", correct_within="group")
    return study["title"], analysis, {c.variant: c.verdict for c in judge_claims(analysis, records)}


def cell(analysis: Analysis, claims: dict[str, str], variant: str) -> str:
    """What one study says of a variant."""
    of = next((v for v in analysis.variants if v.name == variant), None)
    found = None if of is None else of.comparisons.get(analysis.primary)
    if of is None or found is None or found.effect is None:
        return "–"
    verdict = claims.get(variant, found.verdict)
    mark = f"**{verdict}**" if found.verdict in ("better", "worse") else verdict
    collapsed = f"; {of.collapsed} of {of.runs} collapsed" if of.collapsed else ""
    return f"{signed(found.effect)} {between(found.effect_interval, signed)} {mark}{collapsed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    found = [read(folder) for folder in parser.parse_args().studies]
    heads = [f"{title.removeprefix('The ten lessons on ')}, `{a.primary}`" for title, a, _ in found]
    print(f"| Variant | {' | '.join(heads)} |\n|---|{'---|' * len(found)}")
    order = {v.name: v.group for _, a, _ in reversed(found) for v in a.variants if not v.base}
    groups = sorted(set(order.values()), key=lambda group: int(group.split()[0]))
    for group in groups:
        print(f"| **{group}** |{' |' * len(found)}")
        for variant in (name for name, of in order.items() if of == group):
            cells = [cell(analysis, claims, variant) for _, analysis, claims in found]
            print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
