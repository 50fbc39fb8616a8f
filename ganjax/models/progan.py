"""ProGAN's networks without growing, which with MSG are MSG-ProGAN, for 8 to 1024 pixels.

Karras et al. 2018, table 2, and Karnewar & Wang 2019, section 3: equalised learning rate, pixel norm after each
convolution of G, a leaky ReLU everywhere, RGB by linear 1×1 convolutions, and (with `dis.minibatch_stddev`) the
standard deviation over the batch before the last convolutions of D, or in each of its blocks with MSG. With MSG the
images of the scales are tanh of running sums by 3×3 convolutions, unless `separate` makes them the paper's.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import BASE, SUMS, Family, Spec, channels, levels
from ganjax.models.blocks import add_scale, block, by_side, join, logits_of, with_labels
from ganjax.models.layers.convolution import PLAIN, UP, downsample
from ganjax.models.layers.equalized import EqualConv, EqualDense
from ganjax.models.layers.layers import STDDEV_GROUP, Dtype, Norm, minibatch_stddev, pixel_norm

ROOT2 = 2.0**0.5


class ProGANGenerator(nn.Module):
    """Generator of ProGAN, from z [N, Z] to a tuple of images [N, r, r, C], one of each side in `sides`.

    The images are linear, or with sums in [-1, 1].
    """

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 16
    max_width: int = 512
    norm: str = "pixel"
    spectral: int = 0
    classes: int = 0
    separate: bool = False
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns the images of `latents` [N, Z] float32, lowest resolution first. They are in [-1, 1] by training."""
        first = channels(self.resolution, BASE, self.width, self.max_width)
        x = pixel_norm(with_labels(latents, labels, self.classes, self.dtype))
        x = EqualDense(BASE * BASE * first, self.spectral, gain=ROOT2 / 4, dtype=self.dtype)(x)
        x = self._act(x.reshape(x.shape[0], BASE, BASE, first), train)
        images: list[jax.Array] = []
        rgb = None
        sums = len(self.sides) > 1 and not self.separate
        for side in levels(self.resolution):
            x = block(self, ProGANGenerator._level, x, side=side, train=train)
            if side in self.sides:
                head = EqualConv(self.image_channels, 3 if sums else 1, self.spectral, dtype=self.dtype)
                rgb = add_scale(rgb if sums else None, head(x))
                images.append(nn.tanh(rgb) if sums else rgb)
        return tuple(image.astype(jnp.float32) for image in images)

    def _act(self, x: jax.Array, train: bool) -> jax.Array:
        return Norm(self.norm, train, self.axis_name, self.dtype)(nn.leaky_relu(x, 0.2))

    def _level(self, x: jax.Array, *, side: int, train: bool) -> jax.Array:
        """Applies two convolutions, the first of which doubles the image. The coarsest level has one."""
        features = channels(self.resolution, side, self.width, self.max_width)
        for resample in (UP, PLAIN) if side > BASE else (PLAIN,):
            conv = EqualConv(features, 3, self.spectral, gain=ROOT2, resample=resample, dtype=self.dtype)
            x = self._act(conv(x), train)
        return x


class ProGANDiscriminator(nn.Module):
    """Discriminator of ProGAN, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.
    """

    resolution: int
    width: int = 16
    max_width: int = 512
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    auxiliary: bool = False
    msg: str = "none"
    minibatch_stddev: bool = True
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
        dense = lambda features: EqualDense(features, self.spectral, dtype=self.dtype)
        linear = lambda features: EqualConv(features, 1, self.spectral, dtype=self.dtype)
        scales = by_side(images, self.msg, self.dtype)
        x = self._conv(images[-1].astype(self.dtype), self._channels(self.resolution), 1)
        for side in reversed(levels(self.resolution)):
            if side in scales:
                x = join(self.msg, x, scales[side], linear)
            if self.minibatch_stddev and (scales or side == BASE):
                x = minibatch_stddev(x, self.stddev_group)
            x = block(self, ProGANDiscriminator._level, x, side=side)
        self.sow("intermediates", "features", x)
        hidden = EqualDense(self._channels(BASE), self.spectral, gain=ROOT2, dtype=self.dtype)
        x = nn.leaky_relu(hidden(x.reshape(x.shape[0], -1)), 0.2)
        return logits_of(self, x, labels, dense)

    def _conv(self, x: jax.Array, features: int, size: int = 3) -> jax.Array:
        return nn.leaky_relu(EqualConv(features, size, self.spectral, gain=ROOT2, dtype=self.dtype)(x), 0.2)

    def _level(self, x: jax.Array, *, side: int) -> jax.Array:
        """Applies two convolutions and the halving. The coarsest level has one convolution."""
        x = self._conv(x, self._channels(side))
        return downsample(self._conv(x, self._channels(side // 2))) if side > BASE else x

    def _channels(self, side: int) -> int:
        return channels(self.resolution, side, self.width, self.max_width)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for square images of 8 to 1024 pixels."""
    return ProGANGenerator(separate=spec.separate, **spec.images("gen")), ProGANDiscriminator(
        **spec.images("dis")
    )


FAMILY = Family(
    networks, levels(1024)[1:], reshaped=(SUMS + ", unless model.msg_images=separate",), dis_norm=False
)
