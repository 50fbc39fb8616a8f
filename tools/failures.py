"""Does the monitor see what goes wrong, and leave alone what does not? Forced failures with several seeds, as a table.

    python tools/failures.py --workdir=runs/failures --seeds=5

On the grid mixture and on stacked digits, with their recipes shortened. Whether a run failed is judged apart from the
monitor: by the modes that its samples cover, and their quality (grid) or the KL divergence of their classes (digits).
A verdict counts if it was given at any log line, so an alarm that came and went in a healthy run is a false one. What
failed is run again with monitor.action=restart_lower_lr, but for the identical latents, which no rate can mend. A run
that has its result is not repeated; the verdicts are those that the present rules give on the rows it logged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS = {"grid": 4000, "stacked_digits": 1200}
COMMON = (
    "log.sample_every_steps=1000000",
    "checkpoint.every_steps=1000000",
    "parallel.devices=1",
    "log.tensorboard=False",
)
LOG = {"grid": 100, "stacked_digits": 40}
PLAIN = ("penalty.name=none", "dis.spectral_norm=False")
FAILURES: dict[str, tuple[str, ...]] = {
    "none (the recipe)": (),
    "rates × 20": ("rates=20",),
    "WGAN, no SN, no penalty": ("loss.name=wasserstein", *PLAIN),
    "D four times too strong": ("loss.name=minimax", "train.dis_steps=4", "dis_rate=4", *PLAIN),
    "identical latents": ("latents=same",),
}
COLLAPSE = {"mode collapse", "partial collapse"}
RIGHT: dict[str, set[str]] = {
    "none (the recipe)": {"mode collapse", "partial collapse", "divergence", "D wins", "G wins"},
    "rates × 20": {"divergence", *COLLAPSE},
    "WGAN, no SN, no penalty": {"divergence", "D wins", *COLLAPSE},
    "D four times too strong": {"D wins", *COLLAPSE},
    "identical latents": {"mode collapse"},
}
LEAST_MODES = {"grid": 20, "stacked_digits": 500}  # of 25 and 1000; with fewer a run has failed
LEAST_QUALITY = 0.5  # of the grid's samples
MOST_KL = 1.0  # of the classes of stacked digits, from the uniform distribution


def configure(data: str, failure: str, seed: int, action: str) -> tuple[Any, bool]:
    """The config of a run, and whether its latents are all the same."""
    from ganjax.config import recipe as configs

    changes = [
        f"train.steps={STEPS[data]}",
        f"log.every_steps={LOG[data]}",
        f"monitor.every_steps={LOG[data]}",
    ]
    changes += [*COMMON, f"seed={seed}", f"monitor.action={action}"]
    options = dict(change.split("=") for change in (*changes, *FAILURES[failure]))
    special = {name: options.pop(name, "") for name in ("rates", "dis_rate", "latents")}
    config = configs.resolve(f"configs/{data}.py", list(options.items()))
    for net in ("gen", "dis"):
        config[net].optimizer.learning_rate *= float(special["rates"] or 1)
    config.dis.optimizer.learning_rate *= float(special["dis_rate"] or 1)
    return config, special["latents"] == "same"


def run_here(data: str, failure: str, seed: int, action: str, folder: Path) -> dict[str, Any]:
    """Trains one run in this process and judges its samples."""
    import jax
    import jax.numpy as jnp

    from ganjax.evals.evaluator import Evaluator
    from ganjax.run.loop import Loop
    from ganjax.run.setup import prepare
    from ganjax.runtime.checkpoint import Checkpointer
    from ganjax.runtime.errors import DivergedError
    from ganjax.runtime.signals import StopSignals

    config, same = configure(data, failure, seed, action)
    setup = prepare(config)
    if same:
        gan = setup.build.gan
        dim = config.model.latent_dim
        latents = lambda keys: jnp.ones((keys.shape[0], dim), jnp.float32)
        setup = dataclasses.replace(
            setup, build=dataclasses.replace(setup.build, gan=dataclasses.replace(gan, latents=latents))
        )
    folder.mkdir(parents=True, exist_ok=True)
    diverged = False
    with Checkpointer(folder / "checkpoints", keep=1) as checkpoints:
        loop = Loop(config, setup, folder, checkpoints, StopSignals())
        try:
            loop.run()
        except DivergedError:
            diverged = True
    result: dict[str, Any] = {"diverged": diverged, "remedies": len(loop.remedies.taken)}
    variables = loop.state.gen.variables
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables["params"]))
    if diverged or same or not finite:  # one latent vector makes one sample: nothing to measure
        return {**result, "failed": True, "collapsed": True}
    judge = Evaluator(setup.dataset, config.data.split)
    names = ["modes"] if data == "grid" else ["modes", "fid"]
    blocks = loop.sampler.blocks(variables, 2500 if data == "grid" else 10_000)
    found = judge(blocks, names, weights="raw", seed=seed, step=loop.step, origin="", quick=True)
    result |= {measurement.name: measurement.value for measurement in found}
    collapsed = result["modes"] < LEAST_MODES[data]
    poor = result["high_quality"] < LEAST_QUALITY if data == "grid" else result["kl"] > MOST_KL
    return {**result, "failed": bool(collapsed or poor), "collapsed": bool(collapsed)}


def run(data: str, failure: str, seed: int, action: str, workdir: Path) -> dict[str, Any]:
    """One run in a process of its own, unless that was done before."""
    name = f"{data}-{list(FAILURES).index(failure)}-{seed}-{action}"
    result = workdir / f"{name}.json"
    if not result.exists():
        command = [
            sys.executable,
            __file__,
            f"--workdir={workdir}",
            "--one",
            data,
            failure,
            str(seed),
            action,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not result.exists():
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return {**json.loads(result.read_text()), **verdicts_in(workdir / name, STEPS[data])}


def verdicts_in(folder: Path, steps: int) -> dict[str, Any]:
    """The verdicts at any log line of a run, `seen`, and at its `last`, as the monitor's rules are now."""
    from ganjax.evals.monitor import judge_rows, read_rows

    rows = read_rows(folder / "metrics.jsonl")
    given = [
        {verdict.name for verdict in judge_rows(rows[: i + 1], steps) if verdict.severity == "bad"}
        for i in range(len(rows))
    ]
    return {"seen": sorted(set().union(*given)), "last": sorted(given[-1])}


