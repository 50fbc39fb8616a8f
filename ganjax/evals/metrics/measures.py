"""The metrics by name, as `--metrics=` takes them, each with its interval, its floor and its protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganjax.config import plugins
from ganjax.data import Dataset
from ganjax.evals.features import FeatureNetwork
from ganjax.evals.metrics import intervals
from ganjax.evals.metrics.frechet import FrechetTo, Moments
from ganjax.evals.metrics.intervals import Interval
from ganjax.evals.metrics.modes import HIGH_QUALITY, kl_divergence, nearest_modes
from ganjax.evals.metrics.ms_ssim import diversity
from ganjax.evals.metrics.neighbours import DENSITY_K, PRECISION_K, manifolds, memorised, nearest_neighbours
from ganjax.evals.metrics.protocol import Measurement, Protocol
from ganjax.evals.metrics.scores import (
    SPLITS,
    SUBSET_SIZE,
    SUBSETS,
    inception_score,
    kid_estimates,
    kid_subsets,
    score_of,
    softmax,
)
from ganjax.evals.metrics.statistics import Statistics
from ganjax.runtime.errors import UserError, nearest

MOST_NEIGHBOURS = 10_000  # samples of either kind between which all distances are taken
ROUGH = 20  # resampled sets of an interval in training: it is known to a fifth or so
Settings = dict[str, int]


@dataclass(frozen=True, eq=False)
class Case:
    """The samples to evaluate, with the settings of the evaluation.

    Attributes:
      reals, fakes: statistics of the real and of the generated samples.
      dataset: the data set of the reals.
      network: the feature network.
      seed: seed of the draws.
      quick: compute values without their intervals (for the floor).
      rough: make intervals from few resampled sets, and FID's to first order.
    """

    reals: Statistics
    fakes: Statistics
    dataset: Dataset
    network: FeatureNetwork
    seed: int
    quick: bool = False
    rough: bool = False


@dataclass(frozen=True)
class Number:
    """A value, its interval, and the settings that belong to its protocol."""

    value: float
    interval: Interval
    settings: Settings = dataclasses.field(default_factory=dict)


def fid(case: Case) -> dict[str, Number]:
    """Returns the Fréchet distance of the features."""
    to_reals = FrechetTo(case.reals.gaussian)
    value = to_reals(case.fakes.gaussian)
    features = case.fakes.features
    if case.rough:
        error = to_reals.standard_error(features, case.fakes.gaussian)
        return {"fid": Number(value, intervals.around(value, error * _shrink(case, len(features))))}

    def again(counts: np.ndarray) -> float:
        moments = Moments()
        moments.add(features, counts)
        return to_reals(moments.result())

    dims = features.shape[1]
    repeats = 200 if dims <= 256 else 50 if dims <= 1024 else 10  # a repeat at 2,048 takes seconds
    return {"fid": bootstrapped(case, again, len(features), value, repeats)}


def kid(case: Case) -> dict[str, Number]:
    """Returns the kernel distance of the features, the mean over subsets."""
    x, y = case.reals.features, case.fakes.features
    pairs = list(kid_subsets(len(x), len(y), seed=case.seed))
    estimates, size = kid_estimates(x, y, pairs), len(pairs[0][0])
    interval = intervals.subsampling_interval(estimates, size, len(y))
    settings = {"subsets": SUBSETS, "subset_size": min(SUBSET_SIZE, size)}
    return {"kid": Number(float(estimates.mean()), interval, settings)}


def score(case: Case) -> dict[str, Number]:
    """Returns the Inception score, by the classes of the feature network."""
    if case.fakes.logits is None:
        raise UserError(f"--metrics=is needs classes, and {case.network.name} has none.")
    probabilities = softmax(case.fakes.logits)
    value, _ = inception_score(case.fakes.logits)

    def again(counts: np.ndarray) -> float:
        return score_of(probabilities, counts)

    number = bootstrapped(case, again, len(probabilities), value)
    return {"is": dataclasses.replace(number, settings={"splits": SPLITS})}


def prdc(case: Case) -> dict[str, Number]:
    """Returns precision, recall, density and coverage."""
    reals, fakes = case.reals.features[:MOST_NEIGHBOURS], case.fakes.features[:MOST_NEIGHBOURS]
    _enough(reals, fakes, DENSITY_K + 1, "prdc")
    found = manifolds(reals, fakes, real_radii=case.reals.radii(len(reals)))
    counts = {"reals": len(reals), "fakes": len(fakes)}
    return {
        name: _mean(case, getattr(found, name), {"k": k, **counts})
        for name, k in (
            ("precision", PRECISION_K),
            ("recall", PRECISION_K),
            ("density", DENSITY_K),
            ("coverage", DENSITY_K),
        )
    }


def ms_ssim(case: Case) -> dict[str, Number]:
    """Returns the MS-SSIM among the samples; a high value means little diversity."""
    if case.fakes.images.ndim != 4:
        raise UserError(f"--metrics=ms_ssim compares images, and {case.dataset.name} has points.")
    means = diversity(case.fakes.images, seed=case.seed)
    value = float(means.mean())
    error = float(means.std(ddof=1) / np.sqrt(len(means)))
    return {"ms_ssim": Number(value, intervals.around(value, error))}


def modes(case: Case) -> dict[str, Number]:
    """Returns the number of modes with a sample, and the KL divergence (nats) of their shares from equal ones.

    For mixtures it adds the share of samples near a mode; see `metrics.modes`.
    """
    dataset = case.dataset
    if dataset.modes is not None:
        assert dataset.std is not None
        label, distance = nearest_modes(case.fakes.images, dataset.modes)
        good, known = distance <= HIGH_QUALITY * dataset.std, np.isfinite(distance)
        classes = len(dataset.modes)
    elif case.network.modes is not None and case.fakes.logits is not None and dataset.num_classes:
        label = case.network.modes(case.fakes.logits)
        good = known = np.ones(len(label), bool)
        classes = max(dataset.num_classes, int(label.max()) + 1)
    else:
        raise UserError(f"--metrics=modes: the modes of {dataset.name} are not known.")

    def covered(counts: np.ndarray) -> float:
        return float(len(np.unique(label[good & (counts > 0)])))

    def divergence(counts: np.ndarray) -> float:
        return kl_divergence(np.bincount(label[known], counts[known], minlength=classes))

    once = np.ones(len(label), np.int64)
    of = {"of": classes}
    numbers = {
        "modes": dataclasses.replace(
            bootstrapped(case, covered, len(label), covered(once), 100), settings=of
        ),
        "kl": dataclasses.replace(
            bootstrapped(case, divergence, len(label), divergence(once), 100), settings=of
        ),
    }
    return numbers if dataset.modes is None else {**numbers, "high_quality": _mean(case, good, {})}


def memory(case: Case) -> dict[str, Number]:
    """Returns the mean distance to the nearest training sample, and the share of samples suspiciously close to one.

    Suspiciously close means as close as 1 % of the training samples lie to one another.
    """
    reals, fakes = case.reals.features[: 3 * MOST_NEIGHBOURS], case.fakes.features[:MOST_NEIGHBOURS]
    _enough(reals, fakes, 2, "nearest")
    counts = {"reals": len(reals), "fakes": len(fakes)}
    _, distance = nearest_neighbours(fakes, reals)
    return {
        "nearest_distance": _mean(case, distance, counts),
        "memorised": _mean(case, memorised(fakes, reals), counts),
    }


@dataclass(frozen=True)
class Measure:
    """A metric, with the facts that a choice by its numbers needs (`config/names.py` reads it).

    Attributes:
      call: a case → its numbers by name.
      higher_is_better: number → True if more is better. A number not in it is neither good nor bad by itself.
    """

    call: Callable[[Case], dict[str, Number]]
    higher_is_better: Mapping[str, bool] = dataclasses.field(default_factory=dict)


# What --metrics takes.
MEASURES: dict[str, Measure] = {
    "fid": Measure(fid, higher_is_better={"fid": False}),
    "kid": Measure(kid, higher_is_better={"kid": False}),
    "is": Measure(score, higher_is_better={"is": True}),
    "prdc": Measure(
        prdc, higher_is_better={"precision": True, "recall": True, "density": True, "coverage": True}
    ),
    "ms_ssim": Measure(ms_ssim),
    "modes": Measure(modes, higher_is_better={"modes": True, "kl": False, "high_quality": True}),
    "nearest": Measure(memory),
}


Metric = Callable[[Case], dict[str, Number]]


def register_metric(
    name: str, *, higher_is_better: Mapping[str, bool] | None = None
) -> Callable[[Metric], Metric]:
    """Returns a decorator that adds a metric to those of `--metrics` and `eval.metrics`.

    Args:
      name: a name of its own. What is decorated is a function from a `Case` to its numbers by name, see `bootstrapped`.
      higher_is_better: the numbers that `eval.best` may choose by, True for those of which more is better.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, _: Case) -> str:
        right = isinstance(found, dict) and found and all(isinstance(x, Number) for x in found.values())
        return "" if right else f"gives a dict of Number by name; it gave {plugins.shown(found)}"

    return plugins.decorator(
        "metric", name, MEASURES, problem, lambda metric: Measure(metric, higher_is_better or {})
    )


