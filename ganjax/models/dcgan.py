"""DCGAN's shape (Radford et al. 2016) for 8 to 128 pixels, with multi-scale gradients on or off.

Strided 4×4 convolutions are replaced by 3×3 ones with nearest-neighbour upsampling and average pooling:
free of checkerboards (Odena et al. 2016), and several times faster on CPU, above all under a gradient penalty.
With MSG (Karnewar & Wang 2019) G gives an RGB image after every block, and D joins each scale's image to its
features by φ.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.family import Family, Spec
from ganjax.nn.layers import (
    Conv,
    Dense,
    Dtype,
    MinibatchDiscrimination,
    Norm,
    downsample,
    minibatch_stddev,
    upsample,
)

BASE = 4  # pixels a side of the coarsest feature map


def levels(resolution: int) -> tuple[int, ...]:
    """The resolutions from 4 up to `resolution`: `levels(32) == (4, 8, 16, 32)`."""
    return tuple(BASE << i for i in range(resolution.bit_length() - BASE.bit_length() + 1))


def channels(resolution: int, at: int, width: int, max_width: int) -> int:
    """Channels of the feature map of `at` pixels: `width` at full resolution, doubled at each halving."""
    return min(width * (resolution // at), max_width)


class DCGANGenerator(nn.Module):
    """z [N, Z] → a tuple of images [N, r, r, C]: every scale with `msg` (linear), else one (tanh)."""

    resolution: int
    image_channels: int
    width: int = 64
    max_width: int = 512
    depth: int = 1
    norm: str = "batch"
    spectral: int = 0
    msg: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """latents: [N, Z] float32. Images are in [-1, 1] by training, lowest resolution first."""
        sizes = levels(self.resolution)
        images = []
        first = channels(self.resolution, BASE, self.width, self.max_width)
        x = Dense(BASE * BASE * first, spectral=self.spectral, dtype=self.dtype)(latents.astype(self.dtype))
        x = x.reshape(x.shape[0], BASE, BASE, first)
        x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
        for size in sizes:
            x = upsample(x) if size > BASE else x
            for _ in range(self.depth if size > BASE else self.depth - 1):
                features = channels(self.resolution, size, self.width, self.max_width)
                x = Conv(features, spectral=self.spectral, dtype=self.dtype)(x)
                x = nn.relu(Norm(self.norm, train, self.axis_name, self.dtype)(x))
            if self.msg:
                images.append(Conv(self.image_channels, 1, spectral=self.spectral, dtype=self.dtype)(x))
        if not self.msg:
            images.append(nn.tanh(Conv(self.image_channels, spectral=self.spectral, dtype=self.dtype)(x)))
        return tuple(image.astype(jnp.float32) for image in images)


class DCGANDiscriminator(nn.Module):
    """A tuple of images, lowest resolution first → logits [N]; `msg` is none, simple, lin_cat or cat_lin."""

    resolution: int
    width: int = 64
    max_width: int = 512
    depth: int = 1
    norm: str = "none"
    spectral: int = 1
    msg: str = "none"
    minibatch_stddev: bool = False
    minibatch_discrimination: int = 0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: tuple[jax.Array, ...], labels: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """images: [N, r, r, C·packing] each, float32. The last feature map is sown as `features`."""
        sizes = levels(self.resolution)
        x = self._from_rgb(images[-1].astype(self.dtype), self.resolution)
        for i, size in reversed(tuple(enumerate(sizes))):
            if size < self.resolution and self.msg != "none":
                x = self._join(x, images[i].astype(self.dtype))
            if self.minibatch_stddev and (self.msg != "none" or size == BASE):
                x = minibatch_stddev(x)
            for _ in range(self.depth):
                features = channels(self.resolution, max(size // 2, BASE), self.width, self.max_width)
                x = Conv(features, spectral=self.spectral, dtype=self.dtype)(x)
                x = nn.leaky_relu(Norm(self.norm, train, self.axis_name, self.dtype)(x), 0.2)
            x = downsample(x) if size > BASE else x
        self.sow("intermediates", "features", x)
        x = x.reshape(x.shape[0], -1)
        if self.minibatch_discrimination:
            x = MinibatchDiscrimination(self.minibatch_discrimination)(x)
        return Dense(1, spectral=self.spectral, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)

    def _from_rgb(self, image: jax.Array, size: int) -> jax.Array:
        features = channels(self.resolution, size, self.width, self.max_width)
        return nn.leaky_relu(Conv(features, 1, spectral=self.spectral, dtype=self.dtype)(image), 0.2)

    def _join(self, x: jax.Array, image: jax.Array) -> jax.Array:
        """φ of Karnewar & Wang 2019, section 3: the scale's image and the features from above it."""
        features = x.shape[-1]
        if self.msg == "simple":
            return jnp.concatenate([image, x], axis=-1)
        if self.msg == "lin_cat":
            lifted = Conv(features, 1, spectral=self.spectral, dtype=self.dtype)(image)
            return jnp.concatenate([lifted, x], axis=-1)
        joined = jnp.concatenate([image, x], axis=-1)
        return Conv(features, 1, spectral=self.spectral, dtype=self.dtype)(joined)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """G and D for square images of 8 to 128 pixels."""
    gen = DCGANGenerator(
        spec.resolution,
        spec.image_channels,
        max_width=spec.gen["max_width"],
        depth=spec.gen["depth"],
        msg=spec.msg != "none",
        **spec.common("gen"),
    )
    dis = DCGANDiscriminator(
        spec.resolution,
        max_width=spec.dis["max_width"],
        depth=spec.dis["depth"],
        msg=spec.msg,
        minibatch_stddev=spec.dis["minibatch_stddev"],
        minibatch_discrimination=spec.dis["minibatch_discrimination"],
        **spec.common("dis"),
    )
    return gen, dis


FAMILY = Family(networks, (8, 16, 32, 64, 128), lambda resolution: len(levels(resolution)))
