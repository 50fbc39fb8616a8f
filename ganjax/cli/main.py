"""`ganjax COMMAND …`: reads the command line, and turns errors into one message and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganjax.cli.common import add_processes, join
from ganjax.cli.completion import Parser, add_completion
from ganjax.cli.data import EXAMPLES as DATA_EXAMPLES
from ganjax.cli.data import add_data, add_plugin, run_data
from ganjax.cli.model import EXAMPLES as MODEL_EXAMPLES
from ganjax.cli.model import (
    add_export,
    add_interpolate,
    add_sample,
    run_export,
    run_interpolate,
    run_sample,
)
from ganjax.cli.recipes import EXAMPLES as RECIPE_EXAMPLES
from ganjax.cli.recipes import add_new, add_recipes, run_new, run_recipes
from ganjax.cli.study import EXAMPLES as STUDY_EXAMPLES
from ganjax.cli.study import add_ablate, add_report, run_ablate, run_report
from ganjax.config import plugins
from ganjax.config import recipe as config
from ganjax.config.names import MEASURES
from ganjax.runtime import meeting, processes
from ganjax.runtime.errors import (
    DivergedError,
    PeerError,
    UserError,
    as_user_errors,
    machine_failure,
    printable,
)
from ganjax.runtime.version import __version__

OK, INTERRUPTED = 0, 130

EXAMPLES = {
    "train": "ganjax train --config=quickstart --workdir=runs/quickstart --config.seed=1",
    **MODEL_EXAMPLES,
    "ablate": STUDY_EXAMPLES["ablate"],
    "doctor": "ganjax doctor --workdir=runs/quickstart",
    "report": STUDY_EXAMPLES["report"],
    "evaluate": "ganjax evaluate --workdir=runs/quickstart --metrics=fid,kid,prdc,modes --samples=10000",
    "data": DATA_EXAMPLES["prepare"],
    "recipes": RECIPE_EXAMPLES["recipes"],
    "new": RECIPE_EXAMPLES["new"],
}
HELLO = """Train GANs in JAX and keep them stable; see and load the results.
First: ganjax train --config=quickstart --workdir=runs/quickstart    (a minute on a CPU, no network)
Then: ganjax recipes, ganjax --help, and ganjax COMMAND --help with an example of each command."""


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the commands and their options; `--config.KEY=VALUE` is read apart."""
    parser = Parser(
        prog="ganjax",
        description=f"Example: {EXAMPLES['train']}\n\nTrain GANs in JAX and keep them stable.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ganjax {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"Example: {EXAMPLES[name]}\n\n{text}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name not in ("report", "data", "recipes", "new"):
            add_plugin(added)
        return added

    train = command("train", "Train a recipe in a workdir, or go on with the run that is there.")
    add_train(train)
    sample = command("sample", "Write samples of a trained run to a PNG or an .npz file.")
    add_sample(sample)
    add_export(command("export", "Write the generator of a run to a file that needs no ganjax to load."))
    add_interpolate(command("interpolate", "Show the way from sample to sample as a film, or styles mixed."))
    judge = command("evaluate", "Judge a run, or images of any origin, against real ones.")
    add_evaluate(judge)
    for parallel in (train, sample, judge):
        add_processes(parallel)
    add_ablate(
        command("ablate", "Run a study, or go on with one: variants of a recipe over seeds, with intervals.")
    )
    doctor = command("doctor", "Say whether a run, finished or not, is healthy, and what to do if it is not.")
    doctor.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    doctor.add_argument("--json", action="store_true", help="one JSON object")
    add_report(command("report", "Write the page of a run, or one that compares runs: one HTML file each."))
    add_data(command("data", "Prepare pictures of your own for training, or show what a data set holds."))
    add_recipes(command("recipes", "List the recipes and studies that come with ganjax, or print one."))
    add_new(command("new", "Write a copy of a recipe or study to a file of your own, to edit."))
    return parser


def add_train(train: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax train`."""
    train.add_argument(
        "--config",
        metavar="NAME|FILE[:ARG]",
        help="a recipe of `ganjax recipes`, or your own; options follow as --config.KEY=VALUE (default: the config of "
        "the run in --workdir)",
    )
    train.add_argument("--workdir", type=Path, help="folder of the run")
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="show what the run costs and which options it changes, and stop",
    )
    train.add_argument(
        "--all", action="store_true", help="with --dry-run: every option and each network's costs"
    )
    train.add_argument("--json", action="store_true", help="with --dry-run: one JSON object")
    train.add_argument(
        "--accept-new-data", action="store_true", help="go on with a run whose data have changed"
    )
    train.add_argument("--help-config", action="store_true", help="list all options of a config")


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax evaluate`."""
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="folder of a run: judge samples of its checkpoint")
    what.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures, or an .npz of samples")
    evaluate.add_argument("--reference", metavar="NAME[:SPLIT]|DIR", help="with --images: the real ones")
    evaluate.add_argument(
        "--metrics",
        default="fid,kid,prdc",
        help=f"some of {', '.join(MEASURES)}, joined by commas (default: fid,kid,prdc)",
    )
    evaluate.add_argument("--samples", type=int, help="how many (default: 10000, or all images)")
    evaluate.add_argument(
        "--features", default="", help="feature network: a shipped classifier or an .npz (default: by data)"
    )
    evaluate.add_argument("--data", default="", metavar="DIR", help="the run's data, where they have moved")
    evaluate.add_argument("--seed", type=int, help="of the latents (default: the run's)")
    evaluate.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    evaluate.add_argument("--devices", type=int, default=0, help="devices to use (default: 0 chooses)")
    evaluate.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged or raw weights (default: ema)"
    )
    evaluate.add_argument(
        "--class-shares",
        choices=("data", "even"),
        default="",
        help="of a --workdir with labels: classes as frequent as in its data, or alike (default: the run's)",
    )
    evaluate.add_argument("--out", type=Path, help="JSON file (default: WORKDIR/evaluations/step_STEP.json)")
    evaluate.add_argument("--compare", type=Path, help="results of an earlier evaluation to compare with")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of the arguments.

    Raises:
      UserError: an override without a value.
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, given, value = argument.removeprefix("--config.").partition("=")
        if not given:
            following = next(waiting, None)
            if following is None or following.startswith("--"):
                raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
            value = following
        overrides.append((key, value))
    return rest, overrides


def run_train(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax train`."""
    if arguments.help_config:
        if arguments.config:
            config.load_recipe(arguments.config)  # what it registers is among the choices
        print(config.help_page())
        return OK
    if not arguments.config and not arguments.workdir:
        raise UserError(
            "train needs a recipe, --config=NAME or --config=FILE[:ARG], or the folder of a run to go on with, "
            f"--workdir=DIR; for example\n  {EXAMPLES['train']}"
        )
    resolved = config.resolve(arguments.config, overrides) if arguments.config else None
    if arguments.dry_run:
        from ganjax.run import dry_run

        shown = resolved or continued(arguments.workdir, overrides)
        print(dry_run.told(shown, as_json=arguments.json, everything=arguments.all))
        return OK
    if arguments.workdir is None:
        raise UserError(
            f"train needs a folder for the run: --workdir=DIR, for example\n  {EXAMPLES['train']}"
        )
    join(arguments, stops=True)
    if processes.is_main():  # a sign of life before JAX, which takes a second or two to start
        print(f"ganjax {__version__}: {arguments.config or 'the run'} in {arguments.workdir}", flush=True)
    if resolved is None:  # the main process reads the workdir: the others may not see it
        found = continued(arguments.workdir, overrides) if processes.is_main() else None
        resolved = config.unflatten(processes.from_main(found and config.flatten(found)))
    from ganjax.models.layers import native

    if resolved.model.name != "mlp":
        native.begin()
    from ganjax.run.train import train

    train(resolved, arguments.workdir, accept_new_data=arguments.accept_new_data)
    return OK


def continued(workdir: Path, overrides: list[tuple[str, str]]) -> Any:
    """Returns the config of the run in `workdir` with `overrides`, its data looked for where they lie now."""
    try:
        found = config.from_workdir(workdir)
    except UserError as error:
        raise UserError(f"{error} A new run needs a recipe: --config=FILE[:ARG].") from None
    from ganjax.run.data_facts import place_of

    config.set_option(found, "data.path", place_of(workdir, found))
    for key, text in overrides:
        config.set_option(found, key, text)
    config.check(found)
    return found


def run_evaluate(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax evaluate`."""
    if overrides:
        raise UserError("evaluate takes its config from the run; --config.… belongs to train.")
    if (arguments.images is None) != (arguments.reference is None):
        raise UserError("evaluate takes either --workdir, or --images together with --reference.")
    if arguments.images and arguments.data:
        raise UserError("--data is for the data of a --workdir; --images has --reference.")
    join(arguments)
    if not (arguments.workdir or processes.is_main()):
        return OK  # nothing to share
    from ganjax.run import evaluate as judging

    names = [name for name in arguments.metrics.split(",") if name]
    before = judging.read_results(arguments.compare) if arguments.compare else None
    out = arguments.out
    if arguments.workdir:
        results = judging.evaluate_run(
            arguments.workdir,
            names,
            n=10_000 if arguments.samples is None else arguments.samples,
            seed=arguments.seed,
            weights=arguments.weights,
            step=arguments.step,
            devices=arguments.devices,
            features=arguments.features,
            data=arguments.data,
            class_shares=arguments.class_shares,
        )
        if not processes.is_main():
            return OK
        out = out or arguments.workdir / "evaluations" / f"step_{results[0].protocol.step:08d}.json"
    else:
        results = judging.evaluate_images(
            arguments.images,
            arguments.reference,
            names,
            n=arguments.samples or 0,
            seed=arguments.seed or 0,
            features=arguments.features,
        )
    if out:
        judging.write_results(out, results)
    changes = None if before is None else judging.compare(results, before)
    if arguments.json:
        print(json.dumps({"results": [result.to_json() for result in results], "changes": changes}))
    else:
        print(judging.table(results, changes))
    return OK


def run_doctor(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax doctor`."""
    if overrides:
        raise UserError("doctor takes its config from the run; --config.… belongs to train.")
    from ganjax.run import doctor

    findings = doctor.examine(arguments.workdir)
    print(json.dumps(findings.to_json()) if arguments.json else doctor.told(findings))
    return OK


COMMANDS = {
    "train": run_train,
    "sample": run_sample,
    "export": run_export,
    "interpolate": run_interpolate,
    "evaluate": run_evaluate,
    "ablate": run_ablate,
    "doctor": run_doctor,
    "report": run_report,
    "data": run_data,
    "recipes": run_recipes,
    "new": run_new,
}


def forbid_network() -> None:
    """Forbids this process connections beyond this machine and its own processes, where GANJAX_OFFLINE is set."""
    if os.environ.get("GANJAX_OFFLINE", "") in ("", "0"):
        return

    here = {"localhost", "::1", "0.0.0.0", "::", "", socket.gethostname()}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            host = arguments[1][0] if isinstance(arguments[1], tuple) else ""
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]  # a name is asked for over the network too
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host not in {*here, *meeting.ADDRESSES} and not host.startswith("127."):
            raise UserError(f"GANJAX_OFFLINE is set, and something tried to connect to {host}.")

    sys.addaudithook(refuse)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command: 0 for success, 2 for bad input, 3 for a diverged run, 4 for a lost process of the run, 130 for
    a second Ctrl-C."""
    forbid_network()
    for stream in (sys.stdout, sys.stderr):  # what the locale cannot say, as in names of files, is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
        if not rest:
            print(HELLO)
            return OK
        arguments = make_parser().parse_args(rest)
        with as_user_errors():
            if hasattr(arguments, "plugin"):
                plugins.load_packages()
                for path in arguments.plugin:
                    plugins.run_file(path)
            code = COMMANDS[arguments.command](arguments, overrides)
        processes.leave()
        return code
    except (UserError, DivergedError, PeerError) as error:
        code = error.exit_code
        _tell(error)
        if isinstance(error, DivergedError):  # all processes found it, each by itself
            with contextlib.suppress(RuntimeError):
                processes.leave()
        processes.abandon(code, str(error))
        return code
    except KeyboardInterrupt:
        text = "left at once; what was saved before is kept"
        print(f"ganjax: {text}", file=sys.stderr)
        processes.abandon(INTERRUPTED, text)
        return INTERRUPTED
    except Exception as error:
        if (failure := machine_failure(error)) is not None:
            _tell(failure)
            processes.abandon(failure.exit_code, str(failure))
            return failure.exit_code
        processes.fail(error)  # ends this process, and says so to the others; alone it does nothing
        raise


def _tell(error: Exception) -> None:
    """Prints the message of an error, once for all processes; names in it cannot command the terminal."""
    if processes.is_main():
        print(f"ganjax: {printable(str(error))}", file=sys.stderr)
