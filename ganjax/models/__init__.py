"""The network families. A family is a pair of Linen modules with one contract:

* G: `(latents [N, Z], labels=None, *, train) -> tuple of images`, lowest resolution first, the sample last.
* D: `(tuple of images, labels=None, *, train) -> logits [N] float32`; it sows its last features as
  `intermediates/features`.
"""

from __future__ import annotations

from ganjax.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganjax.models.mlp import MLPDiscriminator, MLPGenerator

MODELS = {
    "mlp": (MLPGenerator, MLPDiscriminator),
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
}
