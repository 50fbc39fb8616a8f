"""The recipes and studies that come with the package: their files by name, and what their docstrings say of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ganjax.config.names import PACKAGE
from ganjax.runtime.errors import UserError, nearest
from ganjax.runtime.files import write_atomically

# What a file must have → where the package keeps such files.
FOLDERS = {"get_config": PACKAGE / "config" / "recipes", "get_study": PACKAGE / "study" / "recipes"}


def shipped(function: str) -> dict[str, Path]:
    """Returns name → file of the package's recipes (`get_config`) or studies (`get_study`), in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDERS[function].glob("[!_]*.py"))}


def find(name: str) -> Path:
    """Returns the file of a recipe or study of the package.

    Raises:
      UserError: there is none of that name.
    """
    known = {name: path for function in FOLDERS for name, path in shipped(function).items()}
    if name not in known:
        raise UserError(
            f"ganjax has no recipe or study {name!r}.{nearest(name, known)} `ganjax recipes` lists them."
        )
    return known[name]


def summary(path: Path) -> tuple[str, str]:
    """Returns what a recipe is, and what was measured of it, in the words of its docstring; each may be empty."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    measured = [paragraph for paragraph in paragraphs if paragraph.startswith(("Measured", "Not measured"))]
    return paragraphs[0], " ".join(measured)


def write_copy(name: str, out: Path) -> None:
    """Writes the recipe or study `name` of the package to the new file `out`, whose name its commands then have.

    Raises:
      UserError: there is no such recipe, `out` is there already, does not end in .py, or cannot be written.
    """
    text = find(name).read_text(encoding="utf-8")
    if out.suffix != ".py":
        raise UserError(
            f"A recipe is a Python file: give a name ending in .py, for example {out.with_suffix('.py')}."
        )
    if out.exists():
        raise UserError(
            f"{out} is there already, and nothing is overwritten: give another name, or remove it."
        )
    text = re.sub(rf"--config={name}(?=[\s:])", lambda _: f"--config={out}", text)
    write_atomically(out, text.encode("utf-8"), "the recipe")
