"""The common parts of all pages: the skeleton, its look and its plots.

A page is one HTML file. It asks nothing of the network, and its content security policy forbids it to. All text from
users' files is escaped (Jinja2 in HTML and JSON, `plain` of page.js in plots).

The plots are plotly's, whose package carries its JavaScript (4.8 MB, most of a page). Bokeh's is 1 MB, but it draws on
a canvas: a screen reader cannot enter it, a test cannot read it, and a change from light to dark has to rebuild it.
"""

from __future__ import annotations

import base64
import datetime
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganjax.run.report import format as words
from ganjax.runtime.files import write_atomically

# The scripts of each kind of page, in order.
SCRIPTS = {
    "study": ("page", "study"),
    "run": ("page", "curves", "run"),
    "compare": ("page", "curves", "compare"),
}
PICTURE_SIDE = 640  # pixels, of a picture in a page
PICTURE_BYTES = 600_000
PICTURES_BYTES = 3_000_000  # of all pictures of a page together


@functools.cache
def _environment() -> Any:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ganjax.run.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["words"] = words
    return made


@functools.cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def render(kind: str, *, title: str, data: Mapping[str, Any], **context: Any) -> str:
    """Makes one self-contained page, and returns its HTML.

    Args:
      kind: a key of `SCRIPTS`: the template, and the scripts that draw from `data`.
      title: title of the page, any text.
      data: JSON values for the scripts; no NaN.
      context: values that the template names.
    """
    from markupsafe import Markup

    return str(
        _environment()
        .get_template(f"{kind}.html")
        .render(
            title=title,
            data=data,
            style=Markup(_asset("page.css")),
            plotly=Markup(_plotly()),
            scripts=Markup("".join(_asset(f"{name}.js") for name in SCRIPTS[kind])),
            written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            **context,
        )
    )


def write(path: Path, html: str) -> None:
    """Writes a page, whole or not at all.

    Raises:
      UserError: the page cannot be written.
    """
    write_atomically(path, html.encode("utf-8"), "a page")


def picture(png: bytes, *, side: int = PICTURE_SIDE, most: int = PICTURE_BYTES) -> str:
    """Makes a `data:` URI of a picture, of at most about `most` bytes. A larger PNG is made smaller, and lossy.

    Args:
      png: a PNG, JPEG or WebP file.
      side: pixels of the longer side at most.
      most: size limit in bytes.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as opened:
        if max(opened.size) <= side and len(png) <= most:
            return _uri(f"image/{(opened.format or 'PNG').lower()}", png)
        image = opened.convert("RGB")
    data = b""
    for _ in range(8):
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, format="WEBP", quality=82)
        data = file.getvalue()
        if len(data) <= most:
            break
        side = round(side / 1.4)
    return _uri("image/webp", data)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
