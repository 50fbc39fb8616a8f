"""Names of R3GAN's parameters in the authors' code (brownvc/R3GAN, `R3GAN/Networks.py`), as within its `Model`."""

from __future__ import annotations

import numpy as np

from ganjax.models.base import channels, levels
from ganjax.models.mappings import Entry, conv, matrix

ROWS = ("params", "Embed_0", "embedding")


def generator(
    resolution: int, *, width: int, max_width: int, depth: int = 2, classes: int = 0
) -> list[Entry]:
    """Returns the entries of G.

    Args:
      resolution: the images' side in pixels.
      width, max_width: the channels at full resolution, and at most.
      depth: the number of blocks a level.
      classes: the number of classes; 0 for none.
    """
    size = lambda side: channels(resolution, side, width, max_width)
    entries = [
        Entry(("params", "basis"), "MainLayers.0.Layers.0.Basis", _basis_to_ours, _basis_to_theirs),
        _dense(0, "MainLayers.0.Layers.0.LinearLayer"),
    ]
    linear = block = 0
    for i, side in enumerate(levels(resolution)):
        if i and size(side) != size(side // 2):
            entries.append(_linear(linear, f"MainLayers.{i}.Layers.0.LinearLayer"))
            linear += 1
        for j in range(depth):
            entries += _block(block, f"MainLayers.{i}.Layers.{j + 1}")
            block += 1
    entries.append(_linear(linear, "AggregationLayer"))
    return entries + ([_rows()] if classes else [])


def discriminator(
    resolution: int, *, width: int, max_width: int, depth: int = 2, classes: int = 0
) -> list[Entry]:
    """Returns the entries of D without multi-scale gradients. The arguments are those of `generator`."""
    size = lambda side: channels(resolution, side, width, max_width)
    entries, linear, block = [_linear(0, "ExtractionLayer")], 1, 0
    for i, side in enumerate(reversed(levels(resolution))):
        for j in range(depth):
            entries += _block(block, f"MainLayers.{i}.Layers.{j}")
            block += 1
        last = f"MainLayers.{i}.Layers.{depth}"
        if side == levels(resolution)[0]:
            entries += [
                Entry(("params", "basis"), f"{last}.Basis.weight", _taps_to_ours, _taps_to_theirs),
                _dense(0, f"{last}.LinearLayer"),
            ]
        elif size(side) != size(side // 2):
            entries.append(_linear(linear, f"{last}.LinearLayer"))
            linear += 1
    return entries + ([_rows()] if classes else [])


def _linear(i: int, theirs: str) -> Entry:
    return conv(("params", f"Conv_{i}", "Conv_0", "kernel"), f"{theirs}.Layer.weight")


def _dense(i: int, theirs: str) -> Entry:
    return matrix(("params", f"Dense_{i}", "Dense_0", "kernel"), f"{theirs}.weight")


def _rows() -> Entry:
    return matrix(ROWS, "EmbeddingLayer.weight")


def _block(i: int, theirs: str) -> list[Entry]:
    ours = ("params", f"Block_{i}")
    kinds = ("Conv_0", "GroupedConv_0", "Conv_0")
    return [
        *(
            conv((*ours, f"Conv_{j}", kind, "kernel"), f"{theirs}.LinearLayer{j + 1}.Layer.weight")
            for j, kind in enumerate(kinds)
        ),
        *(Entry((*ours, f"Activation_{j}", "bias"), f"{theirs}.NonLinearity{j + 1}.Bias") for j in range(2)),
    ]


def _basis_to_ours(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 2, 0)


def _basis_to_theirs(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 0, 1)


def _taps_to_ours(x: np.ndarray) -> np.ndarray:
    """Returns [C, 1, 4, 4] as [4·4, C]."""
    return x.reshape(len(x), -1).T


def _taps_to_theirs(x: np.ndarray) -> np.ndarray:
    side = round(len(x) ** 0.5)
    return x.T.reshape(x.shape[1], 1, side, side)
