"""Names of BigGAN's parameters in BigGAN-PyTorch (ajbrock/BigGAN-PyTorch, by one of the authors).

That code stores one singular vector of each spectral norm, so `layers.complete_vectors` has to follow
`import_weights`. Its options, for a network of ours: `--hier --G_shared --shared_dim 128`.
"""

from __future__ import annotations

from ganjax.models.base import BASE
from ganjax.models.biggan import DIS_TABLE, GEN_TABLE, SHARED
from ganjax.models.mappings import Entry
from ganjax.models.mappings.layers import BIGGAN, attention, batch_norm, conv_layer, dense_layer, embedding

STORED = ("stored_mean", "stored_var")


def generator(resolution: int, *, attention_side: int = 0, depth: int = 1, deep: bool = False) -> list[Entry]:
    """Returns the entries of G with labels and spectral norm.

    Args:
      resolution: the images' side in pixels, 32 to 256.
      attention_side: the side of the map with self-attention; 0 for none.
      depth: the number of blocks a level; 1 for BigGAN.
      deep: True for BigGAN-deep, whose condition is the class before z where ours has it after.
    """
    roll = SHARED if deep else 0
    convs = ("conv1", "conv2", "conv3", "conv4") if deep else ("conv1", "conv2", "conv_sc")
    sizes = (1, 3, 3, 1) if deep else (3, 3, 1)
    entries = [Entry(("params", "Embed_0", "embedding"), "shared.weight")]
    entries += dense_layer("Dense_0", "linear", pixels=BASE * BASE, spectral=BIGGAN, roll=roll)
    norms = conv = 0
    for block in range(depth * (len(GEN_TABLE[resolution]) - 1)):
        theirs = f"blocks.{block}.0"
        for i in range(4 if deep else 2):
            entries += _modulated(norms, f"{theirs}.bn{i + 1}", roll)
            norms += 1
        for name, size in zip(convs, sizes, strict=True):
            entries += conv_layer(f"Conv_{conv}", f"{theirs}.{name}", size=size, spectral=BIGGAN)
            conv += 1
        if BASE << (block // depth + 1) == attention_side and block % depth == depth - 1:
            entries += attention("SelfAttention_0", f"blocks.{block}.1", spectral=BIGGAN)
    entries += batch_norm("Norm_0", "output_layer.0", ("gain", "bias", *STORED))
    return entries + conv_layer(f"Conv_{conv}", "output_layer.2", spectral=BIGGAN)


def discriminator(resolution: int, *, attention_side: int = 0) -> list[Entry]:
    """Returns the entries of D with labels, without multi-scale gradients. The arguments are those of `generator`."""
    table, down = DIS_TABLE[resolution]
    entries, number = [], 0
    for i, times in enumerate(table):
        shortcut = ("conv_sc",) if i < down or times != table[i - 1] else ()
        for name in ("conv1", "conv2", *shortcut):
            size = 1 if name == "conv_sc" else 3
            entries += conv_layer(f"Conv_{number}", f"blocks.{i}.0.{name}", size=size, spectral=BIGGAN)
            number += 1
        if i < down and resolution >> (i + 1) == attention_side:
            entries += attention("SelfAttention_0", f"blocks.{i}.1", spectral=BIGGAN)
    return entries + head()


def head() -> list[Entry]:
    """Returns the entries of D's last layer and of its projection."""
    return dense_layer("Dense_0", "linear", spectral=BIGGAN) + embedding(
        "Projection_0", "embed", spectral=BIGGAN
    )


def _modulated(number: int, theirs: str, roll: int) -> list[Entry]:
    at = f"ModulatedBatchNorm_{number}"
    entries = batch_norm(at, theirs, STORED)
    for ours, name in (("scale", "gain"), ("bias", "bias")):
        entries += dense_layer((at, ours), f"{theirs}.{name}", bias=False, spectral=BIGGAN, roll=roll)
    return entries
