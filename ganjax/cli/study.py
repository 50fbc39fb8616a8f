"""The commands `ganjax ablate` and `ganjax report`: their options, and their functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from ganjax.runtime.errors import UserError

EXAMPLES = {
    "ablate": "ganjax ablate --config=ten_lessons:grid --workdir=runs/ten_lessons",
    "report": "ganjax report --workdir=runs/quickstart",
}


def add_ablate(ablate: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax ablate`."""
    ablate.add_argument(
        "--config",
        metavar="NAME|FILE[:ARG]",
        required=True,
        help="a study of `ganjax recipes`, or a file with get_study",
    )
    ablate.add_argument("--workdir", type=Path, help="folder of the study")
    ablate.add_argument("--dry-run", action="store_true", help="list the runs and what they take, and stop")
    ablate.add_argument("--json", action="store_true", help="with --dry-run: one JSON object")
    ablate.add_argument(
        "--executor", default="local", help="local, or ray for a Ray cluster (default: local)"
    )
    ablate.add_argument("--devices", type=int, default=0, help="devices to use (default: 0 takes all)")
    ablate.add_argument(
        "--per-device",
        type=int,
        default=0,
        help="runs side by side on a device (default: 0 tries what is fastest)",
    )
    ablate.add_argument("--retry-failed", action="store_true", help="try runs again that failed before")
    ablate.add_argument(
        "--shard", type=shard, default=(0, 1), metavar="I/N", help="only a part, for an array of jobs"
    )


def shard(text: str) -> tuple[int, int]:
    """Reads `"2/8"` as (2, 8)."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise UserError(f"--shard takes I/N with I from 0 to N - 1, and got {text!r}.")
    return int(number), int(of)


def add_report(report: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax report`."""
    what = report.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="folder of the run")
    what.add_argument("--compare", type=Path, nargs="+", metavar="RUN", help="folders of two runs or more")
    report.add_argument("--out", type=Path, help="HTML file (default: WORKDIR/report.html, or compare.html)")


def run_ablate(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax ablate`."""
    if overrides:
        raise UserError("ablate takes its configs from the study; --config.… belongs to train.")
    from ganjax.study import ablate

    if arguments.dry_run:
        print(ablate.dry_run(arguments.config, as_json=arguments.json))
        return 0
    if arguments.workdir is None:
        raise UserError(
            f"ablate needs a folder for the study: --workdir=DIR, for example\n  {EXAMPLES['ablate']}"
        )
    options = ablate.Options(
        arguments.executor, arguments.per_device, arguments.shard, arguments.devices, arguments.retry_failed
    )
    ablate.ablate(arguments.config, arguments.workdir, options)
    return 0


def run_report(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax report`."""
    if overrides:
        raise UserError("report takes its config from the run; --config.… belongs to train.")
    from ganjax.run.report import run_page

    if arguments.workdir:
        print(run_page.write_run_page(arguments.workdir, arguments.out))
        return 0
    if len(arguments.compare) < 2:
        raise UserError("report --compare takes the folders of two runs or more, and got one.")
    print(run_page.write_compare_page(arguments.compare, arguments.out or Path("compare.html")))
    return 0
