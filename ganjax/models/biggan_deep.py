"""BigGAN-deep (Brock et al. 2019, appendix B, tables 7 to 9): BigGAN with bottleneck blocks, `depth` at each level."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import SUMS, Family, Spec
from ganjax.models.biggan import GEN_TABLE, ORTHOGONAL, BigGANGenerator, sides
from ganjax.models.blocks import block, by_side, join, logits_of
from ganjax.models.layers.conditional import SelfAttention
from ganjax.models.layers.convolution import downsample
from ganjax.models.layers.layers import STDDEV_GROUP, Conv, Dense, Dtype, minibatch_stddev

# Channels in units of `width`: of D's first convolution and of each level, of which the first `down` halve the image.
DIS_TABLE: dict[int, tuple[tuple[int, ...], int]] = {
    8: ((4, 4), 1),
    16: ((4, 4, 4), 2),
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


class BigGANDeepDiscriminator(nn.Module):
    """Discriminator of BigGAN-deep, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.
    """

    resolution: int
    width: int = 128
    max_width: int = 1 << 30
    depth: int = 2
    norm: str = "none"
    spectral: int = 1
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

        The sums over the last map are sown as `features`.
        """
        dense = lambda features: Dense(features, self.spectral, kernel_init=ORTHOGONAL, dtype=self.dtype)
        scales = by_side(images, self.msg, self.dtype)
        table, down = DIS_TABLE[self.resolution]
        first, *features = (min(self.width * times, self.max_width) for times in table)
        x = self._conv(first, 3)(images[-1].astype(self.dtype))
        for level, channels in enumerate(features):
            for i in range(self.depth):
                halve = i == 0 and level < down
                x = block(self, BigGANDeepDiscriminator._block, x, channels=channels, halve=halve)
                if halve and x.shape[1] in scales:
                    x = join(self.msg, x, scales[x.shape[1]], lambda features: self._conv(features, 1))
            if level < down and x.shape[1] == self.attention:  # once, where two levels have that side
                x = SelfAttention(self.spectral, kernel_init=ORTHOGONAL, dtype=self.dtype)(x)
        x = minibatch_stddev(x, self.stddev_group) if self.minibatch_stddev else x
        x = jnp.sum(nn.relu(x), axis=(1, 2))
        self.sow("intermediates", "features", x)
        return logits_of(self, x, labels, dense, embedding_init=ORTHOGONAL)

    def _conv(self, features: int, size: int) -> Conv:
        return Conv(features, size, self.spectral, kernel_init=ORTHOGONAL, dtype=self.dtype)

    def _block(self, x: jax.Array, *, channels: int, halve: bool) -> jax.Array:
        """Applies ReLU, 1×1 to a quarter, 3×3, 3×3, ÷2, 1×1.

        The shortcut gains channels by a 1×1 beside it (figure 16).
        """
        y = self._conv(max(1, channels // 4), 1)(nn.relu(x))
        y = self._conv(max(1, channels // 4), 3)(nn.relu(y))
        y = nn.relu(self._conv(max(1, channels // 4), 3)(nn.relu(y)))
        y = self._conv(channels, 1)(downsample(y) if halve else y)
        x = downsample(x) if halve else x
        if x.shape[-1] < channels:
            x = jnp.concatenate([x, self._conv(channels - x.shape[-1], 1)(x)], axis=-1)
        return x[..., :channels] + y


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D of BigGAN-deep for square images of 8 to 256 pixels."""
    gen = BigGANGenerator(deep=True, depth=spec.gen["depth"], attention=spec.attention, **spec.images("gen"))
    dis = BigGANDeepDiscriminator(depth=spec.dis["depth"], attention=spec.attention, **spec.images("dis"))
    return gen, dis


FAMILY = Family(
    networks,
    tuple(GEN_TABLE),
    sides,
    reshaped=(SUMS + " after each level", "D has its authors' levels at 32 and 64 pixels"),
    attention=True,
    gen_norm="batch",
    dis_norm=False,
)
