"""Names of the parameters of SNGAN, WGAN-GP, cGAN-PD and SAGAN in torch-mimicry (kwotsin/mimicry).

That code is the PyTorch form of the authors' Chainer code (pfnet-research/sngan_projection). It doubles images
bilinearly where they, and we, repeat pixels: weights are the same, images are not.
"""

from __future__ import annotations

from ganjax.models.mappings import Entry
from ganjax.models.mappings.layers import (
    MIMICRY,
    PLAIN,
    TORCH,
    attention,
    batch_norm,
    conv_layer,
    dense_layer,
    embedding,
)
from ganjax.models.resnet import DIS_TABLE, GEN_TABLE


def generator(
    resolution: int, *, classes: int = 0, attention_side: int = 0, spectral: bool = False
) -> list[Entry]:
    """Returns the entries of G.

    Args:
      resolution: the images' side in pixels, 32 to 128.
      classes: the number of classes that its batch norms know; 0 for none.
      attention_side: the side of the map with self-attention; 0 for none.
      spectral: True if its layers are spectrally normalised.
    """
    norm = TORCH if spectral else PLAIN
    blocks = len(GEN_TABLE[resolution]) - 1
    coarsest = resolution >> blocks
    entries = dense_layer("Dense_0", "l1", pixels=coarsest**2, spectral=norm)
    for i in range(blocks):
        theirs = f"block{i + 2}"
        for j in range(2):
            entries += _norm(2 * i + j, f"{theirs}.b{j + 1}", classes)
        for j, name in enumerate(("c1", "c2", "c_sc")):
            size = 1 if name == "c_sc" else 3
            entries += conv_layer(f"Conv_{3 * i + j}", f"{theirs}.{name}", size=size, spectral=norm)
        if coarsest << (i + 1) == attention_side:
            entries += attention("SelfAttention_0", "attn_block", spectral=norm)
    last = blocks + 2
    entries += batch_norm(f"Norm_{0 if classes else 2 * blocks}", f"b{last}")
    return entries + conv_layer(f"Conv_{3 * blocks}", f"c{last}", spectral=norm)


def discriminator(
    resolution: int, *, classes: int = 0, attention_side: int = 0, spectral: bool = True
) -> list[Entry]:
    """Returns the entries of D, without multi-scale gradients. The arguments are those of `generator`."""
    norm = TORCH if spectral else PLAIN
    table, down = DIS_TABLE[resolution]
    entries, number = [], 0
    for i, times in enumerate(table):
        shortcut = ("c_sc",) if i < down or times != table[i - 1] else ()
        for name in ("c1", "c2", *shortcut):
            size = 1 if name == "c_sc" else 3
            entries += conv_layer(f"Conv_{number}", f"block{i + 1}.{name}", size=size, spectral=norm)
            number += 1
    if attention_side:
        entries += attention("SelfAttention_0", "attn_block", spectral=norm)
    # Their sngan_48 calls the layer after five blocks l5, as that after four in sngan_32.
    last = len(table) if spectral and resolution == 48 else len(table) + 1
    # Their cgan_pd takes the spectral norm for its last layers from another module than all the others.
    head = MIMICRY if spectral and classes and not attention_side else norm
    entries += dense_layer("Dense_0", f"l{last}", spectral=head)
    return entries + (embedding("Projection_0", "l_y", spectral=head) if classes else [])


def _norm(number: int, theirs: str, classes: int) -> list[Entry]:
    if not classes:
        return batch_norm(f"Norm_{number}", theirs)
    path = ("params", f"ConditionalBatchNorm_{number}")
    parts = [
        Entry((*path, name, "embedding"), f"{theirs}.embed.weight", part=(i, 2))
        for i, name in enumerate(("scale", "bias"))
    ]
    return parts + batch_norm(
        f"ConditionalBatchNorm_{number}", f"{theirs}.bn", ("running_mean", "running_var")
    )
