"""Names of StyleGAN2's parameters in stylegan2-ada-pytorch (NVlabs, `training/networks.py`), its default architecture.

That code adds one bias to the rows of all labels before it normalises them, and ours has none: `folded` puts it into
the rows, which is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ganjax.models.base import BASE, levels
from ganjax.models.mappings import Entry, conv, conv_to_ours, conv_to_theirs, matrix


def folded(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the state dict of G or D with the bias of its label rows, if any, in the rows, for `import_weights`."""
    arrays = dict(state_dict)
    bias = arrays.pop("mapping.embed.bias", None)
    if bias is not None:
        weight = np.asarray(arrays["mapping.embed.weight"])
        arrays["mapping.embed.weight"] = weight + np.asarray(bias)[:, None] * weight.shape[1] ** 0.5
    return arrays


def generator(resolution: int, *, mapping_layers: int = 8, classes: int = 0) -> list[Entry]:
    """Returns the entries of G, with the mean style.

    Args:
      resolution: the images' side in pixels.
      mapping_layers: the number of layers from z to w.
      classes: the number of classes; 0 for none.
    """
    entries = [
        Entry(("batch_stats", "mean_style"), "mapping.w_avg"),
        Entry(("params", "constant"), "synthesis.b4.const", _image_to_ours, _image_to_theirs),
        *_mapping(mapping_layers, classes),
    ]
    layer = 0
    for level, side in enumerate(levels(resolution)):
        for theirs in ("conv0", "conv1") if side > BASE else ("conv1",):
            ours, name = ("params", f"StyledLayer_{layer}"), f"synthesis.b{side}.{theirs}"
            entries += _modulated((*ours, "ModulatedConv_0"), name, flipped=theirs == "conv0")
            entries += [
                Entry((*ours, "bias"), f"{name}.bias"),
                Entry((*ours, "noise"), f"{name}.noise_strength"),
            ]
            layer += 1
        ours, name = ("params", f"ToRGB_{level}"), f"synthesis.b{side}.torgb"
        entries += [*_modulated((*ours, "ModulatedConv_0"), name), Entry((*ours, "bias"), f"{name}.bias")]
    return entries


def discriminator(resolution: int, *, label_layers: int = 0) -> list[Entry]:
    """Returns the entries of D without multi-scale gradients.

    Args:
      resolution: the images' side in pixels.
      label_layers: `dis.label_layers`, 8 in the authors' code with labels; 0 without labels.
    """
    top, *lower = levels(resolution)[:0:-1]
    names = [
        f"b{top}.fromrgb",
        *(f"b{side}.{part}" for side in (top, *lower) for part in ("conv0", "conv1", "skip")),
    ]
    entries = []
    for i, name in enumerate([*names, "b4.conv"]):
        entries.append(conv(("params", f"EqualConv_{i}", "kernel"), f"{name}.weight"))
        if not name.endswith("skip"):
            entries.append(Entry(("params", f"EqualConv_{i}", "bias"), f"{name}.bias"))
    hidden, last = ("params", "EqualDense_0"), ("params", "EqualDense_1")
    entries += [
        Entry((*hidden, "kernel"), "b4.fc.weight", _flat_to_ours, _flat_to_theirs),
        Entry((*hidden, "bias"), "b4.fc.bias"),
        *_dense(last, "b4.out"),
    ]
    return entries + (_mapping(label_layers, 1) if label_layers else [])


def _mapping(layers: int, classes: int) -> list[Entry]:
    entries = []
    if classes:
        ours = ("params", "Mapping_0", "Embed_0", "embedding")
        entries.append(Entry(ours, "mapping.embed.weight", _rows_to_ours, _rows_to_theirs))
    for i in range(layers):
        entries += _dense(("params", "Mapping_0", f"EqualDense_{i}"), f"mapping.fc{i}")
    return entries


def _dense(ours: tuple[str, ...], theirs: str) -> list[Entry]:
    return [matrix((*ours, "kernel"), f"{theirs}.weight"), Entry((*ours, "bias"), f"{theirs}.bias")]


def _modulated(ours: tuple[str, ...], theirs: str, *, flipped: bool = False) -> list[Entry]:
    """Returns the entries of a modulated convolution.

    Where it doubles the image, theirs is the transpose of a convolution, so the kernel is reversed.
    """
    kernel = (*ours, "kernel")
    weight = f"{theirs}.weight"
    of_kernel = (
        Entry(kernel, weight, lambda x: conv_to_ours(x)[::-1, ::-1], lambda x: conv_to_theirs(x[::-1, ::-1]))
        if flipped
        else conv(kernel, weight)
    )
    return [of_kernel, *_dense((*ours, "EqualDense_0"), f"{theirs}.affine")]


def _image_to_ours(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 2, 0)


def _image_to_theirs(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 0, 1)


def _flat_to_ours(x: np.ndarray) -> np.ndarray:
    """Returns [O, C·4·4] as [4·4·C, O]."""
    return x.reshape(len(x), -1, BASE * BASE).transpose(2, 1, 0).reshape(-1, len(x))


def _flat_to_theirs(x: np.ndarray) -> np.ndarray:
    return x.reshape(BASE * BASE, -1, x.shape[1]).transpose(2, 1, 0).reshape(x.shape[1], -1)


def _rows_to_ours(x: np.ndarray) -> np.ndarray:
    """Returns [dim, classes], scaled by 1/√classes at run time, as [classes, dim]."""
    return x.T / x.shape[1] ** 0.5


def _rows_to_theirs(x: np.ndarray) -> np.ndarray:
    return x.T * x.shape[0] ** 0.5
