"""Does any config end in a traceback? Recipes with options changed at random, sensibly and not.

    python tests/stress/fuzz.py --count=1000 --seed=0

Each goes through the command `ganjax train` in this process: it is read, checked, given its data and networks, and in
the place of training its whole step is traced by `jax.eval_shape`, gradients and optimisers included: what would stop a
run before its first step. Nothing is compiled. Every command has to end with 0, or with 2 and one message. Prints the
counts, the commonest refusals, and every other error with its options; the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import random
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

from ganjax.cli import main as cli
from ganjax.config.options import BY_KEY, Option

ROOT = Path(__file__).resolve().parents[2]
RECIPES: tuple[str, ...] = (
    "ring",
    "grid",
    "quickstart",
    "stacked_digits",
    "sngan:small",
    "biggan:small",
    "sagan:small",
)
RECIPES += ("r3gan:small", "stylegan2:small", "msg_progan:small")
DATA = ("ring", "grid", "digits", "stacked_digits", "swiss_roll", "no such data")
POLICIES = ("color", "color,translation,cutout", "ada", "flip", "colour", "translation", ",", "ada,color")
NONSENSE = (
    "",
    "nan",
    "inf",
    "-1",
    "-inf",
    "1e400",
    "0",
    "true",
    "None",
    "🙂",
    "../..",
    "[1]",
    "1;ls",
    "0x10",
    "1_0",
)
# Small sizes: what is to be found is in the combinations. Larger ones only take longer to trace.
SIZES: dict[str, tuple[Any, ...]] = {
    "data.resolution": (0, 4, 8, 12, 16, 32),
    "train.batch_size": (1, 2, 6, 8, 16, 24),
    "train.dis_steps": (1, 2, 3),
    "train.gen_steps": (1, 2),
    "train.accumulate": (1, 2, 3),
    "gen.width": (1, 2, 3, 4, 8),
    "dis.width": (1, 2, 3, 4, 8),
    "gen.max_width": (1, 4, 8, 16),
    "dis.max_width": (1, 4, 8, 16),
    "gen.depth": (1, 2, 3),
    "dis.depth": (1, 2, 3),
    "gen.spectral_iterations": (1, 2),
    "dis.spectral_iterations": (1, 2),
    "gen.style_dim": (1, 8, 16),
    "gen.mapping_layers": (1, 2),
    "model.latent_dim": (1, 2, 7, 20),
    "model.attention": (0, 4, 8, 16, 32, 5),
    "dis.minibatch_discrimination": (0, 1, 3),
    "dis.packing": (1, 2, 3),
    "augment.policy": POLICIES,
    "eval.metrics": ("fid", "fid,kid,is,prdc,modes", "modes", "ms_ssim", "speed", ""),
    "log.wandb": ("",),
    "log.mlflow": ("",),
}
SMALL = {"gen.width": 4, "dis.width": 4, "gen.max_width": 8, "dis.max_width": 8, "train.batch_size": 8}


def sensible(option: Option, rng: random.Random) -> Any:
    """A value that the option takes by itself; with others it may be refused."""
    if option.key in SIZES:
        return rng.choice(SIZES[option.key])
    if option.key == "data.name":
        return rng.choice(DATA)
    if option.choices:
        return rng.choice(option.choices)
    if isinstance(option.default, bool):
        return rng.choice((True, False))
    if isinstance(option.default, str):
        return rng.choice((option.default, "train", "test", "none"))
    low = 0 if option.low is None else option.low
    high = max(4 * option.default, low + 4) if option.high is None else option.high
    number = rng.choice((low, high, rng.uniform(low, high), option.default))
    return int(number) if isinstance(option.default, int) else float(number)


def mutated(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A recipe and options to change: three in four configs are sensible, option by option."""
    recipe = rng.choice(RECIPES)
    strict = rng.random() < 0.75
    changes: dict[str, Any] = {**SMALL, "parallel.devices": 1}
    for key in rng.sample(sorted(BY_KEY), rng.randint(1, 7)):
        nonsense = not strict and rng.random() < 0.5
        changes[key] = rng.choice(NONSENSE) if nonsense else sensible(BY_KEY[key], rng)
    if not strict and rng.random() < 0.1:
        changes[rng.choice(sorted(BY_KEY)) + rng.choice(("s", ".name", "x"))] = 1
    return f"{ROOT}/configs/{recipe.replace(':', '.py:') if ':' in recipe else recipe + '.py'}", [
        (key, str(value)) for key, value in changes.items()
    ]


def trace(config: Any, folder: Path, **_: Any) -> None:
    """Everything that a run does before it compiles its step; stands for `ganjax.run.train.train`."""
    import jax

    from ganjax.evals.sampler import Sampler
    from ganjax.run.callbacks.evaluation import Evaluation
    from ganjax.run.dry_run import step_alone
    from ganjax.run.setup import prepare

    setup = prepare(config)
    _, one, state, data = step_alone(config, setup)
    after, _ = jax.eval_shape(one, state, data)
    told = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert told(after) == told(state), "the step changes the shape of the state"
    sampler = Sampler(setup.build, setup.dataset, setup.devices, seed=config.seed)
    Evaluation(config, folder, setup, sampler)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    bad: list[dict[str, Any]] = []
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
    ):  # where a random data.path is made
        for i in range(arguments.count):
            spec, changes = mutated(random.Random(f"{arguments.seed}/{i}"))
            said = io.StringIO()
            options = [f"--config.{key}={value}" for key, value in changes]
            try:
                with contextlib.redirect_stderr(said), mock.patch("ganjax.run.train.train", trace):
                    code = cli.main(["train", f"--config={spec}", f"--workdir={name}", *options])
                told = said.getvalue()
                assert code in (0, 2), f"exit code {code}: {told}"
                counts["refused" if code else "passed"] += 1
                if code:
                    assert told.startswith("ganjax: ") and "Traceback" not in told, told
                    refusals[told.removeprefix("ganjax: ").split("=")[0][:60]] += 1
            except (Exception, SystemExit) as error:
                counts["broken"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                bad.append({"config": spec, "set": changes, "error": f"{error!r:.300}", "at": place})
                print(json.dumps(bad[-1]), flush=True)
    for text, count in refusals.most_common(12):
        print(f"{count:5} × {text}")
    print(json.dumps({**counts, "seconds": round(time.monotonic() - start, 1)}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
