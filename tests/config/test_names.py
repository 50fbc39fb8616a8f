"""What a config may choose is what there is: names and facts that are read from the source equal the registries."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ganjax.config import names, rules
from ganjax.config.options import BY_KEY
from ganjax.data import DATASETS
from ganjax.data.augment import NOISE_SCHEDULES, POLICIES
from ganjax.evals.metrics.measures import MEASURES
from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import PENALTIES
from ganjax.models import MODELS
from ganjax.training.optim import OPTIMIZERS

REGISTRIES = {
    "LOSSES": LOSSES,
    "PENALTIES": PENALTIES,
    "OPTIMIZERS": OPTIMIZERS,
    "DATASETS": DATASETS,
    "POLICIES": POLICIES,
    "NOISE_SCHEDULES": NOISE_SCHEDULES,
    "MEASURES": MEASURES,
    "FAMILIES": MODELS,
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_names_and_facts_are_those_of_the_registry(name: str) -> None:
    read, registry = getattr(names, name), REGISTRIES[name]
    assert list(read) == list(registry)
    for key, facts in read.items():
        for fact, value in facts.items() if dataclasses.is_dataclass(registry[key]) else ():
            assert getattr(registry[key], fact) == value, (key, fact)


@pytest.mark.parametrize(
    ("registry", "fact", "found"),
    [
        (LOSSES, "has_targets", rules.TARGET_LOSSES),
        (LOSSES, "whole_batch", rules.WHOLE_BATCH_LOSSES),
        (DATASETS, "points", rules.MIXTURES),
        (DATASETS, "in_memory", rules.IN_MEMORY),
        (MODELS, "attention", rules.ATTENTIVE),
    ],
)
def test_no_fact_is_overlooked(registry: dict[str, object], fact: str, found: names.Names) -> None:
    """One that is computed in the registry's file could not be read."""
    assert tuple(found) == tuple(name for name, entry in registry.items() if getattr(entry, fact))


def test_norms_of_the_families() -> None:
    assert {name: family.gen_norm for name, family in MODELS.items()} == {
        name: rules.own_norm(name) for name in MODELS
    }
    assert [name for name, family in MODELS.items() if not family.dis_norm] == list(rules.NO_DIS_NORM)
    assert [name for name, family in MODELS.items() if not family.resolutions] == list(rules.OF_POINTS)


def test_choices_come_from_the_registries() -> None:
    assert list(BY_KEY["loss.name"].choices) == list(LOSSES)
    assert list(BY_KEY["penalty.name"].choices) == ["none", *PENALTIES]
    assert BY_KEY["gen.optimizer.name"].choices == BY_KEY["dis.optimizer.name"].choices == tuple(OPTIMIZERS)
    assert list(BY_KEY["model.name"].choices) == list(MODELS)
    assert BY_KEY["noise.schedule"].choices == (*NOISE_SCHEDULES, "ada")
    assert set(BY_KEY["eval.best"].choices) == {n for m in MEASURES.values() for n in m.higher_is_better}


def test_a_registry_that_is_computed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.py").write_text("LOSSES = dict(hinge=1)\nOTHERS: dict = {'a': f(b=1, c=g()), 'd': 2}\n")
    monkeypatch.setattr(names, "PACKAGE", tmp_path)
    assert names.read_registry("x.py", "OTHERS") == {"a": {"b": 1}, "d": {}}
    with pytest.raises(ValueError, match="no dict LOSSES"):
        names.read_registry("x.py", "LOSSES")
