"""What a study concludes: found where there is something, not where there is nothing, and nothing from nothing."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

from ganjax.study import inference
from ganjax.study.analysis import analyse
from ganjax.study.tables import describe, to_csv

METRICS = [{"name": "quality", "better": "higher"}, {"name": "kl", "better": "lower"}]
QUALITY = METRICS[:1]


def run(variant="base", seed=0, quality=0.0, *, status="completed", **more):
    metrics = {} if quality is None else {"quality": quality}
    return {
        "variant": variant,
        "group": "5 learning rate",
        "seed": seed,
        "base": variant == "base",
        "status": status,
        "reason": "" if status == "completed" else "loss/dis stopped being finite",
        "differences": {} if variant == "base" else {"gen.optimizer.learning_rate": [0.002, 0.008]},
        "steps": 4000,
        "images": 512000,
        "seconds": 10.0 if variant == "base" else 15.0,
        "metrics": metrics,
        "verdicts": [],
        "collapsed": False,
        **more,
    }


def study(**values):
    """Records of variants given as lists of values by seed, None for a run that failed."""
    return [
        run(name, seed, value, status="failed" if value is None else "completed")
        for name, of in values.items()
        for seed, value in enumerate(of)
    ]


def compared(records, variant="other", metrics=QUALITY):
    found = analyse(records, metrics, "base")
    return next(v for v in found.variants if v.name == variant).comparisons[metrics[0]["name"]]


def verdicts(seeds, effect, repeats=300):
    rng = np.random.default_rng(20261124)
    for _ in range(repeats):
        base, other = rng.normal(size=(2, seeds))
        yield compared(study(base=base, other=other + effect)).verdict


def test_nothing_is_seen_in_the_base_against_itself():
    found = list(verdicts(seeds=10, effect=0.0))
    assert found.count("no difference seen") >= 0.95 * len(found)


def test_an_effect_of_one_standard_deviation_is_found_with_20_seeds():
    found = list(verdicts(seeds=20, effect=1.0))
    assert found.count("better") >= 0.8 * len(found) and "worse" not in found


def test_five_seeds_are_too_few_for_one_standard_deviation_and_say_so():
    found = list(verdicts(seeds=5, effect=1.0, repeats=100))
    assert found.count("too few seeds") >= 0.8 * len(found) and "no difference seen" not in found
    found = list(verdicts(seeds=5, effect=6.0, repeats=100))  # what cannot be overlooked is found
    assert found.count("better") >= 0.9 * len(found)


def test_forty_comparisons_of_nothing_give_no_verdict():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(5):
        records = study(**{name: rng.normal(size=10) for name in ["base", *(f"v{i}" for i in range(40))]})
        found = analyse(records, QUALITY, "base")
        assert found.comparisons == 40
        alarms += any(
            c.verdict in ("better", "worse") for v in found.variants for c in v.comparisons.values()
        )
    assert alarms <= 1


def test_direction_follows_the_metric():
    records = study(base=[1.0, 1.1, 0.9, 1.05, 0.95, 1.0], other=[5.0, 5.2, 4.9, 5.1, 5.0, 4.8])
    for record in records:
        record["metrics"]["kl"] = record["metrics"]["quality"]
    up, down = (compared(records, metrics=[metric]) for metric in METRICS)
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.difference == down.difference == pytest.approx(4.0)
    assert up.interval == pytest.approx(down.interval)
    assert up.effect == pytest.approx(-down.effect) and up.effect > 0
    assert up.effect_interval == pytest.approx([-bound for bound in reversed(down.effect_interval)])
    assert (up.improvement, down.improvement) == (1.0, 0.0)


def test_p_values_are_scipys_and_corrected_by_holm():
    rng = np.random.default_rng(3)
    base = rng.normal(size=10)
    others = {f"v{i}": base + rng.normal(scale=0.3, size=10) + i / 3 for i in range(3)}
    found = analyse(study(base=base, **others), QUALITY, "base")
    p = {v.name: v.comparisons["quality"] for v in found.variants if not v.base}
    expected = [stats.ttest_rel(values, base).pvalue for values in others.values()]
    assert [c.test for c in p.values()] == ["signs"] * 3
    # All 1024 signs give nearly the p-value of the t-test where differences are normal.
    assert [c.p for c in p.values()] == pytest.approx(expected, rel=0.5, abs=0.01)
    few = analyse(study(base=base[:5], **{k: v[:5] for k, v in others.items()}), QUALITY, "base")
    for variant in few.variants[1:]:
        c = variant.comparisons["quality"]
        assert c.test == "t"
        assert c.p == pytest.approx(stats.ttest_rel(others[variant.name][:5], base[:5]).pvalue)
    assert inference.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert inference.holm([0.6, 0.9, 0.1]) == pytest.approx([1.0, 1.0, 0.3])  # no probability is above 1


def test_what_few_or_equal_values_say():
    x = [1.0, 2.0, 4.0]
    found = inference.spread(x)
    half = stats.t.ppf(0.975, 2) * np.std(x, ddof=1) / 3**0.5
    assert (found.n, found.median) == (3, 2.0)
    assert (found.mean, found.std) == pytest.approx((7 / 3, np.std(x, ddof=1)))
    assert found.interval == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert inference.spread([5.0]) == inference.Spread(1, 5.0, 5.0, None, None)
    assert inference.spread([]) == inference.Spread(0, None, None, None, None)
    assert inference.spread([3.0, 3.0]).interval == (3.0, 3.0)
    one, none = np.ones(3), np.array([])
    assert inference.test_ranks(one, one) == (1.0, "ranks")
    assert inference.test_ranks(none, one) is None and inference.test_ranks(one, none) is None
    assert inference.improvement(none, one) is None and inference.improvement(one, none) is None
    assert inference.improvement(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875  # a tie is half
    p, test = inference.test_pairs(np.array([1.0, 2.0]), 1)
    assert test == "t" and p == pytest.approx(stats.ttest_1samp([1.0, 2.0], 0.0).pvalue)
    eight = np.random.default_rng(0).normal(size=8)
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, 7) * (8 / 7) ** 0.5) - 1
    options = {"n_resamples": inference.RESAMPLES, "confidence_level": level, "method": "BCa", "rng": 0}
    found = stats.bootstrap((eight,), np.mean, **options).confidence_interval
    assert inference.mean_interval(eight) == pytest.approx((found.low, found.high))
    assert inference.test_pairs(one[:1], 1) is None and inference.share_interval(0, 0) is None
    assert inference.alike(np.array([1.0, 1.0 + 1e-12])) and not inference.alike(np.array([1.0, 1.0 + 1e-6]))


def test_one_lucky_seed_carries_no_verdict():
    base = [0.0] * 10
    steady = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.3, 0.7, 1.0, 1.1]
    lucky = [0.4, 1.5, 0.0, 0.6, 0.3, 0.6, 0.3, 0.1, -0.1, 1.9]
    assert compared(study(base=base, other=steady)).verdict == "better"
    found = compared(study(base=base, other=lucky))
    assert found.p < 0.05 and found.interval[0] > 0 and found.verdict == "no difference seen"


def test_failures_count_as_worse_whatever_the_survivors_say():
    base = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 1.25, 0.85]
    failing = [None] * 8 + [1.3, 1.4]
    found = compared(study(base=base, other=failing))
    assert (found.verdict, found.test, found.pairs, found.failed) == ("worse", "ranks", 2, 8)
    assert found.improvement == pytest.approx(2 * 10 / 100)
    # Nor is a variant better that wins where it does not fail.
    found = compared(study(base=base, other=[None] + [value + 2 for value in base[1:]]))
    assert found.verdict not in ("better", "worse") and found.improvement > 0.8
    assert compared(study(base=failing, other=base)).verdict == "better"
    assert compared(study(base=base, other=[None] * 10)).verdict == "worse"
    assert compared(study(base=[None] * 6, other=[None] * 6)).verdict == "too few seeds"


def test_values_without_scatter_break_nothing():
    same = compared(study(base=[25.0] * 6, other=[25.0] * 6))
    assert (same.verdict, same.p, same.interval, same.effect) == ("too few seeds", 1.0, (0.0, 0.0), None)
    assert compared(study(base=[25.0] * 8, other=[25.0] * 8)).verdict == "no difference seen"
    collapsed = compared(study(base=[25.0] * 5, other=[1.0] * 5))
    assert (collapsed.verdict, collapsed.test) == ("worse", "ranks")
    assert collapsed.p == pytest.approx(2 / math.comb(10, 5))
    assert compared(study(base=[0.1 + 0.2] * 8, other=[0.3] * 8)).verdict == "no difference seen"


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_runs_and_missing_values_give_no_verdict(n):
    records = study(base=[1.0] * n, other=np.arange(n) + 100.0)
    found = compared(records)
    assert found.verdict == "too few seeds" and found.pairs == n
    assert (found.interval is None) == (n == 1)
    records[0]["metrics"]["quality"] = math.nan
    assert compared(records).pairs == n - 1
    records[0]["metrics"] = None
    assert compared(records).pairs == n - 1


def test_a_study_without_its_base_or_without_runs_is_described():
    assert "No variant has 5 seeds" in describe(analyse([], METRICS, "base"))
    found = analyse(study(other=[1.0, 2.0]), METRICS, "base")
    assert [v.name for v in found.variants] == ["base", "other"]
    assert found.variants[1].comparisons["quality"].verdict == "too few seeds"
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["base"] == "base"
    assert "other" in describe(found)


def test_rates_costs_and_the_median_seed():
    records = study(base=[1.0, 2.0, 3.0, 4.0], other=[5.0, None, 4.0, 9.0])
    records[5] |= {"status": "diverged"}
    records[6] |= {"collapsed": True, "verdicts": ["mode collapse"]}
    records.append(
        records[4] | {"metrics": {"quality": 6.0}}
    )  # the later line of a run that was started again
    base, other = analyse(records, METRICS, "base").variants
    assert (other.runs, other.completed, other.diverged, other.failed, other.collapsed) == (4, 3, 1, 0, 1)
    assert other.failure_interval == pytest.approx((0.0456, 0.6994), abs=1e-3)  # Wilson, 1 of 4
    assert (base.cost, other.cost) == (1.0, 1.5)
    assert other.metrics["quality"].mean == pytest.approx(19 / 3)
    assert (base.median_seed, other.median_seed) == (1, 0)


def test_small_bootstraps_cover():
    """95 % intervals of the mean hold it in at least 92 % of the samples of five to ten normal values."""
    rng = np.random.default_rng(1)
    for n in (5, 10):
        intervals = [inference.mean_interval(rng.normal(size=n)) for _ in range(300)]
        assert sum(low < 0 < high for low, high in intervals) >= 0.91 * 300


def test_detectable_differences_are_those_of_a_power_analysis():
    """One standard deviation, 20 independent pairs, α = .05: 86 % (statsmodels' TTestPower for d = 1/√2)."""
    assert inference.detectable(20, 1) == pytest.approx(0.934, abs=0.01)
    assert inference.detectable(5, 1) > 2 and inference.detectable(20, 40) > inference.detectable(20, 1)


def test_groups_may_be_families_of_their_own():
    rng = np.random.default_rng(5)
    records = study(**{name: rng.normal(size=8) for name in ("base", "a", "b", "c")})
    for record in records:
        record["group"] = "one" if record["variant"] == "a" else "two"
    alone = analyse(records, QUALITY, "base", correct_within="group").variants[1].comparisons["quality"]
    together = analyse(records, QUALITY, "base").variants[1].comparisons["quality"]
    assert alone.p_corrected == alone.p and together.p_corrected >= together.p


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1"])
def test_no_cell_is_a_formula(text):
    records = study(base=[1.0, 2.0], other=[1.0, None])
    for record in records:
        record |= {
            "variant": text,
            "reason": text,
            "verdicts": [text],
            "metrics": {**record["metrics"], text: 1.0},
        }
    rows = list(csv.reader(io.StringIO(to_csv(records, METRICS))))
    assert not [cell for row in rows for cell in row if cell.strip().startswith(("=", "+", "-", "@"))]
    assert rows[1][0] == f"'{text}" and f"'{text}" in rows[0]


def test_tables_hold_any_text():
    nasty = "lr | <b>x4</b>\n`rm`"
    records = study(base=[1.0, 2.0, 1.5, 1.2, 1.7, 1.4], other=[1.0, None, 1.0, 2.0, 3.0, 4.0])
    for record in records:
        if record["variant"] == "other":
            record |= {
                "variant": nasty,
                "verdicts": ["mode collapse", "D wins"],
                "reason": 'a "quote", a comma',
            }
    found = analyse(records, METRICS, "base")
    text = describe(found)
    assert "<b>" not in text and "5 of 6" in text
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:5]} == {13}
    table = list(csv.DictReader(io.StringIO(to_csv(records, METRICS))))
    assert (
        len(table) == 12 and table[6]["variant"] == nasty and table[6]["verdicts"] == "mode collapse; D wins"
    )
    assert (
        table[7]["status"] == "failed"
        and table[7]["quality"] == ""
        and table[7]["reason"] == 'a "quote", a comma'
    )
    assert json.loads(table[6]["differences"]) == {"gen.optimizer.learning_rate": [0.002, 0.008]}
