"""The commands `ganjax recipes` and `ganjax new`: their options, and their functions."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ganjax.config.shipped import FOLDERS, find, shipped, summary, write_copy
from ganjax.runtime.errors import UserError

EXAMPLES = {
    "recipes": "ganjax recipes",
    "show": "ganjax recipes show quickstart",
    "new": "ganjax new my_recipe.py --from=own_images",
}
COMMANDS = {
    "get_config": "Recipes: ganjax train --config=NAME",
    "get_study": "Studies: ganjax ablate --config=NAME",
}
WIDTH = 100  # of the list


def add_recipes(recipes: argparse.ArgumentParser) -> None:
    """Adds the command below `ganjax recipes`."""
    actions = recipes.add_subparsers(dest="action", metavar="ACTION")
    text = "Print the file of a recipe or study."
    show = actions.add_parser(
        "show",
        help=text,
        description=f"Example: {EXAMPLES['show']}\n\n{text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    show.add_argument("name", metavar="NAME", help="as `ganjax recipes` lists it")


def add_new(new: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax new`."""
    new.add_argument("out", type=Path, metavar="FILE", help="the file to write; one that is there stays")
    new.add_argument(
        "--from", dest="name", default="quickstart", metavar="NAME", help="what to copy (default: quickstart)"
    )


def run_recipes(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax recipes` and `ganjax recipes show`."""
    _without_overrides(overrides)
    print(find(arguments.name).read_text(encoding="utf-8") if arguments.action else listing(), end="")
    return 0


def listing() -> str:
    """Returns the recipes and studies of the package: what each is, and what was measured of it."""
    lines = []
    for function in FOLDERS:
        lines += [COMMANDS[function], ""]
        for name, path in shipped(function).items():
            what, measured = summary(path)
            lines += [f"  {name:<16}{what}"]
            lines += [18 * " " + line for line in textwrap.wrap(measured, WIDTH - 18)]
        lines += [""]
    return "\n".join([*lines, f"One of your own: {EXAMPLES['new']}\n"])


def run_new(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax new`."""
    _without_overrides(overrides)
    write_copy(arguments.name, arguments.out)
    study = arguments.name in shipped("get_study")
    command = f"ganjax {'ablate' if study else 'train'} --config={arguments.out} --workdir=runs/{arguments.out.stem}"
    print(f"{arguments.out} is a copy of {arguments.name}. Edit it, then\n  {command}")
    return 0


def _without_overrides(overrides: list[tuple[str, str]]) -> None:
    if overrides:
        raise UserError("--config.… belongs to train.")
