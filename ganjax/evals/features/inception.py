"""The Inception network of FID in Flax, and the conversion of its weights from PyTorch's file.

Szegedy et al. 2016, "Rethinking the Inception Architecture", as trained in 2015 with 1,008 classes and used by Heusel
et al. 2017: average pooling leaves the border out, and the last block pools by maxima.
"""

from __future__ import annotations

import functools
import hashlib
import os
import urllib.request
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ganjax.evals.features.weight_files import Arrays, check_finite, parse_weights
from ganjax.models.layers.convolution import conv_general_dilated
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import cache_dir, expand, read_regular, replace_file

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE, FEATURES, CLASSES = 299, 2048, 1008
EPS = 1e-3  # of the batch normalisation
RESIZES = ("tf1", "pytorch")


class ConvNorm(nn.Module):
    """A layer: a convolution without bias, batch normalisation folded into `scale` and `bias`, and ReLU."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the layer's output for x [N, H, W, I]."""
        padding = "VALID" if self.valid else [((n - 1) // 2,) * 2 for n in self.size]
        shape = (self.features,)
        y = nn.Conv(
            self.features,
            self.size,
            self.stride,
            padding,
            use_bias=False,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return nn.relu(y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1))


def conv(name: str, features: int, *size: int, down: bool = False) -> ConvNorm:
    """Makes a `ConvNorm`: 1×1 by default, n×n for one size, h×w for two; `down` halves the sides, without padding."""
    kernel = (1, 1) if not size else (size[0], size[-1])
    return ConvNorm(features, kernel, 2 if down else 1, down, name=name)


def average(x: jax.Array) -> jax.Array:
    """Returns the 3×3 means of x with stride 1; a window at the border averages only the pixels within the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def maximum(x: jax.Array, stride: int = 2) -> jax.Array:
    """Returns the 3×3 maxima of x; with stride 1 the size stays."""
    return nn.max_pool(x, (3, 3), (stride, stride), "VALID" if stride == 2 else "SAME")


class Mixed(nn.Module):
    """A block of parallel branches.

    `kind` is its letter in the public implementations; `width` is the width that varies.
    """

    kind: str
    width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the block's output for x [N, H, W, I]."""
        branches = {"A": self._a, "B": self._b, "C": self._c, "D": self._d, "E": self._e}[self.kind]
        return jnp.concatenate(branches(x), axis=-1)

    def _a(self, x: jax.Array) -> list[jax.Array]:
        fives = conv("branch5x5_2", 64, 5)(conv("branch5x5_1", 48)(x))
        threes = conv("branch3x3dbl_2", 96, 3)(conv("branch3x3dbl_1", 64)(x))
        threes = conv("branch3x3dbl_3", 96, 3)(threes)
        return [conv("branch1x1", 64)(x), fives, threes, conv("branch_pool", self.width)(average(x))]

    def _b(self, x: jax.Array) -> list[jax.Array]:
        threes = conv("branch3x3dbl_2", 96, 3)(conv("branch3x3dbl_1", 64)(x))
        threes = conv("branch3x3dbl_3", 96, 3, down=True)(threes)
        return [conv("branch3x3", 384, 3, down=True)(x), threes, maximum(x)]

    def _c(self, x: jax.Array) -> list[jax.Array]:
        single = conv("branch7x7_2", self.width, 1, 7)(conv("branch7x7_1", self.width)(x))
        single = conv("branch7x7_3", 192, 7, 1)(single)
        double = conv("branch7x7dbl_1", self.width)(x)
        for i, (size, features) in enumerate(
            [((7, 1), self.width), ((1, 7), self.width), ((7, 1), self.width), ((1, 7), 192)]
        ):
            double = conv(f"branch7x7dbl_{i + 2}", features, *size)(double)
        return [conv("branch1x1", 192)(x), single, double, conv("branch_pool", 192)(average(x))]

    def _d(self, x: jax.Array) -> list[jax.Array]:
        threes = conv("branch3x3_2", 320, 3, down=True)(conv("branch3x3_1", 192)(x))
        sevens = conv("branch7x7x3_2", 192, 1, 7)(conv("branch7x7x3_1", 192)(x))
        sevens = conv("branch7x7x3_3", 192, 7, 1)(sevens)
        return [threes, conv("branch7x7x3_4", 192, 3, down=True)(sevens), maximum(x)]

    def _e(self, x: jax.Array) -> list[jax.Array]:
        one = conv("branch3x3_1", 384)(x)
        two = conv("branch3x3dbl_2", 384, 3)(conv("branch3x3dbl_1", 448)(x))
        pooled = maximum(x, 1) if self.width else average(x)  # width 1: the last block
        return [
            conv("branch1x1", 320)(x),
            conv("branch3x3_2a", 384, 1, 3)(one),
            conv("branch3x3_2b", 384, 3, 1)(one),
            conv("branch3x3dbl_3a", 384, 1, 3)(two),
            conv("branch3x3dbl_3b", 384, 3, 1)(two),
            conv("branch_pool", 192)(pooled),
        ]


BLOCKS = {
    **{"Mixed_5b": ("A", 32), "Mixed_5c": ("A", 64), "Mixed_5d": ("A", 64), "Mixed_6a": ("B", 0)},
    **{"Mixed_6b": ("C", 128), "Mixed_6c": ("C", 160), "Mixed_6d": ("C", 160), "Mixed_6e": ("C", 192)},
    **{"Mixed_7a": ("D", 0), "Mixed_7b": ("E", 0), "Mixed_7c": ("E", 1)},
}


class Inception(nn.Module):
    """The whole Inception network; its layers carry the names that PyTorch's file gives them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns features [N, 2048] and logits without bias [N, 1008] of x [N, 299, 299, 3] in [-1, 1]."""
        x = conv("Conv2d_1a_3x3", 32, 3, down=True)(x)
        x = ConvNorm(32, (3, 3), valid=True, name="Conv2d_2a_3x3")(x)
        x = maximum(conv("Conv2d_2b_3x3", 64, 3)(x))
        x = conv("Conv2d_3b_1x1", 80)(x)
        x = maximum(ConvNorm(192, (3, 3), valid=True, name="Conv2d_4a_3x3")(x))
        for name, (kind, width) in BLOCKS.items():
            x = Mixed(kind, width, name=name)(x)
        features = x.mean(axis=(1, 2))
        return features, nn.Dense(CLASSES, use_bias=False, name="fc")(features)


def preprocess(images: jax.Array, resize: str) -> jax.Array:
    """Returns the network's input, float32 [N, 299, 299, 3] in about [-1, 1], of images uint8 [N, H, W, 1 or 3].

    `tf1` is bilinear without the half-pixel shift, then (x − 128) / 128, as the network was first used. `pytorch` has
    half-pixel centres, then 2x / 255 − 1. Neither smooths before it shrinks.
    """
    x = images.astype(jnp.float32)
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    rows, columns = (jnp.asarray(bilinear(n, SIDE, half_pixel=resize == "pytorch")) for n in x.shape[1:3])
    x = jnp.einsum("oh,nhwc->nowc", rows, x, precision="highest")
    x = jnp.einsum("pw,nowc->nopc", columns, x, precision="highest")
    return (x - 128.0) / 128.0 if resize == "tf1" else x / 127.5 - 1.0


def bilinear(size: int, target: int, *, half_pixel: bool) -> np.ndarray:
    """Returns the float32 matrix [target, size] of bilinear interpolation along one axis.

    Places outside are clamped.
    """
    shift = 0.5 if half_pixel else 0.0
    places = np.clip((np.arange(target) + shift) * (size / target) - shift, 0, size - 1)
    low = np.floor(places).astype(int)
    high, share = np.minimum(low + 1, size - 1), places - low
    matrix = np.zeros((target, size))
    np.add.at(matrix, (np.arange(target), low), 1 - share)
    np.add.at(matrix, (np.arange(target), high), share)
    return matrix.astype(np.float32)


@functools.cache
def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter, by names joined with slashes."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    variables: Any = jax.eval_shape(Inception().init, jax.random.key(0), image)
    return {name: leaf.shape for name, leaf in flatten_dict(variables["params"], sep="/").items()}


def convert(arrays: Arrays, origin: str) -> dict[str, Any]:
    """Converts PyTorch's state_dict to Flax's variables; batch normalisation becomes a scale and a bias.

    Raises:
      UserError: a layer is missing or of another shape.
    """
    params: dict[str, np.ndarray] = {}

    def taken(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in arrays or arrays[name].shape != shape:
            came = f"has shape {arrays[name].shape}, not {shape}" if name in arrays else "is missing"
            raise UserError(f"{origin} is not FID's Inception network: {name} {came}.")
        return arrays[name].astype(np.float32)

    for name, shape in shapes().items():
        layer, part = name.rsplit("/", 1)
        torch_name = layer.removesuffix("/conv").replace("/", ".")
        if layer == "fc":
            params[name] = taken("fc.weight", shape[::-1]).T
        elif part == "kernel":
            height, width, inputs, outputs = shape
            kernel = taken(f"{torch_name}.conv.weight", (outputs, inputs, height, width))
            params[name] = kernel.transpose(2, 3, 1, 0)
        else:
            weight, bias, mean, variance = (
                taken(f"{torch_name}.bn.{of}", shape)
                for of in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight / np.sqrt(variance.astype(np.float64) + EPS)
            params[name] = scale if part == "scale" else bias - mean * scale
    params = {k: v.astype(np.float32) for k, v in params.items()}
    try:
        check_finite(params)
    except ValueError as error:
        raise UserError(f"{origin} is damaged: {error}.") from None
    return {"params": unflatten_dict(params, sep="/")}


def load_inception(path: str = "") -> tuple[dict[str, Any], str]:
    """Returns the variables of `Inception`, and the sha256, in hex, of their file.

    Args:
      path: file of the weights, in any format of `weight_files`; empty takes PyTorch's public file, from
        `~/.cache/ganjax/inception` ($XDG_CACHE_HOME), downloaded there once unless GANJAX_OFFLINE is set.

    Raises:
      UserError: the file cannot be had, is damaged, or is another file. Nothing in it is run.
    """
    file = expand(path) if path else _cached()
    try:
        content = read_regular(file)
    except OSError as error:
        raise UserError(f"The Inception weights {file} cannot be read: {error.strerror or error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if not path:
        check_hash(content, SHA256, str(file))
    return convert(parse_weights(content, str(file)), str(file)), found


def check_hash(content: bytes, expected: str, origin: str) -> None:
    """Raises a `UserError` unless the content has the sha256 `expected`."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise UserError(f"{origin} is damaged or another file: expected sha256 {expected}, found {found}.")


def _cached() -> Path:
    """Returns the path of the public file, which is downloaded if it is not there."""
    file = cache_dir("inception") / URL.rpartition("/")[2]
    if file.exists():
        return file
    problem = "the network was not tried, because GANJAX_OFFLINE is set"
    if os.environ.get("GANJAX_OFFLINE", "") in ("", "0"):
        try:
            with urllib.request.urlopen(URL, timeout=60) as response:
                content = bytes(response.read())
            check_hash(content, SHA256, URL)
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, content)
            return file
        except OSError as error:
            problem = f"{URL} could not be had ({error})"
    raise UserError(
        f"The Inception weights are not in {file}, and {problem}. Fetch that file where there is a network and give it "
        "as --features=inception:FILE."
    )