def one(workdir: Path, data: str, failure: str, seed: str, action: str) -> None:
    """What `run` starts."""
    name = f"{data}-{list(FAILURES).index(failure)}-{seed}-{action}"
    found = run_here(data, failure, int(seed), action, workdir / name)
    (workdir / f"{name}.json").write_text(json.dumps(found))


def tell(results: dict[tuple[str, str, int], dict[str, Any]], restarted: dict[Any, dict[str, Any]]) -> None:
    """The table, and the three shares."""
    print(
        "| data | forced | runs that fail | with the right verdict | … and at their end | verdicts | others with a "
        "collapse alarm |"
    )
    print("|---|---|---|---|---|---|---|")
    right = ended = wrong = failing = healthy = 0
    for data, failure in dict.fromkeys((data, failure) for data, failure, _ in results):
        rows = [row for key, row in results.items() if key[:2] == (data, failure)]
        failed = [row for row in rows if row["failed"]]
        well = [row for row in rows if not row["failed"]]
        also = [{"divergence"} if row["diverged"] else set() for row in failed]
        seen = sum(
            bool(RIGHT[failure] & ({*row["seen"]} | more)) for row, more in zip(failed, also, strict=True)
        )
        last = sum(
            bool(RIGHT[failure] & ({*row["last"]} | more)) for row, more in zip(failed, also, strict=True)
        )
        alarms = [row for row in well if COLLAPSE & set(row["seen"])]
        names = ", ".join(sorted({name for row in rows for name in row["seen"]})) or "healthy"
        counts = f"{len(failed)} of {len(rows)} | {seen} | {last} | {names} | {len(alarms)} of {len(well)}"
        print(f"| {data} | {failure} | {counts} |")
        failing, right, ended = failing + len(failed), right + seen, ended + last
        healthy, wrong = healthy + len(well), wrong + len(alarms)
    print(
        f"\nRight verdict in {right} of {failing} failing runs, in {ended} at their end too; a collapse alarm in "
        f"{wrong} of {healthy} healthy ones."
    )
    for failure in dict.fromkeys(failure for _, failure, _ in restarted):
        rows = [row for key, row in restarted.items() if key[1] == failure]
        covering = [row for row in rows if not row["collapsed"]]
        well = [row for row in rows if not row["failed"]]
        count = statistics.mean(row["remedies"] for row in rows)
        print(
            f"restart_lower_lr, {failure}: {len(covering)} of {len(rows)} cover the modes in the end, {len(well)} with "
            f"good samples too, {count:.1f} restarts each"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side; each uses one core")
    parser.add_argument("--data", default="grid,stacked_digits")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    workdir = options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    if options.one:
        one(workdir, *options.one)
        return
    keys = [
        (data, failure, seed)
        for data in options.data.split(",")
        for seed in range(options.seeds)
        for failure in FAILURES
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(keys, pool.map(lambda key: run(*key, "warn", workdir), keys), strict=True))
        again = [key for key, row in results.items() if row["failed"] and key[1] != "identical latents"]
        restarted = dict(
            zip(again, pool.map(lambda key: run(*key, "restart_lower_lr", workdir), again), strict=True)
        )
    tell(results, restarted)


if __name__ == "__main__":
    main()
