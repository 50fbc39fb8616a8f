"""What mkdocs does besides: pages that live elsewhere in the repository become pages of the site.

On a forge the pages of docs/ link to each other and to `../launch/README.md`; here such a link leads to the page that
is made of that file.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"launch.md": "launch/README.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of `ELSEWHERE`, their links turned the other way round."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](../docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to a page of `ELSEWHERE` lead to where it is on the site."""
    for page, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown
