"""Parts that the families share: labels into G, the images of the scales into D, and D's last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ganjax.models.layers.conditional import EMBEDDING_INIT, Projection
from ganjax.models.layers.convolution import upsample
from ganjax.models.layers.layers import Dtype, Init, MinibatchDiscrimination
from ganjax.models.layers.plain import Embed

Layer = Callable[[jax.Array], jax.Array]
MakeLayer = Callable[[int], Layer]


def block(net: Any, body: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """Returns `body(net, *arrays, **options)`. Where `net.remat`, its backward pass computes anew what lies inside it.

    So only what goes into the block is kept for the backward pass (Chen et al. 2016, section 3). Parameters and
    statistics have the same names either way.

    Args:
      net: the network, inside its `__call__`.
      body: a method of its class; a plain function would not get the scope in which its layers are made anew.
      arrays: the inputs of `body`, trees of arrays or None.
      options: the values that are fixed when it is traced.
    """
    if not net.remat:
        return body(net, *arrays, **options)
    return nn.remat(lambda net, *arrays: body(net, *arrays, **options))(net, *arrays)


def with_labels(
    latents: jax.Array, labels: jax.Array | None, classes: int, dtype: Dtype, std: float = 1.0
) -> jax.Array:
    """Returns the latent vectors beside a learned vector of each class, both [N, Z].

    Without classes it returns the latent vectors alone.

    `std` is the standard deviation of the learned vectors at the start.
    """
    if not classes:
        return latents.astype(dtype)
    assert labels is not None
    table = Embed(classes, latents.shape[-1], embedding_init=nn.initializers.normal(std), dtype=dtype)
    return jnp.concatenate([latents.astype(dtype), table(labels)], axis=-1)


def add_scale(image: jax.Array | None, rgb: jax.Array) -> jax.Array:
    """Returns the running sum of RGB images up to a scale: `rgb` plus the sum below it, each pixel doubled.

    So every scale is the one below it and a correction, and the scales of an image agree with each other, as those of a
    real image do. With a head of its own for each scale they need not agree, and D learns to tell by that alone
    (measured in docs/models.md).

    Args:
      image: the sum below, [N, s, s, C], s a power of two below r; None at the first scale.
      rgb: the image of this scale, [N, r, r, C].

    Returns:
      [N, r, r, C].
    """
    if image is None:
        return rgb
    while image.shape[1] < rgb.shape[1]:
        image = upsample(image)
    return image + rgb


def by_side(images: tuple[jax.Array, ...], msg: str, dtype: Dtype) -> dict[int, jax.Array]:
    """Returns the images below full resolution by their side in pixels; none without multi-scale gradients."""
    return {x.shape[1]: x.astype(dtype) for x in images[:-1]} if msg != "none" else {}


def join(msg: str, x: jax.Array, image: jax.Array, conv: MakeLayer) -> jax.Array:
    """Joins the image of a scale and the features from above it: φ of Karnewar & Wang 2019, section 3.

    Args:
      msg: simple [image; x], lin_cat [conv(image); x] or cat_lin conv([image; x]).
      x, image: the features [N, r, r, F] and the image [N, r, r, C].
      conv: the function from features to a 1×1 convolution.
    """
    if msg == "lin_cat":
        image = conv(x.shape[-1])(image)
    joined = jnp.concatenate([image, x], axis=-1)
    return conv(x.shape[-1])(joined) if msg == "cat_lin" else joined


def logits_of(
    net: Any,
    x: jax.Array,
    labels: jax.Array | None,
    dense: MakeLayer,
    pooled: jax.Array | None = None,
    embedding_init: Init = EMBEDDING_INIT,
) -> jax.Array:
    """Returns the logits of D's last layer, with what minibatch discrimination and labels add to them.

    Args:
      net: D, inside its `__call__`, with `classes`, `auxiliary`, `spectral`, `minibatch_discrimination`, `dtype`.
        With `auxiliary` (Odena et al. 2017) the logits of the classes are sown as `class_logits`, else D projects.
      x: the features [N, F].
      labels: the labels [N] int32 where there are classes.
      dense: the function from features to a dense layer.
      pooled: the features [N, P] that the labels act on; `x` by default.
      embedding_init: the initialiser of the rows by class, where D projects.

    Returns:
      [N] float32.
    """
    seen = x if pooled is None else pooled
    if net.minibatch_discrimination:
        x = MinibatchDiscrimination(net.minibatch_discrimination)(x)
    logits = dense(1)(x)[:, 0]
    if net.classes and net.auxiliary:
        net.sow("intermediates", "class_logits", dense(net.classes)(seen).astype(jnp.float32))
    elif net.classes:
        assert labels is not None
        logits = logits + Projection(net.classes, net.spectral, embedding_init, net.dtype)(seen, labels)
    return logits.astype(jnp.float32)
