"""ganjax: stable GAN training in JAX, with the practical lessons of the field as switches.

run = ganjax.train("quickstart", "runs/quickstart")
images = run.sample(16, key=0)
"""

import importlib
from typing import TYPE_CHECKING, Any

from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.version import __version__

if TYPE_CHECKING:
    from ganjax.data import register_dataset
    from ganjax.data.augment.diffaugment import register_augmentation
    from ganjax.evals.features import register_feature_network
    from ganjax.evals.metrics.measures import register_metric
    from ganjax.losses.adversarial import register_loss
    from ganjax.losses.penalties import register_penalty
    from ganjax.models import register_model
    from ganjax.run.api import Run, load, train

__all__ = [
    "DivergedError",
    "Run",
    "UserError",
    "__version__",
    "load",
    "register_augmentation",
    "register_dataset",
    "register_feature_network",
    "register_loss",
    "register_metric",
    "register_model",
    "register_penalty",
    "train",
]

_WHERE = {
    **dict.fromkeys(("Run", "load", "train"), "run.api"),
    "register_augmentation": "data.augment.diffaugment",
    "register_dataset": "data",
    "register_feature_network": "evals.features",
    "register_loss": "losses.adversarial",
    "register_metric": "evals.metrics.measures",
    "register_model": "models",
    "register_penalty": "losses.penalties",
}


def __getattr__(name: str) -> Any:
    """Imports what needs JAX at its first use: the command line reports a mistake before JAX has started."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"ganjax.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'ganjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
