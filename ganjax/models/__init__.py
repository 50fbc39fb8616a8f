"""The network families. A family is a pair of Linen modules with one contract:

* G: `(latents [N, Z], labels=None, *, train) -> tuple of images`, lowest resolution first, the sample last.
* D: `(tuple of images, labels=None, *, train) -> logits [N] float32`; it sows its last features as
  `intermediates/features`.

Labels are [N] int32; networks made for no classes ignore them. A new family is one file with a `FAMILY`, a line
here and its name among the choices of `model.name` in `ganjax/options.py`.
"""

from __future__ import annotations

from ganjax.models import biggan, dcgan, mlp, progan, r3gan, resnet, stylegan2
from ganjax.models.family import Family

MODELS: dict[str, Family] = {
    "mlp": mlp.FAMILY,
    "dcgan": dcgan.FAMILY,
    "resnet": resnet.FAMILY,
    "biggan": biggan.FAMILY,
    "biggan_deep": biggan.DEEP_FAMILY,
    "progan": progan.FAMILY,
    "stylegan2": stylegan2.FAMILY,
    "r3gan": r3gan.FAMILY,
}
