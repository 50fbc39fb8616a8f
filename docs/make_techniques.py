"""Writes the tables of docs/techniques.md from the code: python docs/make_techniques.py

Everything between the two marker lines is replaced; the rest of the page is written by hand. `--check` changes
nothing and fails if the page is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ganjax.config.options import BY_KEY
from ganjax.config.rules import RULES
from ganjax.config.techniques import LESSONS, TECHNIQUES, Technique

PAGE = Path(__file__).resolve().parent / "techniques.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def render() -> str:
    """The generated part: a section per lesson, and the table of refusals."""
    lines: list[str] = []
    for number, title in LESSONS.items():
        lines += [f"## {number}. {title}", ""]
        for technique in TECHNIQUES:
            if technique.lesson == number:
                lines += [*_section(technique), ""]
    lines += ["## What is refused, and why", "", "| options | reason |", "|---|---|"]
    lines += [f"| {_keys(rule.keys)} | {rule.reason} |" for rule in RULES]
    return "\n".join(lines) + "\n"


def _section(technique: Technique) -> Iterator[str]:
    yield f"### {technique.name}"
    yield ""
    yield f"{technique.effect[0].upper()}{technique.effect[1:]}. Source: {technique.source}."
    yield ""
    yield f"Try it: `ganjax train --config=configs/technique.py:name={technique.name} --workdir=runs/{technique.name}`"
    yield ""
    yield "| option | default | takes | what it is |"
    yield "|---|---|---|---|"
    for key in technique.keys:
        option = BY_KEY[key]
        yield f"| `{key}` | `{option.default!r}` | {option.allowed()} | {option.help} |"
    refusals = [rule for rule in RULES if set(rule.keys) & set(technique.keys)]
    yield ""
    if not refusals:
        yield "Combines with everything."
    else:
        yield (
            "Refused together: "
            + "; ".join(f"{_keys(rule.keys)}" for rule in refusals)
            + " (see the end of the page)."
        )


def _keys(keys: tuple[str, ...]) -> str:
    return " with ".join(f"`{key}`" for key in keys)


def updated(page: str) -> str:
    """`page` with its generated part made anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


def main() -> None:
    page = PAGE.read_text()
    new = updated(page)
    if "--check" in sys.argv[1:] and new != page:
        sys.exit(f"{PAGE} is out of date: run python docs/make_techniques.py")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
