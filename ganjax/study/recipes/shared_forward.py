"""Do updates that share their forward passes train as well? `train.shared_forward` against the recipe as it is.

    ganjax ablate --config=shared_forward:ring --workdir=runs/shared_ring --per-device=1

Argument: `ring` (the recipe) or `digits` (`sngan:small,conditional`); five seeds, the recipe's own
number of steps. docs/performance.md has what came out.
"""

from ganjax.config import load_recipe
from ganjax.runtime.errors import UserError, nearest
from ganjax.study import Study, Variant

BASES = {
    "ring": ("ring", {"high_quality": "higher", "modes": "higher", "kl": "lower"}),
    "digits": ("sngan:small,conditional", {"fid": "lower", "coverage": "higher"}),
}


def get_study(arg: str = "ring") -> Study:
    if arg not in BASES:
        raise UserError(
            f"There is no {arg!r} in this study; choose one of {', '.join(BASES)}.{nearest(arg, BASES)}"
        )
    recipe, metrics = BASES[arg]
    base = load_recipe(recipe)
    return Study(
        title=f"Shared forward passes on {arg}",
        base=base,
        variants=[Variant("shared forward", {"train.shared_forward": True}, "speed")],
        metrics=metrics,
        seeds=tuple(range(5)),
        kimg=base.train.steps * base.train.batch_size / 1000,
        evaluations=1,
        samples=10_000 if arg == "ring" else 2_000,
    )
