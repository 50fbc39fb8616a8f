"""Measures samples against real ones: features, statistics, metrics with intervals, and the protocol of it all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ganjax.data import Dataset
from ganjax.evals.features import FeatureNetwork, choose
from ganjax.evals.metrics.measures import Case, measure
from ganjax.evals.metrics.protocol import Measurement, Protocol, code_version
from ganjax.evals.metrics.statistics import gather, of_reference
from ganjax.runtime.files import cache_dir
from ganjax.runtime.logs import Stages


class Evaluator:
    """An evaluator that compares samples with one reference. Training makes it once and calls it often."""

    def __init__(
        self, dataset: Dataset, split: str, features: str = "", stages: Stages | None = None
    ) -> None:
        """Sets up the evaluator.

        Args:
          dataset, split: the real samples.
          features: see `metrics.features.choose`.
          stages: says what is being computed; nothing by default.
        """
        self.dataset, self.split = dataset, split
        self._stages = stages or Stages(enabled=False)
        with self._stages("Computing features of the real samples"):
            self.network: FeatureNetwork = choose(features, dataset)
            self.reals = of_reference(dataset, self.network, split, cache_dir("metrics"))

    def __call__(
        self,
        blocks: Iterable[np.ndarray],
        names: Sequence[str],
        *,
        weights: str,
        seed: int,
        step: int,
        origin: str,
        class_shares: str = "",
        quick: bool = False,
    ) -> list[Measurement]:
        """Measures samples that come in blocks; `quick` leaves out floors, and makes rougher intervals."""
        with self._stages("Making samples and their features"):
            fakes = gather(blocks, self.network)
        case = Case(self.reals, fakes, self.dataset, self.network, seed, rough=quick)
        protocol = Protocol(
            features=self.network.name,
            features_sha256=self.network.sha256,
            resize=self.network.resize,
            reference=self.dataset.name,
            split=self.split,
            reference_sha256=self.dataset.fingerprint,
            reference_count=self.reals.count,
            sample_count=fakes.count,
            weights=weights,
            class_shares=class_shares,
            seed=seed,
            commit=code_version(),
            step=step,
            origin=origin,
        )
        with self._stages(f"Measuring {', '.join(names)}"):
            return measure(names, case, protocol, floor=not quick)
