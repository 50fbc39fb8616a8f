"""StyleGAN2 (Karras et al. 2020), and with MSG its multi-scale form, for 8 to 1024 pixels.

G maps z to a style w, and every convolution of a learned 4×4 constant is modulated and demodulated by w; images of
each level are summed by a smooth upsampling (skip connections), and D is residual: configuration F of table 1. With
MSG the running sums are G's images of the scales, and D joins them as in `ganjax.models.dcgan`.

A sample is a function of (z, label) alone: its noise, and in training the second style of style mixing, are drawn from
a key made of the bits of z, so they too belong to the image and not to the device or the batch.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.base import BASE, Family, Spec, channels, levels
from ganjax.models.blocks import block, by_side, join, logits_of
from ganjax.models.layers.equalized import SMOOTH, EqualConv, EqualDense, convolve, convolve_up, fir_up
from ganjax.models.layers.layers import (
    STDDEV_GROUP,
    Dtype,
    MinibatchDiscrimination,
    minibatch_stddev,
    pixel_norm,
)
from ganjax.models.layers.plain import spread
from ganjax.runtime.keys import Stream, stream_keys

ROOT2 = 2.0**0.5
LABEL_RATE = 0.01  # of D's layers for labels, as a share of the learning rate
AVERAGE_DECAY = 0.995  # of the mean style, per update of G


def latent_keys(latents: jax.Array) -> jax.Array:
    """Returns random keys [N], one for each latent vector [N, Z], made of the bits of its first two coordinates."""
    bits = jax.lax.bitcast_convert_type(latents[:, :2].astype(jnp.float32), jnp.uint32)
    fold = lambda b: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), b[0]), b[-1])
    return jax.vmap(fold)(bits)


class Mapping(nn.Module):
    """Mapping of z [N, Z] and labels, or of either alone, to styles w [N, dim].

    Its dense layers take normalised vectors.
    """

    dim: int
    layers: int
    rate: float
    classes: int
    dtype: Dtype

    @nn.compact
    def __call__(self, latents: jax.Array | None, labels: jax.Array | None) -> jax.Array:
        """Returns the styles of `latents` [N, Z] and `labels` [N] int32 where there are classes."""
        parts = [] if latents is None else [pixel_norm(latents.astype(self.dtype))]
        if self.classes:
            assert labels is not None
            init = nn.initializers.normal(1.0)
            rows = nn.Embed(self.classes, self.dim, embedding_init=init, dtype=self.dtype)(labels)
            parts.append(pixel_norm(rows))
        x = jnp.concatenate(parts, axis=-1)
        for _ in range(self.layers):
            x = EqualDense(self.dim, rate=self.rate, dtype=self.dtype)(x)
            x = nn.leaky_relu(x, 0.2) * ROOT2
        return x


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style. `demodulate` scales its outputs back to unit size.

    Karras et al. 2020, equations 1 to 3, by scaling activations before and after one convolution for the whole batch:
    the same as a kernel for each sample. `up` doubles the image.
    """

    features: int
    size: int = 3
    up: bool = False
    demodulate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I] with style [N, dim]. Returns [N, H, W, features], or twice the sides."""
        fan_in = self.size * self.size * x.shape[-1]
        scales = EqualDense(x.shape[-1], bias=1.0, dtype=self.dtype)(style)
        init = nn.initializers.normal(1.0)
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        kernel = kernel / fan_in**0.5
        x = x * spread(scales[:, None, None, :], x)
        y = (convolve_up if self.up else convolve)(x, kernel.astype(self.dtype))
        if self.demodulate:
            power = jnp.sum(jnp.square(kernel), axis=(0, 1))
            lengths = jnp.square(scales.astype(jnp.float32)) @ power
            y = y * spread(jax.lax.rsqrt(lengths + 1e-8)[:, None, None, :], y)
        return y


class StyledLayer(nn.Module):
    """Layer of a modulated convolution, noise, bias and leaky ReLU."""

    features: int
    up: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array, keys: jax.Array) -> jax.Array:
        """Applies the layer to x [N, H, W, I] with style [N, dim] and the noise of `keys` [N]."""
        y = ModulatedConv(self.features, up=self.up, dtype=self.dtype)(x, style)
        strength = self.param("noise", nn.initializers.zeros, (), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        draw = lambda key: jax.random.normal(key, (*y.shape[1:3], 1), jnp.float32)
        y = y + spread(strength * jax.vmap(draw)(keys), y)
        return nn.leaky_relu(y + spread(bias, y), 0.2) * ROOT2


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to an image, without demodulation."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        """Convolves x [N, H, W, I] with style [N, dim]. Returns [N, H, W, features]."""
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = ModulatedConv(self.features, 1, demodulate=False, dtype=self.dtype)(x, style)
        return y + spread(bias, y)


class StyleGAN2Generator(nn.Module):
    """Generator of StyleGAN2, from z [N, Z] to a tuple of linear images [N, r, r, C], one of each side in `sides`."""

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    width: int = 32
    max_width: int = 512
    style_dim: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    style_mixing: float = 0.9
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32

    @property
    def style_shape(self) -> tuple[int, int]:
        """Number of styles of an image, two a level, and the size of a style."""
        return 2 * len(levels(self.resolution)), self.style_dim

    @nn.compact
    def __call__(
        self,
        latents: jax.Array,
        labels: jax.Array | None = None,
        *,
        train: bool,
        truncation: float = 1.0,
        style_offsets: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """Returns the images of `latents` [N, Z] float32, Z at least 2, and `labels` [N] int32 where there are classes.

        `truncation` below 1 moves styles towards their mean (ψ of Karras et al. 2019, appendix B);
        `style_offsets`, [N, *style_shape], are added to the styles.
        """
        keys = latent_keys(latents)
        styles = self._styles(latents, labels, keys, train)
        if truncation != 1.0:
            mean: jax.Array = self.get_variable("batch_stats", "mean_style").astype(self.dtype)
            styles = truncation * styles + (1.0 - truncation) * mean[None, None, :]
        if style_offsets is not None:
            styles = styles + style_offsets.astype(self.dtype)
        return self._synthesis(styles, keys)

    def _styles(
        self, latents: jax.Array, labels: jax.Array | None, keys: jax.Array, train: bool
    ) -> jax.Array:
        """Returns one style a layer, [N, *style_shape]. In training some images change to a second style half-way."""
        layers, dim = self.style_shape
        mapping = Mapping(dim, self.mapping_layers, self.mapping_rate, self.classes, self.dtype)
        w = mapping(latents, labels)
        mean: Any = self.variable("batch_stats", "mean_style", jnp.zeros, (dim,), jnp.float32)
        if train and self.is_mutable_collection("batch_stats") and not self.is_initializing():
            now = jnp.mean(jax.lax.stop_gradient(w).astype(jnp.float32), axis=0)
            mean.value = AVERAGE_DECAY * mean.value + (1 - AVERAGE_DECAY) * now
        styles = jnp.broadcast_to(w[:, None, :], (w.shape[0], layers, dim))
        if train and self.style_mixing:
            draw = lambda key: jax.random.normal(key, latents.shape[1:], jnp.float32)
            other = mapping(jax.vmap(draw)(stream_keys(keys, Stream.SECOND_STYLE)), labels)
            mixed = jax.vmap(jax.random.uniform)(stream_keys(keys, Stream.IS_MIXED)) < self.style_mixing
            cut = jax.vmap(lambda key: jax.random.randint(key, (), 1, layers))(
                stream_keys(keys, Stream.MIXED_FROM)
            )
            second = mixed[:, None] & (jnp.arange(layers)[None, :] >= cut[:, None])
            styles = jnp.where(second[:, :, None], other[:, None, :], styles)
        return styles

    def _synthesis(self, styles: jax.Array, keys: jax.Array) -> tuple[jax.Array, ...]:
        """Makes images of styles. A level's RGB shares its style with the next level's first convolution."""
        size = channels(self.resolution, BASE, self.width, self.max_width)
        constant = self.param("constant", nn.initializers.normal(1.0), (BASE, BASE, size), jnp.float32)
        x = spread(constant, jax.ShapeDtypeStruct((styles.shape[0], *constant.shape), self.dtype))
        images, image, layer = [], None, 0
        for side in levels(self.resolution):
            shape = {"side": side, "layer": layer}
            x, image = block(self, StyleGAN2Generator._level, x, image, styles, keys, **shape)
            layer += 2 if side > BASE else 1
            if side in self.sides:
                images.append(image.astype(jnp.float32))
        return tuple(images)

    def _level(
        self,
        x: jax.Array,
        image: jax.Array | None,
        styles: jax.Array,
        keys: jax.Array,
        *,
        side: int,
        layer: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the features and the sum of images of a level, made of those below.

        Its first layer is number `layer`.
        """
        features = channels(self.resolution, side, self.width, self.max_width)
        for up in (True, False) if side > BASE else (False,):
            x = StyledLayer(features, up, self.dtype)(x, styles[:, layer], stream_keys(keys, layer))
            layer += 1
        rgb = ToRGB(self.image_channels, self.dtype)(x, styles[:, layer])
        return x, rgb if image is None else fir_up(image, SMOOTH) + rgb


