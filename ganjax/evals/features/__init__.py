"""Feature networks: they turn samples into the features and logits that metrics are computed from.

Samples are uint8 images [N, H, W, C], or float points [N, 2], which are their own features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ganjax.config import plugins
from ganjax.data import Dataset, fit_images, to_float
from ganjax.data import dataset as dataset_module
from ganjax.evals.features import inception
from ganjax.evals.features.classifiers import SHIPPED, Classifier, load_classifier
from ganjax.runtime.errors import UserError

Tree = Any
Outputs = tuple[np.ndarray, np.ndarray | None]
BLOCK = 256  # images a device takes in one call
INCEPTION_BLOCK = 32
Make = Callable[[Dataset], "FeatureNetwork"]
INCEPTIONS = {"inception": "tf1", "inception_pytorch": "pytorch"}  # name → how it resizes


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A source of features.

    Attributes:
      name: `points`, a shipped classifier, `stacked_digits`, `inception`, or a file.
      sha256: hash of its weights, in hex; empty for `points`.
      resize: the method that brings images to its size.
      run: samples [N, …] → features [N, D] and logits [N, K], or None where it has no classes.
      modes: logits → the class of each sample, int32 [N]; None where classes are not the modes of the data.
    """

    name: str
    sha256: str
    resize: str
    run: Callable[[np.ndarray], Outputs]
    modes: Callable[[np.ndarray], np.ndarray] | None = None


FEATURE_NETWORKS: dict[str, Callable[[Dataset], FeatureNetwork]] = {}  # those of plugins


