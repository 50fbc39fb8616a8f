"""Classifiers for judging: what they get right, any size of batch, the files they come from, and their training."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ganjax.data as data
from ganjax.data import Dataset
from ganjax.data.sources import fashion_mnist
from ganjax.evals.features import classifiers, train_classifier
from ganjax.evals.features.classifiers import (
    BLOCK,
    SHIPPED,
    WEIGHTS,
    Net,
    load_classifier,
    pack,
    stacked_modes,
)
from ganjax.runtime.errors import UserError

DIGITS = load_classifier("digits")
TEST = data.load("digits", split="test")


def test_digits_on_images_not_trained_on() -> None:
    """The split: every fifth image of each class was held out, 355 of 1797."""
    fit = data.load("digits", split="fit")
    assert DIGITS.metadata["fit_sha256"] == fit.fingerprint
    assert DIGITS.metadata["test_sha256"] == TEST.fingerprint and len(TEST) == 355
    accuracy = float(np.mean(DIGITS.predict(TEST.images) == TEST.labels))
    assert accuracy >= 0.98
    assert abs(accuracy - DIGITS.accuracy) < 1.5 / len(
        TEST
    )  # another platform may round one image differently


def test_outputs_belong_together() -> None:
    features, logits = DIGITS.features(TEST.images), DIGITS.logits(TEST.images)
    assert (features.shape, features.dtype) == ((355, 128), np.float32) and features.min() >= 0
    assert (logits.shape, logits.dtype) == ((355, DIGITS.classes), np.float32)
    last = DIGITS.variables["params"]["Dense_1"]["Dense_0"]
    expected = features @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(DIGITS.predict(TEST.images), logits.argmax(axis=1))


@pytest.mark.parametrize("count", [0, 1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 355])
def test_any_batch_size_gives_the_same(count: int) -> None:
    whole = DIGITS.logits(TEST.images)
    compiled = classifiers._apply._cache_size()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(DIGITS.logits(TEST.images[:count]), whole[:count])
    assert classifiers._apply._cache_size() == compiled  # type: ignore[attr-defined]


def test_works_inside_a_loop_that_forbids_transfers() -> None:
    with jax.transfer_guard("disallow"):
        assert DIGITS.predict(TEST.images[:2]).dtype == np.int32


@pytest.mark.parametrize(
    "images",
    [TEST.images.astype(np.float32), TEST.images[0], TEST.images[:, :4], np.zeros((2, 8, 8, 3), np.uint8)],
)
def test_other_images_are_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match="takes uint8 images"):
        DIGITS.logits(images)


def test_stacked_digits() -> None:
    stacked = data.load("stacked_digits", split="test", seed=3)
    images, labels = stacked.images[:1000], stacked.labels
    assert labels is not None
    modes = stacked_modes(DIGITS, images)
    assert modes.dtype == np.int32 and np.mean(modes == labels[:1000]) > 0.96
    digits = np.stack([DIGITS.predict(images[..., [channel]]) for channel in range(3)])
    np.testing.assert_array_equal(modes, 100 * digits[0] + 10 * digits[1] + digits[2])
    with pytest.raises(UserError, match="3 channels"):
        stacked_modes(DIGITS, images[..., :1])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files(name: str) -> None:
    path = WEIGHTS / f"{name}.npz"
    assert path.stat().st_size <= 2**20
    classifier = load_classifier(name)
    assert classifier.sha256 == SHIPPED[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert classifier.metadata["data"] == name
    assert {"epochs", "batch_size", "learning_rate", "seed", "versions"} <= classifier.metadata.keys()
    assert {file.stem for file in WEIGHTS.iterdir()} == set(SHIPPED)


def test_tampering_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    content = bytearray((WEIGHTS / "digits.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"is not the file that ganjax ships.*{SHIPPED['digits']}"):
        load_classifier("digits")
    (tmp_path / "digits.npz").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_classifier("digits")


@pytest.mark.parametrize("damage", ["flip", "cut", "text", "no metadata", "other network", "pickle", "nan"])
def test_damaged_files_of_a_user_are_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    content = bytearray((WEIGHTS / "digits.npz").read_bytes())
    with np.load(WEIGHTS / "digits.npz") as file:
        arrays: dict[str, Any] = dict(file)
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        del content[1000:]
    elif damage == "text":
        content = bytearray(b"no zip at all")
    path.write_bytes(content)
    if damage == "no metadata":
        del arrays["metadata"]
        np.savez(path, **arrays)
    elif damage == "other network":
        arrays["metadata"] = np.array(json.dumps({**DIGITS.metadata, "width": 8}))
        np.savez(path, **arrays)
    elif damage == "nan":  # its features would be all alike, and FID 0
        name = next(name for name in arrays if name != "metadata")
        arrays[name].flat[0] = np.nan
        np.savez(path, **arrays)
    elif damage == "pickle":
        arrays["metadata"] = np.array([{"classes": 10}], object)
        np.savez(path, **arrays)
    with pytest.raises(UserError, match="is not a classifier of ganjax, or damaged"):
        load_classifier(str(path))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'digits'\?(.|\n)*train_classifier --data=digit "):
        load_classifier("digit")


def test_packing_is_exact_and_repeatable(tmp_path: Path) -> None:
    variables = jax.device_get(DIGITS.variables)
    metadata = {key: value for key, value in DIGITS.metadata.items() if key not in ("classes", "width")}
    content = pack(DIGITS.net, variables, metadata)
    assert content == pack(DIGITS.net, variables, metadata)
    path = tmp_path / "copy.npz"
    path.write_bytes(content)
    assert zipfile.ZipFile(path).testzip() is None
    np.testing.assert_array_equal(load_classifier(str(path)).logits(TEST.images), DIGITS.logits(TEST.images))


def idx(name: str, header: int) -> np.ndarray:
    """The bytes of one of Debian's files after the header."""
    content = gzip.decompress((fashion_mnist.DEBIAN / name).read_bytes())
    return np.frombuffer(content, np.uint8, offset=header)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_on_images_not_trained_on() -> None:
    """All 10,000: the first 2,000 alone are easier (92.8 %) than the next (91.4 %)."""
    images = idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    labels = idx("t10k-labels-idx1-ubyte.gz", 8)
    classifier = load_classifier("fashion_mnist")
    accuracy = float(np.mean(classifier.predict(data.fit_images(images, 32)) == labels))
    assert accuracy >= 0.92 and abs(accuracy - classifier.accuracy) < 0.001
    assert classifier.metadata["test_images"] == len(labels) == 10_000


