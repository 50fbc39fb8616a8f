"""Names of BigGAN-deep's parameters in BigGAN-PyTorch's `BigGANdeep.py`; see `ganjax.models.mappings.biggan`.

Hugging Face's port of the published G (pytorch-pretrained-BigGAN) is not this: its last convolution has as many filters
as inputs, of which three are used but all count in the spectral norm, and its batch norms have ε = 1e-4.
"""

from __future__ import annotations

from ganjax.models.biggan_deep import DIS_TABLE
from ganjax.models.mappings import Entry, biggan
from ganjax.models.mappings.layers import BIGGAN, attention, conv_layer


def generator(resolution: int, *, attention_side: int = 0, depth: int = 2) -> list[Entry]:
    """Returns the entries of G with labels and spectral norm. The arguments are those of `biggan.generator`."""
    return biggan.generator(resolution, attention_side=attention_side, depth=depth, deep=True)


def discriminator(resolution: int, *, attention_side: int = 0, depth: int = 2) -> list[Entry]:
    """Returns the entries of D with labels, without multi-scale gradients.

    The arguments are those of `biggan.generator`.
    """
    (before, *table), down = DIS_TABLE[resolution]
    entries, number = conv_layer("Conv_0", "input_conv", spectral=BIGGAN), 1
    for level, times in enumerate(table):
        for i in range(depth):
            theirs = f"blocks.{level}.{i}"
            shortcut = ("conv_sc",) if times != before else ()
            before = times
            for name in ("conv1", "conv2", "conv3", "conv4", *shortcut):
                size = 3 if name in ("conv2", "conv3") else 1
                entries += conv_layer(f"Conv_{number}", f"{theirs}.{name}", size=size, spectral=BIGGAN)
                number += 1
        if level < down and resolution >> (level + 1) == attention_side:
            entries += attention("SelfAttention_0", f"blocks.{level}.{depth}", spectral=BIGGAN)
    return entries + biggan.head()
