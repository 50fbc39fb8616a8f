"""A study: a base recipe, variants of it, seeds, a budget, and the numbers that count.

A study file is Python with `get_study(arg)`, like a recipe with `get_config(arg)`. Nothing here imports JAX.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from ganjax.config.names import MEASURE_OF
from ganjax.config.options import Value
from ganjax.config.recipe import check, differences, flatten, load_file, set_option, to_json
from ganjax.runtime.errors import UserError

BASE = "base"
LOG_LINES = 20  # of a run
CHECKPOINTS = 4
EXPECTED = ("better", "worse", "")
# What a study sets itself for every run, so a base or a variant may not.
SETS = (
    "seed",
    "train.steps",
    "train.max_seconds",
    "eval.metrics",
    "eval.samples",
    "eval.keep_best",
    "eval.every_kimg",
)


@dataclass(frozen=True)
class Variant:
    """A variant of the base, to compare with it.

    Attributes:
      name: name, unique in the study.
      changes: option → value.
      group: name of the variants that belong together in tables, a lesson for example.
      expected: the claim under test: `better` or `worse` than the base, or empty.
      claim: the same claim in a sentence.
    """

    name: str
    changes: Mapping[str, Value]
    group: str = ""
    expected: str = ""
    claim: str = ""


@dataclass(frozen=True)
class Study:
    """A study, as `get_study` returns it.

    Attributes:
      title: title of the page.
      base: the recipe that all is compared with.
      variants: variants of the base; the base itself is a run of its own and is not listed.
      seeds: each variant is run with each of them.
      metrics: numbers that count, the first most, as `ganjax evaluate` names them.
      better: `higher` or `lower` for each metric.
      kimg: thousand real images that D sees in a run; or
      seconds: training time of a run, where kimg is 0. Such runs are not trained side by side.
      evaluations: number of points of the curves over training, the end included.
      samples: number of samples of each evaluation.
    """

    title: str
    base: ConfigDict
    variants: Sequence[Variant]
    metrics: Mapping[str, str]
    seeds: Sequence[int] = tuple(range(6))
    kimg: float = 0.0
    seconds: float = 0.0
    evaluations: int = 4
    samples: int = 2000
    notes: str = ""

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return next(iter(self.metrics))


@dataclass(frozen=True)
class RunSpec:
    """The specification of one run of a study.

    Attributes:
      variant: name of the variant that it is a run of.
      seed: seed of the run.
      config: config, complete and checked.
      differences: option → (base's value, this one's), the seed left out.
    """

    variant: Variant
    seed: int
    config: ConfigDict
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The run's folder, below the study's folder."""
        return f"runs/{slug(self.variant.name)}/seed_{self.seed}"


def one_at_a_time(options: Mapping[str, Sequence[Value]], *, group: str = "") -> list[Variant]:
    """Returns a variant for each value of each option, all else as in the base."""
    return [
        Variant(f"{key.rpartition('.')[2]}={value}", {key: value}, group=group)
        for key, values in options.items()
        for value in values
    ]


def grid(options: Mapping[str, Sequence[Value]], *, group: str = "") -> list[Variant]:
    """Returns a variant for each combination of the values."""
    return [
        Variant(
            ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in zip(options, values, strict=True)),
            dict(zip(options, values, strict=True)),
            group=group,
        )
        for values in itertools.product(*options.values())
    ]


def load_study(spec: str) -> Study:
    """Runs `get_study` of the file `FILE[:ARG]`, or `NAME[:ARG]` for a study of the package.

    Raises:
      UserError: there is no such file, it has no `get_study`, or the study is impossible.
    """
    study = load_file(spec, "get_study", Study)
    assert isinstance(study, Study)
    _check(study)
    return study


def expand(study: Study) -> list[RunSpec]:
    """Returns all runs: the base first, then the variants in their order, each with every seed.

    Raises:
      UserError: a variant is impossible; the message names it. Nothing has been run then.
    """
    base = _with_changes(study, Variant(BASE, {}), study.seeds[0])
    flat = _compared(base)
    runs = []
    for variant in (Variant(BASE, {}), *study.variants):
        changed: dict[str, tuple[Any, Any]] = {}
        for seed in study.seeds:
            config = _with_changes(study, variant, seed)
            changed = changed or differences(flat, _compared(config))
            runs.append(RunSpec(variant, seed, config, changed))
        if variant.name != BASE and variant.changes and not changed:
            raise UserError(
                f"Variant {variant.name!r} does not differ from the base: {_words(variant.changes)} is "
                "what the base has already."
            )
    return runs


