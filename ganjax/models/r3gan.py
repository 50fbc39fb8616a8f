"""R3GAN's networks (Huang et al. 2024, section 3.3, configuration E), for 8 to 1024 pixels.

Residual blocks of 1×1, grouped 3×3 and 1×1 convolutions without any normalisation, started as Fix-up starts them: the
last convolution at zero, the others scaled down by the number of blocks. Levels are joined by smooth resampling and a
1×1 convolution where the channels change. G starts from a learned 4×4 basis weighted by z, D ends in such a basis.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import BASE, SUMS, Family, Spec, channels, levels
from ganjax.models.blocks import add_scale, block, by_side, join, logits_of, with_labels
from ganjax.models.layers.equalized import SMOOTH, fir_down, fir_up
from ganjax.models.layers.layers import STDDEV_GROUP, Conv, Dense, Dtype, minibatch_stddev
from ganjax.models.layers.plain import spread

GROUP = 16  # channels in a group of the 3×3 convolution
EXPANSION = 2  # of the channels inside a block
LEAKY_GAIN = (2.0 / (1.0 + 0.2**2)) ** 0.5


def scaled_normal(gain: float) -> nn.initializers.Initializer:
    """Returns the initialiser N(0, gain²/fan_in) (He et al. 2015); zeros for a gain of 0."""
    if not gain:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


class Activation(nn.Module):
    """A bias, then a leaky ReLU."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the bias and the leaky ReLU to x [N, H, W, C]."""
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return nn.leaky_relu(x + spread(bias, x), 0.2)


class Block(nn.Module):
    """Residual block x + 1×1(act(grouped 3×3(act(1×1(x))))); `blocks` is the number of blocks of the network."""

    blocks: int
    spectral: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to x [N, H, W, C]."""
        gain = LEAKY_GAIN * self.blocks ** (-1 / 4)  # three layers: the exponent is -1/(2·3 - 2)
        inner = EXPANSION * x.shape[-1]

        def conv(features: int, size: int, gain: float, groups: int = 1) -> Conv:
            init = scaled_normal(gain)
            return Conv(
                features,
                size,
                self.spectral,
                use_bias=False,
                kernel_init=init,
                groups=groups,
                dtype=self.dtype,
            )

        y = Activation(self.dtype)(conv(inner, 1, gain)(x))
        y = Activation(self.dtype)(conv(inner, 3, gain, max(1, inner // GROUP))(y))
        # A spectral norm would divide by the zero kernel's σ, so there it starts small instead.
        return x + conv(x.shape[-1], 1, 0.0 if not self.spectral else 0.1)(y)


class R3GANGenerator(nn.Module):
    """Generator of R3GAN, from z [N, Z] to a tuple of images [N, r, r, C], one of each side in `sides`.

    A single image is linear, several are tanh of running sums.
    """

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 96
    max_width: int = 768
    depth: int = 2
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, labels: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, ...]:
        """Returns the images of `latents` [N, Z] float32 and `labels` [N] int32 where there are classes."""

        def linear(features: int, side: int = 1) -> Conv:
            init = scaled_normal(1.0)
            return Conv(features, side, self.spectral, use_bias=False, kernel_init=init, dtype=self.dtype)

        size = lambda side: channels(self.resolution, side, self.width, self.max_width)
        blocks = self.depth * len(levels(self.resolution))
        z = with_labels(latents, labels, self.classes, self.dtype, max(1, self.classes) ** -0.5)
        first = Dense(
            size(BASE), self.spectral, use_bias=False, kernel_init=scaled_normal(1.0), dtype=self.dtype
        )
        basis = self.param("basis", nn.initializers.normal(1.0), (BASE, BASE, size(BASE)), jnp.float32)
        start = jax.ShapeDtypeStruct((z.shape[0], *basis.shape), self.dtype)
        x = spread(basis, start) * spread(first(z)[:, None, None, :], start)
        images: list[jax.Array] = []
        rgb = None
        for side in levels(self.resolution):
            if side > BASE:
                x = fir_up(linear(size(side))(x) if x.shape[-1] != size(side) else x, SMOOTH)
            for _ in range(self.depth):
                x = block(self, R3GANGenerator._block, x, blocks=blocks)
            if side in self.sides:
                if len(self.sides) == 1:
                    images.append(linear(self.image_channels)(x).astype(jnp.float32))
                else:
                    rgb = add_scale(rgb, linear(self.image_channels, 3)(x))
                    images.append(nn.tanh(rgb.astype(jnp.float32)))
        return tuple(images)

    def _block(self, x: jax.Array, *, blocks: int) -> jax.Array:
        return Block(blocks, self.spectral, self.dtype)(x)


class R3GANDiscriminator(nn.Module):
    """Discriminator of R3GAN, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.
    """

    resolution: int
    width: int = 96
    max_width: int = 768
    depth: int = 2
    norm: str = "none"
    spectral: int = 0
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
        """Returns the logits of `images`, each [N, r, r, C·packing] float32. The last vector is sown as `features`."""

        def linear(features: int) -> Conv:
            init = scaled_normal(1.0)
            return Conv(features, 1, self.spectral, use_bias=False, kernel_init=init, dtype=self.dtype)

        def dense(features: int) -> Dense:
            return Dense(
                features, self.spectral, use_bias=False, kernel_init=scaled_normal(1.0), dtype=self.dtype
            )

        size = lambda side: channels(self.resolution, side, self.width, self.max_width)
        blocks = self.depth * len(levels(self.resolution))
        scales = by_side(images, self.msg, self.dtype)
        x = linear(size(self.resolution))(images[-1].astype(self.dtype))
        for side in reversed(levels(self.resolution)):
            joined = x
            if side in scales:
                joined = join(self.msg, joined, scales[side], linear)
            if self.minibatch_stddev and (scales or side == BASE):
                joined = minibatch_stddev(joined, self.stddev_group)
            # The blocks keep their channels, so what was joined is mixed down to them first.
            x = linear(size(side))(joined) if joined.shape[-1] != size(side) else joined
            for _ in range(self.depth):
                x = block(self, R3GANDiscriminator._block, x, blocks=blocks)
            if side > BASE:
                x = fir_down(x, SMOOTH)
                x = linear(size(side // 2))(x) if x.shape[-1] != size(side // 2) else x
        basis = self.param("basis", scaled_normal(1.0), (BASE * BASE, size(BASE)), jnp.float32)
        x = x.reshape(x.shape[0], BASE * BASE, -1)
        x = jnp.sum(x * spread(basis, x), axis=1)
        self.sow("intermediates", "features", x)
        if not self.classes or self.auxiliary:
            return logits_of(self, x, labels, dense)
        # With labels the authors' D has no logit of its own: the label's row weighs as many as the last level has
        # channels. It is a matrix of fan-in `classes` times 1/√channels, as that of G but for the latter.
        assert labels is not None
        init = nn.initializers.normal((self.classes * size(BASE)) ** -0.5)
        rows = nn.Embed(self.classes, size(BASE), embedding_init=init, dtype=self.dtype)(labels)
        return jnp.sum(dense(size(BASE))(x) * rows, axis=-1).astype(jnp.float32)

    def _block(self, x: jax.Array, *, blocks: int) -> jax.Array:
        return Block(blocks, self.spectral, self.dtype)(x)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for square images of 8 to 1024 pixels."""
    gen = R3GANGenerator(depth=spec.gen["depth"], **spec.images("gen"))
    return gen, R3GANDiscriminator(depth=spec.dis["depth"], **spec.images("dis"))


FAMILY = Family(
    networks,
    levels(1024)[1:],
    reshaped=(SUMS, "D's vectors of the labels have the channels of the coarsest level, as the authors'"),
    changes=("it resamples by the filter (1, 3, 3, 1), as the authors', not (1, 2, 1)",),
    gen_norm="none",
    dis_norm=False,
)
