"""The commands `ganjax data prepare` and `ganjax data stats`: their options, and their functions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import expand

EXAMPLES = {
    "prepare": "ganjax data prepare PICTURES --out=data/mine --resolution=64",
    "stats": "ganjax data stats data/mine",
}


def add_plugin(command: argparse.ArgumentParser) -> None:
    """Adds the option of a command that takes losses, networks, data sets and metrics of one's own."""
    command.add_argument(
        "--plugin",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="registers losses, networks, data sets or metrics of your own; may be given again",
    )


def add_data(data: argparse.ArgumentParser) -> None:
    """Adds the two commands below `ganjax data`."""
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=text,
            description=f"Example: {EXAMPLES[name]}\n\n{text}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    prepare = action(
        "prepare",
        "Turn a folder or zip of pictures, subfolders being classes, into a data set of equal squares.",
    )
    prepare.add_argument(
        "source", type=Path, metavar="DIR|ZIP", help="the pictures: JPEG, PNG, WebP, GIF, BMP"
    )
    prepare.add_argument("--out", type=Path, required=True, help="folder to make; it appears when complete")
    prepare.add_argument("--resolution", type=int, default=64, help="pixels a side (default: 64)")
    prepare.add_argument(
        "--fit",
        default="crop",
        metavar="crop|pad",
        help="what is not square: keep its middle, or all of it on white (default: crop)",
    )
    prepare.add_argument("--workers", type=int, default=0, help="processes (default: 0, one a core)")
    stats = action("stats", "Show what a data set or folder holds, and what may be wrong with it.")
    stats.add_argument("data", metavar="PATH|NAME", help="prepared data, a folder, a zip, or a data.name")
    stats.add_argument("--split", default="train", help="of a data.name (default: train)")
    stats.add_argument("--json", action="store_true", help="one JSON object")
    add_plugin(stats)


def run_data(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax data …`."""
    if overrides:
        raise UserError("data takes no --config.…; those belong to train.")
    if arguments.action == "prepare":
        from ganjax.data.prepare import Options, prepare

        prepare(
            Options(
                source=expand(arguments.source),
                out=expand(arguments.out),
                resolution=arguments.resolution,
                fit=arguments.fit,
                workers=arguments.workers,
            )
        )
        return 0
    from ganjax.data import stats as data_stats

    found = data_stats.examine(arguments.data, split=arguments.split)
    print(json.dumps(found.to_json()) if arguments.json else data_stats.told(found))
    return 0
