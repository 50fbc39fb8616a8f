"""What a family of networks tells the factory: how to make its G and D from plain values, and for which images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn


@dataclass(frozen=True)
class Spec:
    """What a pair of networks is asked for.

    Attributes:
      resolution: pixels a side; 0 for points.
      image_channels: of the images.
      classes: that the labels come from; 0 for networks without labels.
      msg: none, simple, lin_cat or cat_lin: how D joins the images of the scales.
      attention: side in pixels of the feature maps with self-attention; 0 for none.
      gen, dis: the options of each network, by name, as under `gen.` and `dis.` in the config.
      axis_name: of the devices, for batch statistics.
      dtype: of the arithmetic.
    """

    resolution: int
    image_channels: int
    classes: int
    msg: str
    attention: int
    gen: Mapping[str, Any]
    dis: Mapping[str, Any]
    axis_name: str | None
    dtype: Any

    def common(self, net: str) -> dict[str, Any]:
        """The arguments that every network takes; `net` is `gen` or `dis`."""
        options = getattr(self, net)
        return {
            "width": options["width"],
            "norm": options["norm"],
            "spectral": options["spectral_iterations"] if options["spectral_norm"] else 0,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
      networks: a spec → (G, D).
      resolutions: sides in pixels that it makes; empty for points.
      scales: resolution → images that G gives with multi-scale gradients.
    """

    networks: Callable[[Spec], tuple[nn.Module, nn.Module]]
    resolutions: tuple[int, ...] = ()
    scales: Callable[[int], int] = lambda resolution: 1
