"""The network families. A family is a pair of Linen modules with one contract:

* G: `(latents [N, Z], labels=None, *, train) -> tuple of images`, lowest resolution first, the sample last.
* D: `(tuple of images, labels=None, *, train) -> logits [N] float32`; it sows its last features as
  `intermediates/features`.

Labels are [N] int32, for films between classes G's are weights of them, [N, K] float32 (`layers.plain.Embed`); networks
made for no classes ignore them. A new family is one file here with a `FAMILY`; its name
is the file's. `docs/models.md` has one of 40 lines.
"""

from __future__ import annotations

from importlib import import_module

from ganjax.config.names import FAMILIES
from ganjax.models.base import Family

MODELS: dict[str, Family] = {name: import_module(f"ganjax.models.{name}").FAMILY for name in FAMILIES}