def check_names(names: Sequence[str], what: str = "--metrics") -> None:
    """Raises a `UserError` for the first name that is not in `MEASURES`, and where there is no name."""
    if not names:
        raise UserError(f"{what} takes some of {', '.join(MEASURES)}, joined by commas.")
    for name in names:
        if name not in MEASURES:
            raise UserError(
                f"{what} takes some of {', '.join(MEASURES)}, joined by commas, and got {name!r}."
                + nearest(name, MEASURES)
            )


def measure(names: Sequence[str], case: Case, protocol: Protocol, *, floor: bool = True) -> list[Measurement]:
    """Computes every number of the metrics `names`, with floors unless `floor` is False.

    Args:
      names: keys of `MEASURES`.
      case: the samples.
      protocol: the protocol without settings, which each metric adds.
      floor: also compare real samples with other real ones, see `floor_case`.

    Raises:
      UserError: unknown names, too few samples, or a metric that does not fit the data.
    """
    check_names(names)
    real = floor_case(case) if floor else None
    results = []
    for name in names:
        below = MEASURES[name].call(real) if real else {}
        for key, number in MEASURES[name].call(case).items():
            low, high = number.interval
            settings = tuple(sorted(number.settings.items()))
            results.append(
                Measurement(
                    name=key,
                    value=number.value,
                    low=low,
                    high=high,
                    floor=below[key].value if key in below else None,
                    protocol=dataclasses.replace(protocol, settings=settings),
                )
            )
    return results


