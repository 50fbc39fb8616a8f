"""BigGAN and BigGAN-deep (Brock et al. 2019, appendix B, tables 4 to 9), for 32 to 256 pixels, with labels or without.

G is spectrally normalised like D (`gen.spectral_norm`), starts orthogonal, and every batch norm but the last is
modulated by a shared embedding of the class and a part of z: BigGAN splits z over its blocks, BigGAN-deep gives each
all of it. D is SNGAN's with projection, but wider inside its blocks, and starts orthogonal too. Multi-scale gradients
join as in `ganjax.models.dcgan`. With 8 and 16 pixels, for small trials, the table of 32 loses its last levels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from ganjax.models.base import BASE, SUMS, Family, Spec, levels
from ganjax.models.blocks import add_scale, block
from ganjax.models.layers.conditional import ModulatedBatchNorm, SelfAttention
from ganjax.models.layers.convolution import PLAIN, UP, upsample
from ganjax.models.layers.layers import Conv, Dense, Dtype, Norm
from ganjax.models.layers.plain import Embed
from ganjax.models.resnet import ResNetDiscriminator

ORTHOGONAL = nn.initializers.orthogonal()
SHARED = 128  # size of the shared embedding of the class

# Channels in units of `width`: of G's 4×4 map and of each level after it; and of each block of D, of which the first
# ones halve the image.
GEN_TABLE: dict[int, tuple[int, ...]] = {
    8: (4, 4),
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
DIS_TABLE: dict[int, tuple[tuple[int, ...], int]] = {
    8: ((4, 4, 4), 1),
    16: ((4, 4, 4, 4), 2),
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def sides(resolution: int) -> tuple[int, ...]:
    """Returns the sides of G's feature maps after each level: `sides(32) == (8, 16, 32)`; see `resnet.sides`."""
    return levels(resolution)[1:]


class BigGANGenerator(nn.Module):
    """Generator of BigGAN, from z [N, Z] to a tuple of images [N, r, r, C] in [-1, 1], one of each side in `sides`.

    `deep` makes it BigGAN-deep's, with `depth` bottleneck blocks a level.
    """

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 96
    max_width: int = 1 << 30
    depth: int = 2
    deep: bool = False
    norm: str = "batch"
    spectral: int = 1
    classes: int = 0
    attention: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns the images of `latents` [N, Z] float32 and `labels` [N] int32.

        Z has at least one coordinate a level and one more.
        """
        features = [min(self.width * times, self.max_width) for times in GEN_TABLE[self.resolution]]
        first, conditions = self._conditions(latents, labels, len(features) - 1)
        x = Dense(BASE * BASE * features[0], self.spectral, kernel_init=ORTHOGONAL, dtype=self.dtype)(first)
        x = x.reshape(x.shape[0], BASE, BASE, features[0])
        images: list[jax.Array] = []
        rgb = None
        for channels, condition in zip(features[1:], conditions, strict=True):
            if self.deep:
                for i in range(self.depth):
                    last = i == self.depth - 1
                    out = channels if last else x.shape[-1]
                    body = BigGANGenerator._deep_block
                    x = block(self, body, x, condition, channels=out, up=last, train=train)
            else:
                x = block(self, BigGANGenerator._block, x, condition, channels=channels, train=train)
            if x.shape[1] == self.attention:
                x = SelfAttention(self.spectral, kernel_init=ORTHOGONAL, dtype=self.dtype)(x)
            if x.shape[1] in self.sides:
                rgb = add_scale(rgb, self._to_rgb(x, train))
                images.append(nn.tanh(rgb))
        return tuple(image.astype(jnp.float32) for image in images)

    def _to_rgb(self, x: jax.Array, train: bool) -> jax.Array:
        """Makes the image: norm, ReLU, 3×3."""
        x = nn.relu(Norm("batch", train, self.axis_name, self.dtype)(x))
        return self._conv(self.image_channels, 3)(x)

    def _conditions(
        self, latents: jax.Array, labels: jax.Array | None, blocks: int
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Returns the inputs of the dense layer and of each level: parts of z, with deep all of z, beside the class."""
        z = latents.astype(self.dtype)
        told = []
        if self.classes:
            assert labels is not None
            # As in the authors' code the embedding is not spectrally normalised.
            table = Embed(self.classes, SHARED, embedding_init=ORTHOGONAL, dtype=self.dtype)
            told = [table(labels)]
        if self.deep:
            whole = jnp.concatenate([z, *told], axis=-1)
            return whole, [whole] * blocks
        chunk = z.shape[-1] // (blocks + 1)
        parts = [z[:, i * chunk : (i + 1) * chunk] for i in range(blocks + 1)]
        return parts[0], [jnp.concatenate([*told, part], axis=-1) for part in parts[1:]]

    def _conv(self, features: int, size: int, resample: str = PLAIN) -> Conv:
        return Conv(
            features, size, self.spectral, resample=resample, kernel_init=ORTHOGONAL, dtype=self.dtype
        )

    def _act(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
        norm = ModulatedBatchNorm(train, self.spectral, ORTHOGONAL, self.axis_name, self.dtype)
        return nn.relu(norm(x, condition))

    def _block(self, x: jax.Array, condition: jax.Array, *, channels: int, train: bool) -> jax.Array:
        """Applies norm, ReLU, ×2, 3×3, norm, ReLU, 3×3, beside ×2 and 1×1 (figure 15)."""
        y = self._conv(channels, 3, UP)(self._act(x, condition, train))
        y = self._conv(channels, 3)(self._act(y, condition, train))
        return y + upsample(self._conv(channels, 1)(x))

    def _deep_block(
        self, x: jax.Array, condition: jax.Array, *, channels: int, up: bool, train: bool
    ) -> jax.Array:
        """Applies 1×1 to a quarter, 3×3, 3×3, 1×1 back, each after norm and ReLU.

        The shortcut drops channels (figure 16).
        """
        hidden = max(1, x.shape[-1] // 4)
        y = self._conv(hidden, 1)(self._act(x, condition, train))
        y = self._act(y, condition, train)
        y = self._conv(hidden, 3, UP if up else PLAIN)(y)
        y = self._conv(hidden, 3)(self._act(y, condition, train))
        y = self._conv(channels, 1)(self._act(y, condition, train))
        x = x[..., :channels]
        return y + (upsample(x) if up else x)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D of BigGAN for square images of 8 to 256 pixels."""
    gen = BigGANGenerator(attention=spec.attention, **spec.images("gen"))
    dis = ResNetDiscriminator(
        attention=spec.attention,
        table=FrozenDict(DIS_TABLE),
        kernel_init=ORTHOGONAL,
        block_init=ORTHOGONAL,
        wide=True,
        **spec.images("dis"),
    )
    return gen, dis


FAMILY = Family(
    networks,
    tuple(GEN_TABLE),
    sides,
    reshaped=(SUMS + " after each level",),
    attention=True,
    gen_norm="batch",
)
