"""Plugins in tests: what one registers is gone after its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganjax.config import names, plugins
from ganjax.data import DATASETS
from ganjax.data.augment import POLICIES
from ganjax.evals.features import FEATURE_NETWORKS
from ganjax.evals.metrics.measures import MEASURES
from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import PENALTIES
from ganjax.models import MODELS

REGISTRIES = (
    *(LOSSES, PENALTIES, MODELS, DATASETS, POLICIES, MEASURES, FEATURE_NETWORKS),
    *(known for known, _ in plugins.KINDS.values()),
    *(names.HIGHER_IS_BETTER, names.MEASURE_OF, plugins.ENTRIES, plugins.SOURCES),
)
BEFORE = [dict(registry) for registry in REGISTRIES]


def forget() -> None:
    """Makes this process as one that has loaded no plugin."""
    for registry, before in zip(REGISTRIES, BEFORE, strict=True):
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for plugins, and a user who has run none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    forget()
