"""Turns the rows of `metrics.jsonl` into verdicts: the fault, its first step, its evidence, and the lesson that helps.

These are pure functions of the rows and the length of the run. So the live monitor, `ganjax doctor` and a report agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

HEALTHY = "healthy"
DIVERGED = "diverged"  # the reason in the summary of a run that ended so
MEASURED = ("coverage", "diversity", "quality", "separation")
FINE = frozenset({HEALTHY, "harmless oscillation", "still learning"})  # nothing to be done about
SUSTAINED, WINDOW = 3, 4  # a sign counts once it was there in so many of the last rows: one row is a flicker
WARM_UP = 0.1  # share of the run before which G has not had the time to spread
LEARNING = 0.3  # share of the run in which a part of the data may be missing because G still learns
LATE = (
    0.75  # share of the run by which samples should lie on the data, and no rise excuses a collapse any more
)
RISE = 0.05  # what counts as still getting better over the last quarter of the rows

COLLAPSED = 0.3  # diversity or coverage below which nearly all is lost
PARTIAL = 0.75  # coverage below which a part of the data is missing
FALL = 0.2  # of the coverage, from its best
WON = 0.99  # share of pairs that D orders right
VANISHED, NOTHING = 1e-3, 1e-6  # of the usual norm of G's gradient, and at all
FOOLED = 0.35
OFF_DATA = 0.5  # quality below which G's samples do not lie on the data
LOGIT_LIMIT = 1e3
GROWTH = 1e3  # of D's gradient, against the first rows
UPDATE_LIMIT = 0.1  # of the weights, in one step
MEMORISED = 0.6  # (reals − held-out reals) / (reals − fakes) of D's logits
SPIKE = 6.0  # robust standard deviations of a loss


@dataclass(frozen=True)
class Verdict:
    """A finding of the monitor.

    Attributes:
      name: one of `ADVICE`.
      severity: `bad`, or `fine` for what looks bad and is not, or not yet done.
      since: the step at which the signs began.
      evidence: the numbers that support the finding.
    """

    name: str
    severity: str
    since: int
    evidence: str

    @property
    def lesson(self) -> str:
        """The lesson, of the ten, that answers the verdict."""
        return ADVICE[self.name][0]

    @property
    def advice(self) -> str:
        """The meaning of the verdict and what to do, in plain words."""
        return ADVICE[self.name][1]

    def to_json(self) -> dict[str, Any]:
        """Returns the verdict as JSON, for `summary.json` and `--json`."""
        return {
            "name": self.name,
            "severity": self.severity,
            "since": self.since,
            "evidence": self.evidence,
            "lesson": self.lesson,
            "advice": self.advice,
        }


ADVICE: dict[str, tuple[str, str]] = {
    "divergence": (
        "5, learning rate; 10, spectral normalisation",
        "The weights run away: loss, logits or updates grow without bound. Lower both learning rates, or bound D by "
        "spectral normalisation or a gradient penalty.",
    ),
    "mode collapse": (
        "5, learning rate against mode collapse",
        "G makes nearly the same sample from every latent vector. Start anew with lower learning rates "
        "(monitor.action=restart_lower_lr does so by itself); packing, minibatch discrimination and a relativistic "
        "loss with R1 and R2 help too.",
    ),
    "partial collapse": (
        "5, learning rate against mode collapse",
        "A part of the data is never sampled, and it does not come back. Lower the learning rates, train longer with "
        "a larger batch, or use a relativistic loss with R1 and R2, packing or minibatch discrimination.",
    ),
    "class collapse": (
        "5, learning rate against mode collapse",
        "G makes nearly the same image from every latent vector of one class, though not of the others. Add images of "
        "that class, use augmentation (augment.policy=ada or DiffAugment), lower the learning rates, or train without "
        "labels.",
    ),
    "D wins": (
        "4, balance of G and D; 6, noise on D's inputs",
        "D tells every fake from every real, and G does not get better: its gradient says nothing any more. Weaken D: "
        "lower its learning rate (9), fewer updates (4), noise on its inputs (6), one-sided label smoothing (7), or a "
        "gradient penalty.",
    ),
    "G wins": (
        "1, network capacity; 9, two learning rates",
        "D no longer tells fakes from reals though the samples are off the data. Strengthen D: a higher learning rate "
        "than G's (9), more updates (4), more width (1), less noise (6).",
    ),
    "D memorises": (
        "6, noise and augmentation of D's inputs",
        "D takes reals that it never saw for fakes: it knows the training images by heart. Use augmentation "
        "(augment.policy=ada or DiffAugment), R1, more data or a smaller D.",
    ),
    "still learning": (
        "2, watch the images; 1, network capacity",
        "Nothing is broken, but most samples do not lie on the data yet. Train longer, watch the images, and if they "
        "stop getting better give both networks more width.",
    ),
    "harmless oscillation": (
        "2, never stop early on a loss",
        "A loss jumps or swings while the samples keep their variety. That is how the game looks from one side: go "
        "on, and watch the images.",
    ),
}


@dataclass(frozen=True)
class History:
    """The rows of a run up to now, for the rules to read.

    Attributes:
      rows: log lines in the order of their steps.
      total_steps: length of the run.
    """

    rows: Sequence[Row]
    total_steps: int

    def values(self, name: str) -> list[float]:
        """Returns the numbers of this name in the rows that have it.

        A null stands for a non-finite number and is NaN here.
        """
        return [_number(row[name]) for row in self.rows if name in row]

    def share(self) -> float:
        """Returns the share of the run that is done."""
        return float(self.rows[-1]["step"]) / max(self.total_steps, 1)

    def before(self, count: int) -> History:
        """Returns the history without the last `count` rows."""
        return History(self.rows[: len(self.rows) - count], self.total_steps)

    def spreading(self, *names: str) -> bool:
        """Returns True if all of these numbers still rise, and the run is not so far on that this comes too late."""
        return self.share() < LATE and all(self.rising(name) for name in names)

    def rising(self, name: str) -> bool:
        """Returns True if the mean of the last rows is above that of the rows a quarter of the run earlier."""
        values = self.values(name)
        lag = max(3, len(values) // 4)
        if len(values) < lag + 3:
            return True  # too early to say that it does not
        return statistics.fmean(values[-3:]) > statistics.fmean(values[-lag - 3 : -lag]) + RISE


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def not_finite(row: Row) -> str | None:
    """Returns which loss or logit of the row is not finite, in words; None where all are."""
    for name in ("loss/dis", "loss/gen", "logit/real", "logit/fake"):
        if name in row and not math.isfinite(_number(row[name])):
            return f"{name} is not finite"
    return None


Sign = Callable[[History], str | None]
"""A rule: the evidence in the last row of the history, or None."""


def divergence(h: History) -> str | None:
    """Finds non-finite numbers, logits or gradients far above their first values, or updates as large as weights."""
    row = h.rows[-1]
    if found := not_finite(row):
        return found
    for name in ("logit/real", "logit/fake"):
        value = _number(row.get(name, 0.0))
        if abs(value) > LOGIT_LIMIT:
            return f"{name} is {value:.3g}"
    for name in ("grad_norm/dis", "grad_norm/gen"):
        values = h.values(name)
        first = statistics.median(values[:3]) if len(values) > 3 else math.inf
        if values and values[-1] > GROWTH * max(first, 1e-3):
            return f"{name} is {values[-1]:.3g} and began at {first:.3g}"
    for net, name in (("G", "update_ratio/gen"), ("D", "update_ratio/dis")):
        values = h.values(name)
        if len(values) > 1 and values[-1] > UPDATE_LIMIT:
            return f"a step changes the weights of {net} by {values[-1]:.0%}"
    return None


def mode_collapse(h: History) -> str | None:
    """Finds hardly any variety after the warm-up, and none coming."""
    row = h.rows[-1]
    if h.share() < WARM_UP or not measured(row):
        return None
    coverage, diversity = row["monitor/coverage"], row["monitor/diversity"]
    if min(coverage, diversity) >= COLLAPSED:
        return None
    if h.spreading("monitor/coverage", "monitor/diversity"):
        return None
    return f"samples have {diversity:.0%} of the data's variety and reach {coverage:.0%} of it"


def partial_collapse(h: History) -> str | None:
    """Finds a part of the data that G does not reach, or that it has lost again.

    A G that begins with samples scattered off the data covers all of it by chance, and less while they gather.
    """
    row = h.rows[-1]
    if h.share() < LEARNING or not measured(row):
        return None
    coverage = row["monitor/coverage"]
    best = max(h.values("monitor/coverage"))
    if coverage >= PARTIAL:
        return None
    if best - coverage >= FALL and best >= PARTIAL:
        return f"samples reach {coverage:.0%} of the data, and reached {best:.0%} before"
    if not h.spreading("monitor/coverage"):
        return f"samples reach {coverage:.0%} of the data after {h.share():.0%} of the run"
    return None


def class_collapse(h: History) -> str | None:
    """Finds a class whose samples hardly differ, after the warm-up, and no variety coming."""
    row = h.rows[-1]
    diversity = _number(row.get("monitor/class_diversity", 1.0))
    if h.share() < WARM_UP or not diversity < COLLAPSED or h.spreading("monitor/class_diversity"):
        return None
    return f"samples of class {row.get('least_diverse_class')} have {diversity:.0%} of the variety of its real images"


def d_wins(h: History) -> str | None:
    """Finds a D that orders every pair right while G's gradient has vanished, or G's samples stay off the data."""
    row = h.rows[-1]
    if h.share() < WARM_UP or not measured(row) or row["monitor/separation"] < WON:
        return None
    apart = f"D tells {row['monitor/separation']:.1%} of the pairs apart"
    gradients = h.values("grad_norm/gen")
    if gradients and gradients[-1] < max(VANISHED * statistics.median(gradients), NOTHING):
        return f"{apart}, and G's gradient has a norm of {gradients[-1]:.1g}"
    quality = row["monitor/quality"]
    if quality >= OFF_DATA or h.rising("monitor/quality"):
        return None
    return f"{apart}, and {quality:.0%} of the samples lie on the data"


def g_wins(h: History) -> str | None:
    """Finds a D that prefers fakes which do not lie on the data."""
    row = h.rows[-1]
    if h.share() < WARM_UP or not measured(row):
        return None
    separation, quality = row["monitor/separation"], row["monitor/quality"]
    if separation > FOOLED or quality >= OFF_DATA or h.rising("monitor/quality"):
        return None
    return f"D prefers the fake in {1 - separation:.0%} of the pairs, and {quality:.0%} of the samples lie on the data"


def d_memorises(h: History) -> str | None:
    """Finds a D that has memorised its training data (Karras et al. 2020a, eq. 1).

    Such a D puts held-out reals nearer to the fakes than to the reals that it was trained on.
    """
    row = h.rows[-1]
    if "monitor/heldout" not in row:
        return None
    real, heldout, fake = (_number(row.get(f"monitor/{name}")) for name in ("real", "heldout", "fake"))
    gap = real - fake
    apart = _number(row.get("monitor/memorised"))
    if not (gap > 0 and (real - heldout) / gap >= MEMORISED and apart >= 0.8):  # NaN: nothing is known
        return None
    return f"D gives its reals {real:.2g}, reals it never saw {heldout:.2g}, fakes {fake:.2g}"


def still_learning(h: History) -> str | None:
    """Finds a run in which, late, most samples are still off the data, and nothing worse is wrong."""
    row = h.rows[-1]
    if h.share() < LATE or not measured(row) or (quality := row["monitor/quality"]) >= OFF_DATA:
        return None
    return f"{quality:.0%} of the samples lie on the data"


SIGNS: dict[str, Sign] = {
    "divergence": divergence,
    "mode collapse": mode_collapse,
    "partial collapse": partial_collapse,
    "class collapse": class_collapse,
    "D wins": d_wins,
    "G wins": g_wins,
    "D memorises": d_memorises,
}
# What says more stands for what follows from it.
HIDES = {
    "divergence": {"mode collapse", "partial collapse", "class collapse", "D wins", "G wins"},
    "mode collapse": {"partial collapse", "class collapse"},
}


def judge_rows(rows: Sequence[Row], total_steps: int) -> list[Verdict]:
    """Returns the verdicts at the last of `rows`, the gravest first; empty where all is well.

    A sign becomes a verdict when `SUSTAINED` of the last `WINDOW` rows show it; a number that is not finite is one at
    once, since nothing good comes after it.

    Args:
      rows: log lines of `metrics.jsonl`, in order; those without the monitor's numbers count for what they have.
      total_steps: length of the run.
    """
    if rows and (found := not_finite(rows[-1])):
        return [Verdict("divergence", "bad", int(rows[-1]["step"]), found)]
    probed = [row for row in rows if measured(row)]
    rows = probed or [row for row in rows if "loss/gen" in row]
    verdicts: list[Verdict] = []
    hidden: set[str] = set()
    for name, sign in SIGNS.items():
        if name in hidden:
            continue
        seen = _signs(sign, rows, total_steps)
        if len(seen) >= SUSTAINED:
            verdicts.append(Verdict(name, "bad", seen[0][0], seen[-1][1]))
            hidden |= HIDES.get(name, set())
    if not verdicts and (found := harmless_oscillation(rows)):
        verdicts.append(Verdict("harmless oscillation", "fine", int(rows[-1]["step"]), found))
    if not verdicts and len(seen := _signs(still_learning, rows, total_steps)) >= SUSTAINED:
        verdicts.append(Verdict("still learning", "fine", seen[0][0], seen[-1][1]))
    return verdicts


def judge_run(rows: Sequence[Row], total_steps: int, reason: str | None) -> list[Verdict]:
    """Returns the verdicts on a run that ended for `reason`: as `judge_rows`, but one that diverged is never healthy.

    Its fault may have come between two log lines, or too late to last.
    """
    verdicts = judge_rows(rows, total_steps)
    if reason != DIVERGED or any(verdict.name == "divergence" for verdict in verdicts):
        return verdicts
    since = int(rows[-1]["step"]) if rows else 0
    found = Verdict("divergence", "bad", since, "the run ended at a loss or gradient that was not finite")
    return [found, *(v for v in verdicts if v.severity == "bad" and v.name not in HIDES["divergence"])]


def measured(row: Row) -> bool:
    """Returns True if the row has the monitor's own numbers, as far as the rules need them."""
    return all(math.isfinite(_number(row.get(f"monitor/{name}"))) for name in MEASURED)


