"""Small classifiers of a data set's own classes: they give the mode that a sample belongs to, and its features.

Images are uint8 [N, H, W, C] in [0, 255] of the size the classifier was trained on. The shipped weights were made by
`python -m ganjax.evals.features.train_classifier --data=NAME --out=FILE`; their metadata holds the rest of that
command.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ganjax.evals.features.weight_files import check_finite
from ganjax.models.layers.layers import Conv, Dense, Norm
from ganjax.runtime.errors import UserError, nearest
from ganjax.runtime.files import read_npz, read_regular

Tree = Any
BLOCK = 256  # images a call of the compiled network takes, whatever the size of the batch
WEIGHTS = Path(__file__).parent / "weights"
# name of the data set → sha256 of weights/NAME.npz
SHIPPED = {
    "digits": "323ef9be2e190ea771ffd54d9d220212a2c63ea4993e103c586d52229a39bd78",
    "fashion_mnist": "23e7127c822c6f7933008fb8b06e242ab65075356ba1618315da928da6382358",
}


class Net(nn.Module):
    """A classifier network: stages of two 3×3 convolutions and a 2×2 max pooling, down to 4 pixels or fewer.

    Each stage is twice as wide as the one before.

    Images above 16 pixels first meet a 5×5 convolution of stride 2. The features are a dense layer of 128.
    """

    classes: int
    width: int = 32
    dropout: float = 0.2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns features [N, 128] and logits [N, classes], float32, of images [N, H, W, C] in [-1, 1]."""

        def activated(x: jax.Array) -> jax.Array:
            return nn.relu(Norm("batch", train)(x))

        x, width = images, self.width
        if min(x.shape[1:3]) > 16:
            x = activated(nn.Conv(width, (5, 5), strides=2, use_bias=False)(x))
        stages = 0
        while stages < 2 or min(x.shape[1:3]) > 4:
            for _ in range(2):
                x = activated(Conv(width, use_bias=False)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            width, stages = 2 * width, stages + 1
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(len(x), -1))
        features = nn.relu(Dense(128)(x))
        return features, Dense(self.classes)(nn.Dropout(self.dropout, deterministic=not train)(features))


@functools.partial(jax.jit, static_argnames="net")
def _apply(net: Net, variables: Tree, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    images = block.astype(jnp.float32) / 127.5 - 1.0
    outputs: Any = net.apply(variables, images, train=False)
    return outputs[0], outputs[1]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier.

    Attributes:
      net: the network.
      variables: its weights and batch statistics, float32.
      metadata: the settings it was trained with, from its file.
      sha256: hash of the file, in hex.
    """

    net: Net
    variables: Tree
    metadata: dict[str, Any]
    sha256: str

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.net.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of the images that the classifier takes."""
        height, width, channels = self.metadata["shape"]
        return height, width, channels

    @property
    def accuracy(self) -> float:
        """The accuracy on images that the classifier was not trained on, from 0 to 1."""
        return float(self.metadata["accuracy"])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits, float32 [N, classes], of uint8 [N, H, W, C]; any N, in blocks of one size."""
        return self._run(images)[1]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns the features, float32 [N, 128], of uint8 [N, H, W, C]: the layer before the logits, not negative."""
        return self._run(images)[0]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the likeliest class, int32 [N], of each image in uint8 [N, H, W, C]."""
        return self.logits(images).argmax(axis=1).astype(np.int32)

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.shape:
            raise UserError(
                f"The classifier of {self.metadata['data']} takes uint8 images of shape (N, H, W, C) with "
                f"(H, W, C) = {self.shape}, and got {images.dtype} {images.shape}."
            )
        parts = [self._block(images[i : i + BLOCK]) for i in range(0, max(1, len(images)), BLOCK)]
        features, logits = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def _block(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((BLOCK, *self.shape), np.uint8)
        padded[: len(images)] = images
        features, logits = jax.device_get(_apply(self.net, self.variables, jax.device_put(padded)))
        return features[: len(images)], logits[: len(images)]


def stacked_modes(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Returns the mode 100a + 10b + c of images whose channels are three digits (Metz et al. 2017).

    Args:
      classifier: a classifier of single digits.
      images: uint8 [N, H, W, 3].

    Returns:
      int32 [N] in [0, 1000).
    """
    count, height, width, channels = images.shape
    if channels != 3:
        raise UserError(f"Stacked digits have 3 channels, and these images have {channels}.")
    single = np.moveaxis(images, -1, 1).reshape(3 * count, height, width, 1)
    modes: np.ndarray = classifier.predict(single).reshape(count, 3) @ np.array([100, 10, 1], np.int32)
    return modes


def load_classifier(name: str) -> Classifier:
    """Loads a shipped classifier, or one that `train_classifier` wrote.

    Args:
      name: one of `SHIPPED`, whose file must have the sha256 stated there, or the path of an .npz file.

    Raises:
      UserError: `name` is neither, or the file is damaged or is not the one that was shipped.
    """
    if name in SHIPPED:
        path = WEIGHTS / f"{name}.npz"
    elif name.endswith(".npz"):
        path = Path(name)
    else:
        raise UserError(
            f"There is no classifier {name!r}; shipped are {', '.join(SHIPPED)}.{nearest(name, SHIPPED)} Train one:\n"
            f"  python -m ganjax.evals.features.train_classifier --data={name} --out=FILE.npz\nand give that file."
        )
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"The classifier {path} cannot be read: {error.strerror or error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHIPPED.get(name, found):
        raise UserError(
            f"{path} is not the file that ganjax ships: its sha256 is {found}, and {SHIPPED[name]} was expected. "
            "Install ganjax anew."
        )
    return unpack(content, str(path))


def pack(net: Net, variables: Tree, metadata: dict[str, Any]) -> bytes:
    """Returns the bytes of an .npz file, the same for the same arguments. Kernels are rounded to float16."""
    arrays = {
        key: np.asarray(value, np.float16 if value.ndim > 1 else np.float32)
        for key, value in flatten_dict(variables, sep="/").items()
    }
    facts = {**metadata, "classes": net.classes, "width": net.width}
    file = io.BytesIO()
    np.savez_compressed(file, metadata=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(content: bytes, origin: str) -> Classifier:
    """Makes the classifier from the bytes of its file.

    Raises a `UserError` that names `origin` where they are no classifier.
    """
    try:
        file = read_npz(io.BytesIO(content))
        metadata = json.loads(str(file.pop("metadata")))
        arrays = {key: value.astype(np.float32) for key, value in file.items()}
        net = Net(metadata["classes"], metadata["width"])
        image = jax.ShapeDtypeStruct((1, *metadata["shape"]), jnp.float32)
        expected = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), image)
        shapes = {key: value.shape for key, value in flatten_dict(expected, sep="/").items()}
        if shapes != {key: value.shape for key, value in arrays.items()}:
            raise ValueError("its weights are not those of the network that its metadata describes")
        check_finite(arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{origin} is not a classifier of ganjax, or damaged ({type(error).__name__}: {error})."
        ) from error
    variables = jax.device_put(unflatten_dict(arrays, sep="/"))
    return Classifier(net, variables, metadata, hashlib.sha256(content).hexdigest())
