"""Describes a family of networks to the factory: how to make its G and D from plain values, and for which images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

SUMS = "with multi-scale gradients G adds up the images of the scales, each by a 3×3 convolution"  # see `reshaped`
BASE = 4  # pixels a side of the coarsest feature map


def levels(resolution: int) -> tuple[int, ...]:
    """Returns the resolutions from 4 up to `resolution`: `levels(32) == (4, 8, 16, 32)`."""
    return tuple(BASE << i for i in range(resolution.bit_length() - BASE.bit_length() + 1))


def channels(resolution: int, at: int, width: int, max_width: int) -> int:
    """Returns the channels of the feature map of `at` pixels: `width` at full resolution, doubled at each halving."""
    return min(width * (resolution // at), max_width)


@dataclass(frozen=True)
class Spec:
    """Request for a pair of networks.

    Attributes:
      resolution: the side of an image in pixels; 0 for points.
      image_channels: the number of channels of an image.
      sides: the sides of the images that G gives, ascending; more than one with multi-scale gradients.
      classes: the number of classes of the labels; 0 for networks without labels.
      auxiliary: True if D names the class (AC-GAN) in place of projecting on it.
      msg: none, simple, lin_cat or cat_lin: how D joins the images of the scales.
      separate: True if each scale of progan's G has an image of its own, in place of running sums.
      attention: the side in pixels of the feature maps with self-attention; 0 for none.
      gen, dis: the options of each network, by name, as under `gen.` and `dis.` in the config.
      axis_name: the name of the devices' axis, for batch statistics.
      dtype: the type of the arithmetic.
      remat: True if the backward pass computes anew what is inside a block of a network for images.
    """

    resolution: int
    image_channels: int
    sides: tuple[int, ...]
    classes: int
    auxiliary: bool
    msg: str
    attention: int
    gen: Mapping[str, Any]
    dis: Mapping[str, Any]
    axis_name: str | None
    dtype: Any
    remat: bool = False
    separate: bool = False

    def common(self, net: str) -> dict[str, Any]:
        """Returns the arguments that every network takes; `net` is `gen` or `dis`."""
        options = getattr(self, net)
        shared = {
            "width": options["width"],
            "norm": options["norm"],
            "spectral": options["spectral_iterations"] if options["spectral_norm"] else 0,
            "classes": self.classes,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        if net == "dis":
            shared |= {
                "auxiliary": self.auxiliary,
                "minibatch_discrimination": options["minibatch_discrimination"],
            }
        return shared

    def images(self, net: str) -> dict[str, Any]:
        """Returns the arguments of `common`, and those that every network for images takes besides."""
        shared = {
            "resolution": self.resolution,
            "max_width": getattr(self, net)["max_width"],
            "remat": self.remat,
        }
        if net == "gen":
            shared |= {"image_channels": self.image_channels, "sides": self.sides}
        else:
            names = ("minibatch_stddev", "stddev_group")
            shared |= {"msg": self.msg, **{name: self.dis[name] for name in names}}
        return {**shared, **self.common(net)}


@dataclass(frozen=True)
class Family:
    """Family of networks. `config/names.py` reads what a config has to know of it: `attention` and the norms.

    Attributes:
      networks: the function from a spec to (G, D).
      resolutions: the sides in pixels that it makes; empty for points.
      sides: the function from a resolution to the sides of G's images with multi-scale gradients, ascending.
      attention: True if it has self-attention.
      gen_norm: the one normalisation that G is made for, a value of `gen.norm`; None for any.
      dis_norm: True if D has normalisation layers.
      truncates: True if G's `__call__` takes `truncation`; else the latent vectors are truncated.
      changes: the things that its networks now compute otherwise with the same weights, oldest first, as ends of "since
        then …".
      reshaped: the things for which its networks now hold other arrays, in the same form.
    """

    networks: Callable[[Spec], tuple[nn.Module, nn.Module]]
    resolutions: tuple[int, ...] = ()
    sides: Callable[[int], tuple[int, ...]] = levels
    attention: bool = False
    gen_norm: str | None = None
    dis_norm: bool = True
    truncates: bool = False
    changes: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    @property
    def revision(self) -> int:
        """Number that starts at 1 and goes up with each of `changes`. Checkpoints carry it."""
        return 1 + len(self.changes)
