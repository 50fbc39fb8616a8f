"""Writes the tables of docs/peers.md from docs/peers.toml: python docs/make_peers.py

Everything between the two marker lines is replaced; the rest of the page is written by hand. `--check` changes
nothing and fails if the page is out of date.
"""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE, DATA = FOLDER / "peers.md", FOLDER / "peers.toml"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
LINE = re.compile(r"([\w./-]+):(\d+)")  # a line of a file
Peers = dict[str, dict[str, str]]
Row = dict[str, Any]


def load() -> tuple[Peers, list[Row]]:
    """Returns the repositories by their key, and the rows, each of which has a cell for every repository.

    Raises:
      SystemExit: a cell is missing, or says nothing of where it was read.
    """
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    rows: list[Row] = data.pop("row")
    for row, key in itertools.product(rows, data):
        cell = row.get(key, {})
        if not cell.get("value") or not (cell.get("where") or cell.get("absent")):
            sys.exit(f"{DATA}: {row['name']}: {key} needs a value, and `where` or `absent`.")
    return data, rows


def render() -> str:
    """Returns the generated part: the tables by group, what was read, and where each cell was."""
    peers, rows = load()
    names = [peer["name"] for peer in peers.values()]
    lines: list[str] = []
    for group, members in itertools.groupby(rows, key=lambda row: row["group"]):
        lines += [f"## {group}", "", *_head("", *names)]
        lines += [_line(f"**{row['name']}**", *(row[key]["value"] for key in peers)) for row in members]
        lines += [""]
    lines += ["## What was read", "", *_head("", "repository", "commit", "newest commit of", "read on")]
    for peer in peers.values():
        if "repository" in peer:
            address = f"[{peer['repository']}](https://github.com/{peer['repository']})"
            lines += [_line(peer["name"], address, f"`{peer['commit'][:7]}`", peer["date"], peer["read"])]
        else:
            lines += [_line(peer["name"], "this one", "", "", peer["read"])]
    lines += ["", "## Where each cell was read", ""]
    for key, peer in peers.items():
        lines += [f"### In {peer['name']}", "", *_head("row", "where")]
        lines += [_line(row["name"], "; ".join(_places(row[key], peer))) for row in rows]
        lines += [""]
    return "\n".join(lines)


def _places(cell: dict[str, Any], peer: dict[str, str]) -> Iterator[str]:
    for where in cell.get("where", []):
        found = LINE.fullmatch(where)
        if found:
            file = f"https://github.com/{peer['repository']}/blob/{peer['commit']}/{found[1]}"
            yield f"[{where}]({file}{'?plain=1' if found[1].endswith('.md') else ''}#L{found[2]})"
        else:
            yield where
    if "absent" in cell:
        words = ", ".join(f"`{word}`" for word in cell["absent"])
        yield f"no Python file has {words}" if "repository" in peer else f"no option's key has {words}"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def updated(page: str) -> str:
    """Returns `page` with its generated part made anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        sys.exit(f"{PAGE} is out of date: run python docs/make_peers.py")


if __name__ == "__main__":
    main()
