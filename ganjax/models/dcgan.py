"""DCGAN's networks (Radford et al. 2016) for 8 to 128 pixels, with multi-scale gradients on or off.

Strided 4×4 convolutions are replaced by 3×3 ones with nearest-neighbour upsampling and average pooling:
free of checkerboards (Odena et al. 2016), and several times faster on CPU, above all under a gradient penalty.
With MSG (Karnewar & Wang 2019) G adds an RGB image after every block to the sum of those below, tanh of each sum is
its image of that scale, and D joins each scale's image to its features by φ.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import BASE, SUMS, Family, Spec, channels, levels
from ganjax.models.blocks import add_scale, block, by_side, join, logits_of, with_labels
from ganjax.models.layers.convolution import PLAIN, UP, downsample
from ganjax.models.layers.layers import STDDEV_GROUP, Conv, Dense, Dtype, Norm, minibatch_stddev


class DCGANGenerator(nn.Module):
    """Generator of DCGAN, from z [N, Z] to a tuple of images [N, r, r, C] in [-1, 1], one of each side in `sides`."""

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 64
    max_width: int = 512
    depth: int = 1
    norm: str = "batch"
    spectral: int = 0
    classes: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns the images of `latents` [N, Z] float32, lowest resolution first."""
        images: list[jax.Array] = []
        rgb = None
        first = channels(self.resolution, BASE, self.width, self.max_width)
        x = with_labels(latents, labels, self.classes, self.dtype)
        x = Dense(BASE * BASE * first, spectral=self.spectral, dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], BASE, BASE, first)
        x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        for size in levels(self.resolution):
            x = block(self, DCGANGenerator._level, x, size=size, train=train)
            if size in self.sides:
                rgb = add_scale(rgb, Conv(self.image_channels, spectral=self.spectral, dtype=self.dtype)(x))
                images.append(nn.tanh(rgb))
        return tuple(image.astype(jnp.float32) for image in images)

    def _level(self, x: jax.Array, *, size: int, train: bool) -> jax.Array:
        """Applies the convolutions of a level, the first of which doubles the image.

        The coarsest level has one less.
        """
        features = channels(self.resolution, size, self.width, self.max_width)
        for i in range(self.depth if size > BASE else self.depth - 1):
            resample = UP if size > BASE and i == 0 else PLAIN
            x = Conv(features, spectral=self.spectral, resample=resample, dtype=self.dtype)(x)
            x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        return x


class DCGANDiscriminator(nn.Module):
    """Discriminator of DCGAN, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.
    """

    resolution: int
    width: int = 64
    max_width: int = 512
    depth: int = 1
    norm: str = "none"
    spectral: int = 1
    classes: int = 0
    auxiliary: bool = False
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

        The last feature map is sown as `features`.
        """
        scales = by_side(images, self.msg, self.dtype)
        conv = lambda features: Conv(features, 1, spectral=self.spectral, dtype=self.dtype)
        dense = lambda features: Dense(features, spectral=self.spectral, dtype=self.dtype)
        top = channels(self.resolution, self.resolution, self.width, self.max_width)
        x = nn.leaky_relu(conv(top)(images[-1].astype(self.dtype)), 0.2)
        for size in reversed(levels(self.resolution)):
            if size in scales:
                x = join(self.msg, x, scales[size], conv)
            if self.minibatch_stddev and (self.msg != "none" or size == BASE):
                x = minibatch_stddev(x, self.stddev_group)
            x = block(self, DCGANDiscriminator._level, x, size=size, train=train)
        self.sow("intermediates", "features", x)
        return logits_of(self, x.reshape(x.shape[0], -1), labels, dense, pooled=jnp.sum(x, axis=(1, 2)))

    def _level(self, x: jax.Array, *, size: int, train: bool) -> jax.Array:
        """Applies the convolutions of a level, and its halving."""
        features = channels(self.resolution, max(size // 2, BASE), self.width, self.max_width)
        for _ in range(self.depth):
            x = Conv(features, spectral=self.spectral, dtype=self.dtype)(x)
            x = nn.leaky_relu(Norm(self.norm, train, self.axis_name, self.dtype)(x), 0.2)
        return downsample(x) if size > BASE else x


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for square images of 8 to 128 pixels."""
    gen = DCGANGenerator(depth=spec.gen["depth"], **spec.images("gen"))
    dis = DCGANDiscriminator(depth=spec.dis["depth"], **spec.images("dis"))
    return gen, dis


FAMILY = Family(networks, (8, 16, 32, 64, 128), reshaped=(SUMS,))