def floor_case(case: Case) -> Case | None:
    """Returns the case for the floor: real samples take the place of the generated ones and are compared with the rest.

    There are as many as generated samples, but at most half of the reals. Returns None where there are fewer than 20.
    """
    kept = len(case.reals.features)
    count = min(len(case.fakes.features), kept // 2)
    if count < 20:
        return None
    # The images kept lead the features, so that the part in the place of the fakes is the first.
    fakes, reals = case.reals.part(slice(count)), case.reals.part(slice(count, kept))
    return dataclasses.replace(case, reals=reals, fakes=fakes, quick=True)


def bootstrapped(
    case: Case,
    statistic: Callable[[np.ndarray], float],
    n: int,
    value: float,
    repeats: int = intervals.REPEATS,
) -> Number:
    """Returns a value with its interval by the bootstrap, or alone where the case asks for no interval.

    Args:
      case: the samples that it was made of.
      statistic: takes the number of times each of the n samples was drawn, integers [n]; returns the value.
      n: number of samples.
      value: the value with each sample once.
      repeats: number of resampled sets.
    """
    if case.quick:
        return Number(value, (value, value))
    repeats = min(repeats, ROUGH) if case.rough else repeats
    low, high = intervals.bootstrap(statistic, n, value, seed=case.seed, repeats=repeats)
    shrink = _shrink(case, n)
    return Number(value, (value - (value - low) * shrink, value + (high - value) * shrink))


def _shrink(case: Case, kept: int) -> float:
    """Returns the factor that narrows an interval made from `kept` samples to that of all samples."""
    return float(np.sqrt(kept / case.fakes.count))


def _mean(case: Case, values: np.ndarray, settings: Settings) -> Number:
    value = float(np.mean(values))
    if case.quick:
        return Number(value, (value, value), settings)
    interval = intervals.mean_interval(
        values, seed=case.seed, repeats=ROUGH if case.rough else intervals.REPEATS
    )
    return Number(value, interval, settings)


def _enough(reals: np.ndarray, fakes: np.ndarray, least: int, name: str) -> None:
    if min(len(reals), len(fakes)) < least:
        raise UserError(
            f"--metrics={name} needs at least {least} samples of each kind, and got {len(reals)} real and "
            f"{len(fakes)} generated ones."
        )
