"""What mkdocs does besides: pages that live elsewhere become pages of the site.

On a forge the pages of docs/ link to each other and to `../launch/README.md`; here such a link leads to the page that
is made of that file. The commands and options have a page from the code that reads them.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"launch.md": "launch/README.md"}
COLUMNS = "84"  # of the help texts


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of `ELSEWHERE`, their links turned the other way round, and `commands.md`."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](../docs/", "](")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to a page of `ELSEWHERE` lead to where it is on the site."""
    for page, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown


def commands() -> str:
    """The help of every command, and all options of a config."""
    from ganjax.cli import main as cli
    from ganjax.cli.completion import parsers_in
    from ganjax.config import recipe as configs

    parts = ["# Commands and options", "What `ganjax COMMAND --help` and `ganjax train --help-config` print."]
    with mock.patch.dict(os.environ, {"COLUMNS": COLUMNS}):
        for parser in parsers_in(cli.make_parser()):
            parts += [f"## {parser.prog}", f"```text\n{parser.format_help().rstrip()}\n```"]
    return "\n\n".join([*parts, "## Options of a config", f"```text\n{configs.help_page().rstrip()}\n```\n"])
