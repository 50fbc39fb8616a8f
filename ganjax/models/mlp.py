"""Multi-layer perceptrons for the 2-D mixtures."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import Family, Spec
from ganjax.models.blocks import logits_of, with_labels
from ganjax.models.layers.layers import Dense, Dtype, Norm


class MLPGenerator(nn.Module):
    """Generator of points: `depth` hidden layers of `width` units from z to a tuple of one [N, 2]."""

    width: int = 128
    depth: int = 3
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns the points of `latents` [N, Z] float32."""
        x = with_labels(latents, labels, self.classes, self.dtype)
        for _ in range(self.depth):
            x = Dense(self.width, spectral=self.spectral, dtype=self.dtype)(x)
            x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        return (Dense(2, spectral=self.spectral, dtype=self.dtype)(x).astype(jnp.float32),)


class MLPDiscriminator(nn.Module):
    """Discriminator of points, from a tuple of one [N, 2·packing] to logits [N].

    It has `depth` hidden layers of `width` units.
    """

    width: int = 128
    depth: int = 3
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    auxiliary: bool = False
    minibatch_discrimination: int = 0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: tuple[jax.Array, ...], labels: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Returns the logits of `images`, a tuple of one [N, 2·packing] float32.

        The last hidden layer is sown as `features`.
        """
        x = images[-1].astype(self.dtype)
        for _ in range(self.depth):
            x = Dense(self.width, spectral=self.spectral, dtype=self.dtype)(x)
            x = nn.leaky_relu(Norm(self.norm, train, self.axis_name, self.dtype)(x), 0.2)
        self.sow("intermediates", "features", x)
        dense = lambda features: Dense(features, spectral=self.spectral, dtype=self.dtype)
        return logits_of(self, x, labels, dense)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for 2-D points."""
    gen = MLPGenerator(depth=spec.gen["depth"], **spec.common("gen"))
    dis = MLPDiscriminator(depth=spec.dis["depth"], **spec.common("dis"))
    return gen, dis


FAMILY = Family(networks)
