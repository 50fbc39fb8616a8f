"""The commands that take G out of a run, `sample`, `export` and `interpolate`: their options, and their functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from ganjax.cli.common import class_list, join, seed_list
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError

EXAMPLES = {
    "sample": "ganjax sample --workdir=runs/quickstart --n=64 --out=grid.png",
    "export": "ganjax export --workdir=runs/quickstart --out=model.jaxexport",
    "interpolate": "ganjax interpolate --workdir=runs/quickstart --out=film.webp --seeds=0,1,2,3",
}


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds the options of a command that takes G out of a checkpoint."""
    command.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    command.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    command.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged or raw weights (default: ema)"
    )


def add_sample(sample: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax sample`."""
    add_checkpoint(sample)
    sample.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .png with a grid, an .npz with an array `samples`, or a folder for a PNG of each",
    )
    sample.add_argument(
        "--n",
        type=int,
        help="how many, of each of --seeds (default: 64; of --seeds one, or one in each of --classes)",
    )
    seeds = sample.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="of the latents (default: the run's)")
    seeds.add_argument("--seeds", type=seed_list, default=(), help="several: 0-63 or 0,7,9")
    sample.add_argument("--devices", type=int, default=0, help="devices to use (default: 0 chooses)")
    sample.add_argument(
        "--classes",
        type=class_list,
        default=(),
        help="cat,dog or 0,1: only these, in turn (default: every class)",
    )
    sample.add_argument(
        "--truncation", type=float, default=1.0, help="below 1: less variety, more fidelity (default: 1)"
    )
    sample.add_argument(
        "--nearest", action="store_true", help="a .png of each sample beside the training image closest to it"
    )
    sample.add_argument(
        "--data", default="", metavar="DIR", help="the data, where they moved; --nearest needs them"
    )


def run_sample(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax sample`."""
    if overrides:
        raise UserError("sample takes its config from the run; --config.… belongs to train.")
    join(arguments)
    from ganjax.run.sample import sample

    done = sample(
        arguments.workdir,
        n=arguments.n,
        out=arguments.out,
        seed=arguments.seed,
        seeds=arguments.seeds,
        weights=arguments.weights,
        step=arguments.step,
        devices=arguments.devices,
        classes=arguments.classes,
        truncation=arguments.truncation,
        nearest=arguments.nearest,
        data=arguments.data,
    )
    if processes.is_main():
        print(done)
    return 0


def add_export(export: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax export`."""
    add_checkpoint(export)
    export.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .jaxexport (program and weights; loads with jax alone), a .onnx (loads with onnxruntime alone) or a "
        ".safetensors (weights)",
    )
    export.add_argument(
        "--truncation", type=float, default=1.0, help="of the styles of stylegan2, baked in (default: 1)"
    )


def run_export(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax export`."""
    if overrides:
        raise UserError("export takes its config from the run; --config.… belongs to train.")
    from ganjax.run.export import export

    done = export(
        arguments.workdir,
        arguments.out,
        weights=arguments.weights,
        step=arguments.step,
        truncation=arguments.truncation,
    )
    print(done)
    return 0


def add_interpolate(interpolate: argparse.ArgumentParser) -> None:
    """Adds the options of `ganjax interpolate`."""
    add_checkpoint(interpolate)
    interpolate.add_argument(
        "--out", type=Path, required=True, help="a .gif, a .webp, or with ffmpeg an .mp4; with --mix a .png"
    )
    interpolate.add_argument(
        "--seeds", type=seed_list, help="of the samples to pass through (default: 0,1,2,3)"
    )
    interpolate.add_argument(
        "--classes",
        type=class_list,
        default=(),
        help="cat,dog or 0,1: from class to class, or within one (default: all side by side)",
    )
    interpolate.add_argument(
        "--steps", type=int, default=24, help="frames from one to the next (default: 24)"
    )
    interpolate.add_argument("--fps", type=int, default=24, help="frames a second (default: 24)")
    interpolate.add_argument("--n", type=int, default=9, help="images side by side (default: 9)")
    interpolate.add_argument(
        "--truncation", type=float, default=1.0, help="below 1: less variety, more fidelity (default: 1)"
    )
    interpolate.add_argument(
        "--mix",
        type=int,
        metavar="SIDE",
        help="stylegan2: a table of mixed styles, those up to SIDE pixels of the row, finer ones of the column",
    )


def run_interpolate(arguments: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Runs `ganjax interpolate`."""
    if overrides:
        raise UserError("interpolate takes its config from the run; --config.… belongs to train.")
    from ganjax.run import interpolate

    options = {name: getattr(arguments, name) for name in ("n", "weights", "step", "truncation")}
    if arguments.mix is not None:
        if arguments.classes:
            raise UserError("--classes is for films: --mix takes all classes in turn.")
        seeds = arguments.seeds or (0, 1)
        print(interpolate.mix(arguments.workdir, arguments.out, side=arguments.mix, seeds=seeds, **options))
    else:
        options |= {"steps": arguments.steps, "seeds": arguments.seeds or (0, 1, 2, 3)}
        options |= {"classes": arguments.classes, "frames_per_second": arguments.fps}
        print(interpolate.interpolate(arguments.workdir, arguments.out, **options))
    return 0