def _signs(sign: Sign, rows: Sequence[Row], total_steps: int) -> list[tuple[int, str]]:
    """Returns (step, evidence) of the last `WINDOW` rows that show the sign; none if the last row does not show it."""
    history = History(rows, total_steps)
    seen = []
    for back in range(min(WINDOW, len(rows))):
        at = history.before(back)
        evidence = sign(at)
        if evidence is None and back == 0:
            return []
        if evidence is not None:
            seen.append((int(at.rows[-1]["step"]), evidence))
    return seen[::-1]


def harmless_oscillation(rows: Sequence[Row]) -> str | None:
    """Finds a loss far outside of its usual range in the last row, while the coverage is the same as before."""
    if len(rows) < 8 or not measured(rows[-1]):
        return None
    coverage = [row["monitor/coverage"] for row in rows if measured(row)]
    if coverage[-1] < max(PARTIAL, statistics.median(coverage[-8:]) - RISE):
        return None
    for name in ("loss/gen", "loss/dis"):
        values = [_number(row[name]) for row in rows if name in row]
        if len(values) < 8:
            continue
        usual = statistics.median(values[-21:-1])
        scatter = 1.4826 * statistics.median(abs(value - usual) for value in values[-21:-1])
        if abs(values[-1] - usual) > SPIKE * max(scatter, 1e-3 * abs(usual)):
            jump = f"{name} jumped from {usual:.3g} to {values[-1]:.3g}"
            return f"{jump}, samples still reach {coverage[-1]:.0%} of the data"
    return None
