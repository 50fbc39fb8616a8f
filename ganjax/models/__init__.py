"""The network families. A family is a pair of Linen modules with one contract:

* G: `(latents [N, Z], labels=None, *, train) -> tuple of images`, lowest resolution first, the sample last.
* D: `(tuple of images, labels=None, *, train) -> logits [N] float32`; it sows its last features as
  `intermediates/features`.

Labels are [N] int32, for films between classes G's are weights of them, [N, K] float32 (`layers.plain.Embed`); networks
made for no classes ignore them. A family of the package is one file here with a `FAMILY`; its name is the file's. One
from elsewhere is registered (`docs/extending.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import flax.linen as nn

from ganjax.config import plugins
from ganjax.config.names import FAMILIES
from ganjax.models.base import Family, Spec, levels

MODELS: dict[str, Family] = {name: import_module(f"ganjax.models.{name}").FAMILY for name in FAMILIES}


def register_model(
    name: str,
    *,
    resolutions: tuple[int, ...] = (),
    sides: Callable[[int], tuple[int, ...]] = levels,
    attention: bool = False,
    gen_norm: str | None = None,
    dis_norm: bool = True,
    truncates: bool = False,
) -> Callable[[Callable[[Spec], Any]], Callable[[Spec], Any]]:
    """Returns a decorator that adds a family of networks to the choices of `model.name`.

    Args:
      name: a name of its own. What is decorated is a function from a `Spec` to (G, D), two Linen modules with the
        contract above.
      resolutions, sides, attention, gen_norm, dis_norm, truncates: what ganjax has to know of it, see `Family`.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, _: Spec) -> str:
        right = isinstance(found, tuple) and [isinstance(net, nn.Module) for net in found] == [True, True]
        return "" if right else f"gives (G, D), two Linen modules; it gave {plugins.shown(found)}"

    def family(networks: Callable[[Spec], Any]) -> Family:
        return Family(networks, tuple(resolutions), sides, attention, gen_norm, dis_norm, truncates)

    return plugins.decorator("model", name, MODELS, problem, family)
