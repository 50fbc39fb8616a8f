"""How many modes a run covers: of the ring, the grid, stacked digits (1000), or the classes of digits and clothes.

    python tools/modes.py --workdir=runs/ring --samples=2500
    python tools/modes.py --workdir=runs/stacked --samples=26000

Samples come from the averaged weights of the newest checkpoint. Prints one JSON line: `modes` of `of`, `kl` in nats
from the uniform distribution, and `high_quality`, the share within 3 standard deviations of a mode (mixtures), or
`accuracy` of the classifier of single images (else).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data import Dataset, fit_images
from ganjax.evals.features.classifiers import SHIPPED, load_classifier, stacked_modes
from ganjax.evals.metrics.modes import class_modes, count_modes, mixture_kl
from ganjax.runtime.errors import UserError


def judge(samples: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    """The measures of `samples`, uint8 [N, H, W, C] or points [N, 2], of a generator trained on `dataset`."""
    if dataset.modes is not None:
        assert dataset.std is not None
        covered, quality = count_modes(samples, dataset.modes, dataset.std)
        kl = mixture_kl(samples, dataset.modes)
        return {"modes": covered, "of": len(dataset.modes), "kl": kl, "high_quality": quality}
    stacked = dataset.name == "stacked_digits"
    name = "digits" if stacked else dataset.name
    if name not in SHIPPED:
        raise UserError(
            f"modes are known of ring, grid, stacked_digits, {', '.join(SHIPPED)}; not of {name}."
        )
    classifier = load_classifier(name)
    images = fit_images(samples, classifier.shape[0])
    labels = stacked_modes(classifier, images) if stacked else classifier.predict(images)
    covered, kl = class_modes(labels, dataset.num_classes)
    return {"modes": covered, "of": dataset.num_classes, "kl": kl, "accuracy": classifier.accuracy}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=26_000)
    parser.add_argument("--seed", type=int, help="of the latents (default: the run's)")
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    arguments = parser.parse_args()
    from ganjax.run.open import open_run

    try:
        run = open_run(arguments.workdir, n=arguments.samples, seed=arguments.seed, step=arguments.step)
        samples = run.sampler(run.variables, arguments.samples)[-1]
        facts = judge(samples, run.dataset)
    except UserError as error:
        print(f"modes: {error}", file=sys.stderr)
        return error.exit_code
    row = {"workdir": str(arguments.workdir), "data": run.dataset.name, "step": run.step}
    print(json.dumps({**row, "samples": arguments.samples, **facts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
