"""The residual networks of SNGAN (Miyato et al. 2018, tables 4 to 6), with or without labels, attention and MSG.

The tables are those for 32 (CIFAR-10), 48 (STL-10) and 128 pixels (ImageNet); 64 is that of 128 without its last
level, as in torch-mimicry; 8 and 16 follow the one for 32, for small trials. With labels G's batch norms are
class-conditional and D projects (Miyato & Koyama 2018). Multi-scale gradients join each scale as in
`ganjax.models.dcgan`.

Two options choose between the authors' codes where these differ:

* with self-attention the networks are SAGAN's (Zhang et al. 2019): one layer of it in each, Xavier's weights
  throughout, and blocks of D that are as wide inside as what they give; SNGAN's are as wide as what they get, and
  start with 3×3 convolutions √2 times as large;
* without spectral norm D is WGAN-GP's (Gulrajani et al. 2017): the mean over the last map in place of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from ganjax.models.base import SUMS, Family, Spec
from ganjax.models.blocks import add_scale, block, by_side, join, logits_of
from ganjax.models.layers.conditional import ConditionalBatchNorm, SelfAttention
from ganjax.models.layers.convolution import DOWN, PLAIN, UP, downsample, upsample
from ganjax.models.layers.layers import STDDEV_GROUP, Conv, Dense, Dtype, Init, Norm, minibatch_stddev

XAVIER = nn.initializers.xavier_uniform()
XAVIER_ROOT2 = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # √2 times as large

# Channels in units of `width`: of G after the dense layer and after each block, which all upsample; and of each block
# of D, of which the first `down` halve the image.
GEN_TABLE: dict[int, tuple[int, ...]] = {
    8: (1, 1),
    16: (1, 1, 1),
    32: (1, 1, 1, 1),
    48: (8, 4, 2, 1),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
}
DIS_TABLE: dict[int, tuple[tuple[int, ...], int]] = {
    8: ((1, 1, 1), 1),
    16: ((1, 1, 1, 1), 2),
    32: ((1, 1, 1, 1), 2),
    48: ((1, 2, 4, 8, 16), 4),
    64: ((1, 2, 4, 8, 16), 5),
    128: ((1, 2, 4, 8, 16, 16), 5),
}


def sides(resolution: int) -> tuple[int, ...]:
    """Returns the sides of G's feature maps after each block: `sides(48) == (12, 24, 48)`.

    The map before the first block, a linear function of z that knows no label, is no image's scale: with one there D
    won (digits, FID 16 and 20 with it, 3 and 4 without).
    """
    blocks = len(GEN_TABLE[resolution]) - 1
    return tuple(resolution >> i for i in range(blocks - 1, -1, -1))


class ResNetGenerator(nn.Module):
    """Residual generator, from z [N, Z] to a tuple of images [N, r, r, C] in [-1, 1], one of each side in `sides`."""

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 256
    max_width: int = 1024
    norm: str = "batch"
    spectral: int = 0
    block_init: Init = XAVIER_ROOT2
    classes: int = 0
    attention: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns images in [-1, 1] of `latents` [N, Z] float32 and `labels` [N] int32 where there are classes."""
        features = [min(self.width * times, self.max_width) for times in GEN_TABLE[self.resolution]]
        side = sides(self.resolution)[0] // 2
        first = Dense(side * side * features[0], self.spectral, kernel_init=XAVIER, dtype=self.dtype)
        x = first(latents.astype(self.dtype))
        x = x.reshape(x.shape[0], side, side, features[0])
        images: list[jax.Array] = []
        rgb = None
        for channels in features[1:]:
            x = block(self, ResNetGenerator._block, x, labels, channels=channels, train=train)
            if x.shape[1] == self.attention:
                x = SelfAttention(self.spectral, kernel_init=XAVIER, dtype=self.dtype)(x)
            if x.shape[1] in self.sides:
                rgb = add_scale(rgb, self._to_rgb(x, train))
                images.append(nn.tanh(rgb))
        return tuple(image.astype(jnp.float32) for image in images)

    def _to_rgb(self, x: jax.Array, train: bool) -> jax.Array:
        """Makes the image: norm, ReLU, 3×3."""
        x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        return self._conv(self.image_channels, 3, XAVIER)(x)

    def _conv(self, features: int, size: int, init: Init, resample: str = PLAIN) -> Conv:
        return Conv(features, size, self.spectral, resample=resample, kernel_init=init, dtype=self.dtype)

    def _block(self, x: jax.Array, labels: jax.Array | None, *, channels: int, train: bool) -> jax.Array:
        """Applies norm, ReLU, ×2, 3×3, norm, ReLU, 3×3, beside ×2, 1×1.

        Doubling after the 1×1 is the same and cheaper.
        """
        y = nn.relu(self._norm(x, labels, train))
        y = self._conv(channels, 3, self.block_init, UP)(y)
        y = nn.relu(self._norm(y, labels, train))
        y = self._conv(channels, 3, self.block_init)(y)
        return y + upsample(self._conv(channels, 1, XAVIER)(x))

    def _norm(self, x: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        if self.classes and self.norm == "batch":
            assert labels is not None
            return ConditionalBatchNorm(self.classes, train, self.axis_name, self.dtype)(x, labels)
        return Norm(self.norm, train, self.axis_name, self.dtype)(x)


class ResNetDiscriminator(nn.Module):
    """Residual discriminator, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.

    Between its 3×3 convolutions a block has as many channels as come out of the block, if `wide`, or else of the one
    before. The last map is averaged, if `mean`, or else summed. `block_init` is for the 3×3 convolutions of blocks,
    `kernel_init` for all else.
    """

    resolution: int
    width: int = 128
    max_width: int = 1024
    table: Mapping[int, tuple[tuple[int, ...], int]] = FrozenDict(DIS_TABLE)
    norm: str = "none"
    spectral: int = 1
    kernel_init: Init = XAVIER
    block_init: Init = XAVIER_ROOT2
    wide: bool = False
    mean: bool = False
    classes: int = 0
    auxiliary: bool = False
    attention: int = 0
    msg: str = "none"
    minibatch_stddev: bool = False
    stddev_group: int = STDDEV_GROUP
    minibatch_discrimination: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: tuple[jax.Array, ...], labels: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Returns the logits of `images`, each [N, r, r, C·packing] float32.

        `labels` are [N] int32 where there are classes. The sums (means) over the last map are sown as `features`.
        """
        table, down = self.table[self.resolution]
        scales = by_side(images, self.msg, self.dtype)
        x = images[-1].astype(self.dtype)
        features = [min(self.width * times, self.max_width) for times in table]
        sides = [self.resolution >> min(i + 1, down) for i in range(len(table))]
        for i, channels in enumerate(features):
            last = i == len(table) - 1
            if self.minibatch_stddev and (last or (scales and i)):
                x = minibatch_stddev(x, self.stddev_group)
            hidden = channels if self.wide else features[max(0, i - 1)]
            shape = {"channels": channels, "hidden": hidden, "halve": i < down, "first": i == 0}
            x = block(self, ResNetDiscriminator._block, x, train=train, **shape)
            if self.attention == sides[i] and self.attention not in sides[:i]:  # the first block of that side
                x = SelfAttention(self.spectral, kernel_init=self.kernel_init, dtype=self.dtype)(x)
            if i < down and x.shape[1] in scales:
                x = join(self.msg, x, scales[x.shape[1]], lambda features: self._conv(features, 1))
        x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        x = jnp.mean(x, axis=(1, 2)) if self.mean else jnp.sum(x, axis=(1, 2))
        self.sow("intermediates", "features", x)
        dense = lambda features: Dense(
            features, self.spectral, kernel_init=self.kernel_init, dtype=self.dtype
        )
        return logits_of(self, x, labels, dense, embedding_init=self.kernel_init)

    def _conv(self, features: int, size: int, resample: str = PLAIN) -> Conv:
        init = self.kernel_init if size == 1 else self.block_init
        return Conv(features, size, self.spectral, resample=resample, kernel_init=init, dtype=self.dtype)

    def _block(
        self, x: jax.Array, *, channels: int, hidden: int, train: bool, halve: bool, first: bool
    ) -> jax.Array:
        """Applies ReLU, 3×3, ReLU, 3×3, ÷2, beside 1×1, ÷2 where the shape changes.

        The first block starts without a ReLU.
        """
        y = x if first else nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        y = self._conv(hidden, 3)(y)
        y = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(y))
        y = self._conv(channels, 3, DOWN if halve else PLAIN)(y)
        if halve or x.shape[-1] != channels:
            # A mean and a 1×1 convolution commute, and after the mean it has a quarter of the pixels.
            x = self._conv(channels, 1)(downsample(x) if halve else x)
        return x + y


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for square images of 8 to 128 pixels."""
    sagan = spec.attention > 0
    init = XAVIER if sagan else XAVIER_ROOT2
    options = spec.images("dis")
    gen = ResNetGenerator(attention=spec.attention, block_init=init, **spec.images("gen"))
    dis = ResNetDiscriminator(
        attention=spec.attention, block_init=init, wide=sagan, mean=not options["spectral"], **options
    )
    return gen, dis


FAMILY = Family(
    networks,
    tuple(GEN_TABLE),
    sides,
    reshaped=(
        SUMS + " after each block",
        "D's blocks at 48, 64 and 128 pixels are as wide inside as what they get, as the authors'",
    ),
    attention=True,
)
