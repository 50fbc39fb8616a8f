"""ganjax: stable GAN training in JAX, with the practical lessons of the field as switches.

run = ganjax.train("quickstart", "runs/quickstart")
images = run.sample(16, key=0)
"""

import importlib
from typing import TYPE_CHECKING, Any

from ganjax.runtime.errors import DivergedError, UserError
from ganjax.runtime.version import __version__

if TYPE_CHECKING:
    from ganjax.run.api import Run, load, train

__all__ = ["DivergedError", "Run", "UserError", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    """Imports what needs JAX at its first use: the command line reports a mistake before JAX has started."""
    if name in ("Run", "load", "train"):
        return getattr(importlib.import_module("ganjax.run.api"), name)
    raise AttributeError(f"module 'ganjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
