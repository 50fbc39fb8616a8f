"""Entries of the layers that several families have, for the ways in which PyTorch code names and lays them out.

Spectral norms: `TORCH` is `torch.nn.utils.spectral_norm`, which stores both vectors; `BIGGAN` is BigGAN-PyTorch's and
`MIMICRY` torch-mimicry's own, which store the one on the side of the output (of an embedding: of the rows), so that
`complete_vectors` has to follow `import_weights`. The constants are the names of what is stored.
"""

from __future__ import annotations

import numpy as np
from flax import traverse_util

from ganjax.models.layers.spectral_norm import COLLECTION
from ganjax.models.mappings import Change, Entry, Tree, conv_to_ours, conv_to_theirs, dense, same

Path = tuple[str, ...]
PLAIN, TORCH, BIGGAN, MIMICRY = "", "weight_u", "u0", "sn_u"


def conv_layer(
    at: str | Path, theirs: str, *, size: int = 3, bias: bool = True, spectral: str = PLAIN
) -> list[Entry]:
    """Returns the entries of a `ganjax.models.layers.layers.Conv`.

    Args:
      at: its place in the network: `"Conv_0"`, or a path.
      theirs: its name in the state dict.
      size: the size of the kernel.
      bias: True if it has a bias.
      spectral: PLAIN for none, TORCH, BIGGAN or MIMICRY.
    """
    path = _path(at)
    entries = [
        Entry(("params", *path, "Conv_0", "kernel"), _weight(theirs, spectral), conv_to_ours, conv_to_theirs)
    ]
    entries += [Entry(("params", *path, "Conv_0", "bias"), f"{theirs}.bias")] if bias else []
    to_ours = lambda v: v.reshape(-1, size, size).transpose(1, 2, 0).ravel()
    to_theirs = lambda v: v.reshape(size, size, -1).transpose(2, 0, 1).ravel()
    return entries + vectors(path, theirs, spectral, inputs=(to_ours, to_theirs))


def dense_layer(
    at: str | Path, theirs: str, *, pixels: int = 1, bias: bool = True, spectral: str = PLAIN, roll: int = 0
) -> list[Entry]:
    """Returns the entries of a `ganjax.models.layers.layers.Dense`.

    Args:
      at, theirs, bias, spectral: as for `conv_layer`.
      pixels: the pixels of the map made of the outputs; theirs has the channels outside, ours inside.
      roll: the number of their inputs, at the front, that are at the end in ours.
    """
    path = _path(at)
    outputs = (
        lambda x: x.reshape(-1, pixels, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape),
        lambda x: x.reshape(pixels, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape),
    )
    entries = [
        Entry(
            ("params", *path, "Dense_0", "kernel"),
            _weight(theirs, spectral),
            lambda x: dense(np.roll(outputs[0](x), -roll, axis=1)),
            lambda x: outputs[1](np.roll(dense(x), roll, axis=1)),
        )
    ]
    entries += [Entry(("params", *path, "Dense_0", "bias"), f"{theirs}.bias", *outputs)] if bias else []
    return entries + vectors(path, theirs, spectral, outputs=outputs)


def embedding(at: str | Path, theirs: str, *, spectral: str = PLAIN) -> list[Entry]:
    """Returns the entries of a Flax `Embed`, `at/Embed_0`. Our spectral norm takes rows and columns as they are."""
    path = _path(at)
    entries = [Entry(("params", *path, "Embed_0", "embedding"), _weight(theirs, spectral))]
    if spectral == PLAIN:
        return entries
    where = (COLLECTION, *path, "SpectralNorm_0")
    if spectral != TORCH:
        return [*entries, Entry((*where, "embedding/u"), f"{theirs}.{spectral}", np.ravel, _row)]
    names = (("embedding/u", "weight_u"), ("embedding/v", "weight_v"))
    return entries + [Entry((*where, ours), f"{theirs}.{name}") for ours, name in names]


def batch_norm(
    at: str | Path, theirs: str, names: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")
) -> list[Entry]:
    """Returns the entries of a Flax `BatchNorm`, `at/BatchNorm_0`.

    With two names they are those of its statistics alone.
    """
    path = (*_path(at), "BatchNorm_0")
    entries = [
        Entry(("batch_stats", *path, ours), f"{theirs}.{name}")
        for ours, name in zip(("mean", "var"), names[-2:], strict=True)
    ]
    affine = zip(("scale", "bias"), names[:-2], strict=False)
    return entries + [Entry(("params", *path, ours), f"{theirs}.{name}") for ours, name in affine]


def attention(at: str, theirs: str, *, spectral: str) -> list[Entry]:
    """Returns the entries of a `ganjax.models.layers.conditional.SelfAttention`."""
    entries = [Entry(("params", at, "gamma"), f"{theirs}.gamma")]
    for name in ("theta", "phi", "g", "o"):
        entries += conv_layer((at, name), f"{theirs}.{name}", size=1, bias=False, spectral=spectral)
    return entries


def vectors(
    path: Path,
    theirs: str,
    spectral: str,
    *,
    inputs: tuple[Change, Change] = (same, same),
    outputs: tuple[Change, Change] = (same, same),
) -> list[Entry]:
    """Returns the entries of a layer's singular vectors: ours are u for the inputs, v for the outputs."""
    if spectral == PLAIN:
        return []
    where = (COLLECTION, *path, "SpectralNorm_0")
    if spectral != TORCH:
        to_ours, to_theirs = outputs
        return [
            Entry(
                (*where, "kernel/v"),
                f"{theirs}.{spectral}",
                lambda u: to_ours(u.ravel()),
                lambda v: _row(to_theirs(v)),
            )
        ]
    return [
        Entry((*where, "kernel/u"), f"{theirs}.weight_v", *inputs),
        Entry((*where, "kernel/v"), f"{theirs}.weight_u", *outputs),
    ]


def complete_vectors(entries: list[Entry], variables: Tree) -> Tree:
    """Returns `variables` with both singular vectors of each spectral norm, where the authors' code stores one.

    The vectors are one power iteration on from the stored one, as in those codes at each call, also in evaluation.

    Args:
      entries: the network's entries.
      variables: the result of `import_weights`.
    """
    flat = traverse_util.flatten_dict(variables)
    given = {entry.ours for entry in entries if entry.ours[0] == COLLECTION}
    for path in given:
        where, (kind, _, which) = path[:-1], path[-1].partition("/")
        paths = {one: (*where, f"{kind}/{one}") for one in "uv"}
        if paths["u"] in given and paths["v"] in given:
            continue
        # The kernel is in the one layer beside the norm: params/…/Conv_0/kernel for spectral/…/SpectralNorm_0/kernel/v.
        at = ("params", *where[1:-1])
        (kernel,) = (
            x
            for key, x in flat.items()
            if key[: len(at)] == at and len(key) == len(at) + 2 and key[-1] == kind
        )
        matrix = np.asarray(kernel, np.float32).reshape(-1, kernel.shape[-1])
        v = np.asarray(flat[paths["v"]]) if which == "v" else _unit(np.asarray(flat[paths["u"]]) @ matrix)
        u = _unit(matrix @ v)
        flat |= {paths["u"]: u, paths["v"]: _unit(u @ matrix) if which == "v" else v}
    return traverse_util.unflatten_dict(flat)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def _row(x: np.ndarray) -> np.ndarray:
    return x.reshape(1, -1)


def _path(at: str | Path) -> Path:
    return (at,) if isinstance(at, str) else at


def _weight(theirs: str, spectral: str) -> str:
    return f"{theirs}.weight_orig" if spectral == TORCH else f"{theirs}.weight"