def register_feature_network(name: str) -> Callable[[Make], Make]:
    """Returns a decorator that adds a feature network to those of `--features`.

    Args:
      name: a name of its own; that of a data set makes it the one that this data set is measured with. What is
        decorated is a function from the `Dataset` of the reals to a `FeatureNetwork`.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, _: Dataset) -> str:
        right = isinstance(found, FeatureNetwork)
        return "" if right else f"gives a FeatureNetwork; it gave {plugins.shown(found)}"

    return plugins.decorator("feature_network", name, FEATURE_NETWORKS, problem)


def choose(name: str, dataset: Dataset) -> FeatureNetwork:
    """Returns the feature network `name`, or the one that belongs to the data set where `name` is empty.

    Args:
      name: a data set with a shipped classifier, or the .npz of another classifier; `inception` or
        `inception_pytorch` (the style of the resize), with `:FILE` where the weights are not the public ones in the
        cache; empty chooses a classifier.
      dataset: the real samples.

    Raises:
      UserError: no feature network has that name, or none belongs to the data set.
    """
    if dataset.images.ndim == 2:
        if name not in ("", "points"):
            raise UserError(f"--features={name} takes images, and {dataset.name} has points: leave it away.")
        return FeatureNetwork("points", "", "none", lambda points: (points, None))
    kind, _, path = name.partition(":")
    if kind in INCEPTIONS:
        return of_inception(INCEPTIONS[kind], path, dataset.images.shape[1:])
    chosen = name or dataset.name
    if chosen in FEATURE_NETWORKS:
        network, code = (
            FEATURE_NETWORKS[chosen](dataset),
            plugins.ENTRIES["feature_network", chosen].source.sha256,
        )
        return dataclasses.replace(network, sha256=network.sha256 or code)  # other code, other numbers
    stacked = chosen == "stacked_digits"
    chosen = "digits" if stacked else chosen
    if chosen not in SHIPPED and not chosen.endswith(".npz"):
        raise UserError(
            f"--features: there is no feature network for {chosen}; shipped are classifiers of {', '.join(SHIPPED)} "
            "and stacked_digits. Train one: python -m ganjax.evals.features.train_classifier --data=NAME "
            "--out=FILE.npz, and give --features=FILE.npz; or give --features=inception."
        )
    return of_classifier(load_classifier(chosen), "stacked_digits" if stacked else chosen, stacked=stacked)


def of_classifier(classifier: Classifier, name: str, *, stacked: bool = False) -> FeatureNetwork:
    """Returns a network whose features are the layer before a classifier's logits, [N, 128].

    If `stacked`, it joins the features of three channels, [N, 384].
    """
    height, _, channels = classifier.shape

    def apply(variables: Tree, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = classifier.net.apply(variables, to_float(block), train=False)
        return outputs[0], outputs[1]

    extract = sharded(apply, classifier.variables, classifier.shape)

    def run(images: np.ndarray) -> Outputs:
        expected = 3 if stacked else channels
        if images.ndim != 4 or images.shape[3] != expected:
            raise UserError(
                f"The feature network {name} takes images of {expected} channels, and got {images.shape}."
            )
        images = fit_images(images, height)
        if not stacked:
            return extract(images)
        single = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3], 1)
        features, logits = extract(single)
        return features.reshape(len(images), -1), logits.reshape(len(images), -1)

    def modes(logits: np.ndarray) -> np.ndarray:
        if not stacked:
            return logits.argmax(axis=1).astype(np.int32)
        digits = logits.reshape(len(logits), 3, -1).argmax(axis=2)
        return (digits @ np.array([100, 10, 1])).astype(np.int32)

    # fit_images is a part of what the numbers mean: its text is hashed, so that a change of it shows.
    rule = hashlib.sha256(inspect.getsource(dataset_module.fit_images).encode()).hexdigest()[:8]
    return FeatureNetwork(name, classifier.sha256, f"fit_images {height} px ({rule})", run, modes)


def of_inception(resize: str, path: str, shape: Sequence[int]) -> FeatureNetwork:
    """Returns FID's network: features [N, 2048] and 1,008 logits without bias.

    Images have any size and 1 or 3 channels.
    """
    variables, sha256 = inception.load_inception(path)
    if shape[2] not in (1, 3):
        raise UserError(f"Inception takes images of 1 or 3 channels, and got {shape[2]}.")

    def apply(variables: Tree, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = inception.Inception().apply(variables, inception.preprocess(block, resize))
        return outputs[0], outputs[1]

    extract: dict[tuple[int, ...], Callable[[np.ndarray], Outputs]] = {}

    def run(images: np.ndarray) -> Outputs:
        size = images.shape[1:]
        if size not in extract:
            extract[size] = sharded(apply, variables, size, INCEPTION_BLOCK)
        return extract[size](images)

    return FeatureNetwork("inception", sha256, f"{resize} bilinear, {inception.SIDE} px", run)


def sharded(
    apply: Callable[[Tree, jax.Array], tuple[jax.Array, jax.Array]],
    variables: Tree,
    shape: Sequence[int],
    block: int = BLOCK,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function that runs `apply` over all local devices in one compiled call, for any number of images.

    Args:
      apply: (variables, uint8 [n, *shape]) → two arrays [n, …].
      variables: first argument of `apply`, put on every device once.
      shape: shape of an image.
      block: images per device in one call.

    Returns:
      A function: uint8 [N, *shape] → the two arrays for all N, on the host.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("devices",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("devices"))
    placed = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), everywhere), variables)
    # Mapped, not left to XLA to divide: it would give every device the whole batch of a native convolution.
    call = jax.jit(
        jax.shard_map(
            apply, mesh=mesh, in_specs=(everywhere.spec, split.spec), out_specs=split.spec, check_vma=False
        )
    )
    size = block * len(jax.local_devices())

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, max(1, len(images)), size):
            padded = np.zeros((size, *shape), np.uint8)
            part = images[start : start + size]
            padded[: len(part)] = part
            outputs = jax.device_get(call(placed, jax.device_put(padded, split)))
            parts.append([output[: len(part)] for output in outputs])
        first, second = zip(*parts, strict=True)
        return np.concatenate(first), np.concatenate(second)

    return run