def tiny(**changes: Any) -> Dataset:
    """Ten classes in 40 images, each class a brightness."""
    labels = np.arange(40, dtype=np.int32) % 10
    images = np.broadcast_to((25 * labels).astype(np.uint8)[:, None, None, None], (40, 8, 8, 1)).copy()
    dataset = Dataset("tiny", images, labels, 10, tuple("0123456789"))
    return dataclasses.replace(dataset, **changes)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Trains on `tiny` data for two epochs; returns exit code and file."""

    def run(*args: str, out: str = "tiny.npz", **changes: Any) -> tuple[int, Path]:
        monkeypatch.setattr(train_classifier, "load", lambda name, **_: tiny(**changes))
        path = tmp_path / out
        options = ["--data=tiny", f"--out={path}", "--epochs=2", "--batch_size=16", "--width=4"]
        return train_classifier.main([*options, *args]), path

    return run


@pytest.mark.slow
def test_training_is_repeatable(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, path = train()
    first = path.read_bytes()
    classifier = load_classifier(str(path))
    assert code == 0 and f"{classifier.accuracy:.2%} of 40 held-out images" in capsys.readouterr().out
    assert (classifier.classes, classifier.shape) == (10, (8, 8, 1))
    assert classifier.metadata["seed"] == 0 and classifier.metadata["fit_split"] == "train"
    assert train()[1].read_bytes() == first
    assert train("--seed=1")[1].read_bytes() != first


@pytest.mark.parametrize(
    ("out", "changes", "expected"),
    [
        ("tiny.txt", {}, "ending in .npz, and got 'tiny.txt'"),
        ("tiny.npz", {"labels": None}, "a data set of images with labels, and tiny is none"),
        ("tiny.npz", {"images": np.zeros((40, 2), np.float32)}, "a data set of images with labels"),
    ],
)
def test_misuse_is_explained(
    train: Any, capsys: pytest.CaptureFixture[str], out: str, changes: dict[str, Any], expected: str
) -> None:
    code, path = train(out=out, **changes)
    assert code == 2 and expected in capsys.readouterr().err and not path.exists()


def test_jitter_keeps_what_it_should() -> None:
    images = jnp.asarray(TEST.images[:64], jnp.float32)
    moved = train_classifier.jittered(jax.random.split(jax.random.key(0), 64), images, 1.0)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    assert float(moved.min()) >= 0 and float(moved.max()) <= 255.001
    distance = jnp.abs(moved - images).mean(axis=(1, 2, 3))
    assert float(distance.min()) > 0 and float(distance.mean()) < 40  # two other digits differ by about 75
    # it leaves digits what they are
    assert np.mean(DIGITS.predict(np.asarray(moved).round().astype(np.uint8)) == TEST.labels[:64]) > 0.95


@pytest.mark.parametrize(("side", "pooled"), [(8, 2), (28, 4), (32, 4), (64, 4)])
def test_sizes_of_images(side: int, pooled: int) -> None:
    net = Net(classes=3, width=4)
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    init = jax.eval_shape(lambda key, x: net.init(key, x, train=False), jax.random.key(0), image)
    kernels = init["params"]["Dense_0"]["Dense_0"]["kernel"].shape
    assert kernels[0] % pooled**2 == 0 and kernels[1] == 128