def resolved(study: Study, runs: Sequence[RunSpec]) -> dict[str, Any]:
    """Returns the study as JSON, by which a folder recognises it."""
    return {
        "title": study.title,
        "metrics": dict(study.metrics),
        "seeds": list(study.seeds),
        "kimg": study.kimg,
        "seconds": study.seconds,
        "evaluations": study.evaluations,
        "samples": study.samples,
        "base": to_json(next(run.config for run in runs)),
        "variants": {
            variant.name: {key: json.loads(json.dumps(value)) for key, value in variant.changes.items()}
            for variant in study.variants
        },
    }


def slug(name: str) -> str:
    """Turns a name into a part of a path: `lr × 4` becomes `lr_x_4`."""
    return re.sub(r"[^a-z0-9.=-]+", "_", name.lower().replace("×", "x").replace("½", "half")).strip("_.")


def _compared(config: ConfigDict) -> dict[str, Any]:
    """Returns the flat config without options that differ by the seed or follow from the budget."""
    flat = flatten(config)
    own = {"seed", "train.steps", "checkpoint.every_steps", "monitor.every_steps", "eval.every_kimg"}
    own |= {"log.every_steps", "log.sample_every_steps"}
    return {key: value for key, value in flat.items() if key not in own}


def _with_changes(study: Study, variant: Variant, seed: int) -> ConfigDict:
    config = study.base.copy_and_resolve_references()
    try:
        for key, value in variant.changes.items():
            if key in SETS:
                raise UserError(f"option {key} is set by the study itself")
            set_option(config, key, value)
        _set_budget(study, config)
        config.seed = seed
        check(config)
    except UserError as error:
        raise UserError(
            f"Variant {variant.name!r} ({_words(variant.changes) or 'as given'}): {error}"
        ) from None
    return config


def _set_budget(study: Study, config: ConfigDict) -> None:
    """Sets steps, log lines and evaluations of a run from the budget in images or seconds."""
    images = config.train.batch_size * config.train.dis_steps
    if study.kimg:
        wanted = max(1, round(study.kimg * 1000 / images))
        every = max(1, wanted // LOG_LINES)
        # A whole number of log lines, and evaluations at some of them, so that every run is measured alike.
        config.train.steps = max(1, round(wanted / every)) * every
    else:
        every = config.log.every_steps
        config.train.max_seconds = float(study.seconds)
    config.log.every_steps = every
    config.monitor.every_steps = every
    config.log.sample_every_steps = config.train.steps
    config.checkpoint.every_steps = every * max(1, LOG_LINES // CHECKPOINTS)
    config.eval.metrics = ",".join(dict.fromkeys(MEASURE_OF.get(name, name) for name in study.metrics))
    config.eval.samples = study.samples
    config.eval.keep_best = 0
    config.eval.every_kimg = config.train.steps * images / 1000 / study.evaluations
    config.log.tensorboard = config.log.report = False  # the study has a page of its own
    if study.kimg and not config.parallel.devices:
        config.parallel.devices = 1  # runs share a machine side by side


def _check(study: Study) -> None:
    """Raises a `UserError` for an invalid study."""
    names = [variant.name for variant in study.variants]
    doubles = {slug(name) for name in names if [slug(n) for n in (BASE, *names)].count(slug(name)) > 1}
    problems = [
        (not study.seeds, "it has no seeds"),
        (len(set(study.seeds)) < len(study.seeds), "a seed is there twice"),
        (not study.metrics, "it names no metrics"),
        (bool(doubles), f"variants share a name: {', '.join(sorted(doubles))}"),
        (not all(slug(name) for name in names), "a variant has no name"),
        (bool(study.kimg) == bool(study.seconds), "it takes a budget in kimg or in seconds, one of them"),
        (study.kimg < 0 or study.seconds < 0, "its budget is negative"),
        (
            bool(study.base.log.wandb or study.base.log.mlflow),
            "its base sets log.wandb or log.mlflow, and a study keeps its results in its folder alone",
        ),
        (study.evaluations < 1 or study.samples < 20, "it needs an evaluation, of 20 samples or more"),
        (any(v.expected not in EXPECTED for v in study.variants), f"`expected` takes {EXPECTED}"),
        (
            any(b not in ("higher", "lower") for b in study.metrics.values()),
            "metrics are better higher or lower",
        ),
    ]
    for wrong, text in problems:
        if wrong:
            raise UserError(f"The study {study.title!r} cannot be run: {text}.")


def _words(changes: Mapping[str, Value]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())