class StyleGAN2Discriminator(nn.Module):
    """Discriminator of StyleGAN2, from a tuple of images, lowest resolution first, to logits [N].

    `msg` is none, simple, lin_cat or cat_lin.
    """

    resolution: int
    width: int = 32
    max_width: int = 512
    norm: str = "none"
    spectral: int = 0
    classes: int = 0
    label_layers: int = 0
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

        The last hidden layer is sown as `features`.
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
            x = block(self, StyleGAN2Discriminator._level, x, side=side)
        x = nn.leaky_relu(dense(self._channels(BASE))(x.reshape(x.shape[0], -1)), 0.2) * ROOT2
        self.sow("intermediates", "features", x)
        if not self.classes or self.auxiliary or not self.label_layers:
            return logits_of(self, x, labels, dense)
        # The authors' head for labels, which has no logit without one.
        if self.minibatch_discrimination:
            x = MinibatchDiscrimination(self.minibatch_discrimination)(x)
        size = self._channels(BASE)
        mapped = Mapping(size, self.label_layers, LABEL_RATE, self.classes, self.dtype)(None, labels)
        return (jnp.sum(dense(size)(x) * mapped, axis=-1) / size**0.5).astype(jnp.float32)

    def _conv(self, x: jax.Array, features: int, size: int = 3, *, down: bool = False) -> jax.Array:
        y = EqualConv(features, size, self.spectral, down=down, dtype=self.dtype)(x)
        return nn.leaky_relu(y, 0.2) * ROOT2

    def _level(self, x: jax.Array, *, side: int) -> jax.Array:
        """Applies two convolutions beside a 1×1, halved. The coarsest level has a single convolution."""
        y = self._conv(x, self._channels(side))
        if side == BASE:
            return y
        features = self._channels(side // 2)
        y = self._conv(y, features, down=True)
        skip = EqualConv(features, 1, self.spectral, use_bias=False, down=True, dtype=self.dtype)
        return (y + skip(x)) / ROOT2

    def _channels(self, side: int) -> int:
        return channels(self.resolution, side, self.width, self.max_width)


def networks(spec: Spec) -> tuple[nn.Module, nn.Module]:
    """Makes G and D for square images of 8 to 1024 pixels."""
    names = ("style_dim", "mapping_layers", "mapping_rate", "style_mixing")
    gen = StyleGAN2Generator(**{name: spec.gen[name] for name in names}, **spec.images("gen"))
    return gen, StyleGAN2Discriminator(label_layers=spec.dis["label_layers"], **spec.images("dis"))


FAMILY = Family(
    networks,
    levels(1024)[1:],
    truncates=True,
    changes=(
        "convolutions that double or halve keep the samples at the top and left border, as the authors' do",
    ),
    gen_norm="none",
    dis_norm=False,
)
