"""Sources of data: shapes, ranges, labels, determinism, and what a user is told when something is wrong."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ganjax.data as data
from ganjax.data.dataset import Request
from ganjax.data.lazy import Reader
from ganjax.data.sources import fashion_mnist
from ganjax.data.sources import tfds as tfds_source
from ganjax.runtime.errors import UserError

# sha256 over images and labels of tfds.load("fashion_mnist:3.0.1", shuffle_files=False) with the stock builder:
# tensorflow-datasets 4.9.10, tensorflow-cpu 2.21.0, batch_size=-1, labels cast to int32.
STOCK_TRAIN = "1fc8802f422a8de6f04d0f4f78a3712fc03fb8474221d84707982f873bd60239"
STOCK_TEST = "1c706ad5aa51c27f729eade5e233f3a7464291b1294967130c0fe6b9a7406fcd"

needs_debian = pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def message(name: str, **arguments: Any) -> str:
    with pytest.raises(UserError) as raised:
        data.load(name, **arguments)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "classes"),
    [
        ("digits", (1797, 8, 8, 1), np.uint8, 10),
        ("stacked_digits", (50_000, 8, 8, 3), np.uint8, 1000),
        ("ring", (100_000, 2), np.float32, 8),
        ("grid", (100_000, 2), np.float32, 25),
    ],
)
def test_built_in_sources(name: str, shape: tuple[int, ...], dtype: type, classes: int) -> None:
    dataset = data.load(name)
    assert (dataset.name, dataset.images.shape, dataset.images.dtype) == (name, shape, dtype)
    assert dataset.labels is not None and dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(dataset.labels), np.arange(classes))
    assert dataset.num_classes == classes and len(dataset) == shape[0]
    assert len(dataset.label_names) in (0, classes)
    assert dataset.images.flags.c_contiguous
    again = data.load(name)
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", ["ring", "grid", "stacked_digits"])
def test_seed_decides_what_is_drawn(name: str) -> None:
    assert data.load(name, seed=1).fingerprint != data.load(name, seed=2).fingerprint


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch, dataset = load_digits(), data.load("digits")
    np.testing.assert_array_equal(dataset.images[..., 0], np.round(bunch.images * 255 / 16).astype(np.uint8))
    np.testing.assert_array_equal(dataset.labels, bunch.target)
    assert dataset.images.min() == 0 and dataset.images.max() == 255


def test_digits_splits_divide_the_whole() -> None:
    whole, fit, test = (data.load("digits", split=split) for split in ("train", "fit", "test"))
    assert len(fit) + len(test) == len(whole) == 1797
    assert abs(len(test) - 1797 / 5) < 10
    rows = np.concatenate([fit.images, test.images]).reshape(1797, -1)
    np.testing.assert_array_equal(
        np.sort(rows.sum(axis=1)), np.sort(whole.images.reshape(1797, -1).sum(axis=1))
    )
    assert fit.labels is not None and test.labels is not None
    assert np.all(np.abs(np.bincount(test.labels) / np.bincount(fit.labels) - 0.25) < 0.02)


def test_stacked_digits_are_three_digits() -> None:
    stacked, single = data.load("stacked_digits"), data.load("digits")
    assert stacked.labels is not None and single.labels is not None
    known = {image.tobytes(): label for image, label in zip(single.images, single.labels, strict=True)}
    for image, label in zip(stacked.images[:100], stacked.labels[:100], strict=True):
        found = [known[image[:, :, channel].tobytes()] for channel in range(3)]
        assert found[0] * 100 + found[1] * 10 + found[2] == label
    assert data.load("stacked_digits", resolution=16).images.shape == (50_000, 16, 16, 3)


@pytest.mark.parametrize(("name", "std", "scale"), [("ring", 0.01, 1.0), ("grid", 0.05, 4.0)])
def test_mixtures_are_gaussians_about_their_modes(name: str, std: float, scale: float) -> None:
    dataset = data.load(name)
    assert dataset.modes is not None and dataset.labels is not None
    assert (dataset.std, dataset.scale) == (std, scale)
    assert len(np.unique(dataset.modes.round(3), axis=0)) == dataset.num_classes
    offsets = dataset.images - dataset.modes[dataset.labels]
    for mode in range(dataset.num_classes):
        of_mode = offsets[dataset.labels == mode]
        assert abs(len(of_mode) * dataset.num_classes / len(dataset) - 1) < 0.1
        np.testing.assert_allclose(of_mode.mean(axis=0), 0, atol=std / 10)
        np.testing.assert_allclose(of_mode.std(axis=0), std, rtol=0.05)
    # the 3σ that the protocols call "high quality"
    assert abs(np.mean(np.linalg.norm(offsets, axis=1) < 3 * std) - 0.989) < 0.002


def test_ring_and_grid_centres() -> None:
    ring, grid = data.load("ring").modes, data.load("grid").modes
    assert ring is not None and grid is not None
    np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 1, rtol=1e-6)
    assert {tuple(mode) for mode in grid.tolist()} == {
        (x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)
    }


def test_resolution_pads_resizes_and_crops() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(3, 28, 28, 2), dtype=np.uint8)
    assert data.fit_images(images, 0) is images and data.fit_images(images, 28) is images
    padded = data.fit_images(images, 32)
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], images)
    assert padded.sum() == images.sum(dtype=np.uint64)
    halved = data.fit_images(images, 14).astype(np.float64)
    means = images.reshape(3, 14, 2, 14, 2, 2).mean(axis=(2, 4))
    assert np.abs(halved - means).max() <= 1
    enlarged = data.fit_images(images[:1, :, :, :1], 56)
    plane = Image.fromarray(images[0, :, :, 0]).resize((56, 56), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(enlarged[0, :, :, 0], np.asarray(plane))
    wide = data.fit_images(images[:, :20], 20)
    np.testing.assert_array_equal(wide, images[:, :20, 4:24])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (
            "fashon_mnist",
            {},
            ["data.name", "'fashon_mnist'", "Did you mean 'fashion_mnist'", "ganjax[tensorflow]"],
        ),
        ("../digits", {}, ["data.name", "digits, fashion_mnist"]),
        (
            "digits",
            {"split": "tests"},
            ["data.split", "'tests'", "'train', 'fit', 'test'", "Did you mean 'test'"],
        ),
        ("fashion_mnist", {"split": "val"}, ["data.split", "'val'", "'train', 'test'"]),
        ("ring", {"split": "test"}, ["data.split", "'train'"]),
        ("grid", {"resolution": 32}, ["data.resolution", "32", "points"]),
        ("digits", {"resolution": -8}, ["data.resolution", "-8"]),
        ("fashion_mnist", {"manual_dir": "/nowhere"}, ["data.manual_dir", "/nowhere", "train-images-idx3"]),
    ],
)
def test_misuse_is_explained(
    name: str, arguments: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The subject is the message for those who do not have TensorFlow, installed here or not.
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    text = message(name, path=str(tmp_path), **arguments)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in message("fashion_mnist", path=str(tmp_path / "file"))


def test_importing_is_quick() -> None:
    heavy = "('tensorflow_datasets', 'sklearn', 'PIL', 'array_record')"
    code = f"import sys, ganjax.data; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


# Fashion-MNIST


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS folder that holds Fashion-MNIST, prepared from Debian's files (10 s)."""
    root = tmp_path_factory.mktemp("tfds")
    fashion_mnist.fashion_mnist(Request("fashion_mnist", path=str(root), split="test[:1]"))
    return root


@pytest.mark.slow
@needs_debian
def test_fashion_mnist_is_the_stock_dataset(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.load("fashion_mnist", path=str(prepared))
    assert train.images.shape == (60_000, 28, 28, 1) and train.images.dtype == np.uint8
    assert train.labels is not None and train.labels.dtype == np.int32
    assert train.labels[:10].tolist() == [2, 1, 8, 4, 1, 9, 2, 2, 0, 2]
    np.testing.assert_array_equal(np.bincount(train.labels), np.full(10, 6000))
    assert train.label_names[0] == "T-shirt/top" and train.num_classes == 10
    assert train.fingerprint == STOCK_TRAIN
    # again, now from the cache of decoded images
    monkeypatch.setattr(tfds_source, "_decode", None)
    assert data.load("fashion_mnist", path=str(prepared)).fingerprint == STOCK_TRAIN


@pytest.mark.slow
@needs_debian
def test_fashion_mnist_test_split_slices_and_resolution(prepared: Path) -> None:
    test = data.load("fashion_mnist", path=str(prepared), split="test")
    assert test.fingerprint == STOCK_TEST
    assert test.labels is not None
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 1000))
    part = data.load("fashion_mnist", path=str(prepared), split="test[100:150]", resolution=32)
    np.testing.assert_array_equal(part.images[:, 2:-2, 2:-2], test.images[100:150])
    np.testing.assert_array_equal(part.labels, test.labels[100:150])
    assert "data.split" in message("fashion_mnist", path=str(prepared), split="test[x]")
    # by its TFDS name, it is like any other prepared dataset
    named = data.load("fashion_mnist:3.0.1", path=str(prepared), split="test[100:150]", resolution=32)
    assert named.fingerprint == part.fingerprint


@pytest.mark.slow
@needs_debian
def test_damaged_caches_and_records_are_noticed(prepared: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(prepared, root)
    expected = data.load("fashion_mnist", path=str(root), split="test[:50]").fingerprint
    for cache in (root / "fashion_mnist").glob("ganjax-*.npz"):
        content = bytearray(cache.read_bytes())
        content[len(content) // 2] ^= 0x10
        cache.write_bytes(content)
    assert data.load("fashion_mnist", path=str(root), split="test[:50]").fingerprint == expected
    records = next((root / "fashion_mnist" / "3.0.1").glob("*-test.array_record*"))
    content = bytearray(records.read_bytes())
    content[1000:3000] = bytes(2000)
    records.write_bytes(content)
    text = message("fashion_mnist", path=str(root), split="test[:50]")
    assert "3.0.1" in text and "Remove that folder" in text


@needs_debian
def test_a_half_written_folder_is_not_taken_for_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist" / "3.0.1").mkdir(parents=True)
    assert "not a complete TFDS dataset" in message("fashion_mnist", path=str(tmp_path))


@needs_debian
def test_a_damaged_original_is_refused_by_name_and_hash(tmp_path: Path) -> None:
    manual = tmp_path / "manual"
    shutil.copytree(fashion_mnist.DEBIAN, manual)
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray((manual / name).read_bytes())
    content[2000] ^= 1
    (manual / name).write_bytes(content)
    text = message("fashion_mnist", path=str(tmp_path), manual_dir=str(manual))
    assert name in text and str(manual) in text and fashion_mnist.FILES[name][0] in text and "found " in text
    assert not (tmp_path / "fashion_mnist").exists()


@pytest.mark.parametrize("offline", ["1", "0"])
def test_missing_fashion_mnist_says_where_to_get_it(
    offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        assert offline == "0", "the network was used although GANJAX_OFFLINE is 1"
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("GANJAX_OFFLINE", offline)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist.urllib.request, "urlopen", unreachable)
    text = message("fashion_mnist", path=str(tmp_path))
    for words in (
        str(tmp_path),
        "apt-get install dataset-fashion-mnist",
        "--config.data.manual_dir=",
        "--config.data.path=",
    ):
        assert words in text
    assert ("GANJAX_OFFLINE" in text) == (offline == "1")


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert tfds_source.data_dir("") == Path("/somewhere")
    assert tfds_source.data_dir("/here") == Path("/here")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds_source.data_dir("") == Path.home() / "tensorflow_datasets"


# Other prepared datasets, written here by hand in TFDS's TFRecord layout


def write_tfds(folder: Path, images: list[np.ndarray]) -> None:
    """A prepared dataset `folder`/toy/1.0.0 without labels, whose images may differ in size."""
    from tensorflow_datasets.core.features import FeaturesDict
    from tensorflow_datasets.core.features import Image as ImageFeature
    from tensorflow_datasets.proto import tf_example_pb2

    target = folder / "toy" / "1.0.0"
    target.mkdir(parents=True)
    records = b""
    for image in images:
        example = tf_example_pb2.Example()
        file = target / "image.png"
        Image.fromarray(image).save(file)
        example.features.feature["image"].bytes_list.value.append(file.read_bytes())
        file.unlink()
        record = example.SerializeToString()
        records += struct.pack("<Q", len(record)) + bytes(4) + record + bytes(4)
    (target / "toy-train.tfrecord-00000-of-00001").write_bytes(records)
    FeaturesDict({"image": ImageFeature(shape=(None, None, 3))}).save_config(target)
    split = {
        "name": "train",
        "numBytes": str(len(records)),
        "shardLengths": [str(len(images))],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (target / "dataset_info.json").write_text(json.dumps(info))


def test_tfrecords_are_read_without_tensorflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8) for _ in range(5)]
    write_tfds(tmp_path, images)
    dataset = data.load("toy", path=str(tmp_path))
    np.testing.assert_array_equal(dataset.images, np.stack(images))
    assert dataset.labels is None and dataset.num_classes == 0
    np.testing.assert_array_equal(
        data.load("toy", path=str(tmp_path), split="train[2:4]").images, images[2:4]
    )
    assert "'train'" in message("toy", path=str(tmp_path), split="trian")


def test_images_of_many_sizes_need_a_resolution(tmp_path: Path) -> None:
    images = [np.full((height, 8, 3), height, np.uint8) for height in (8, 10)]
    write_tfds(tmp_path, images)
    assert "data.resolution" in message("toy", path=str(tmp_path))
    dataset = data.load("toy", path=str(tmp_path), resolution=8)
    assert dataset.images.shape == (2, 8, 8, 3)
    assert dataset.images[:, 0, 0, 0].tolist() == [8, 10]


# Labels


def test_labels_outside_of_the_declared_classes_are_refused() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    data.Dataset("toy", images, np.array([0, 1, 2, 2], np.int32), 3)
    for label in (3, -1):
        with pytest.raises(UserError, match=f"toy: image 1 has the label {label}, and .* 3 classes, 0 to 2"):
            data.Dataset("toy", images, np.array([0, label, 2, 2], np.int32), 3)

    def read(index: int) -> tuple[np.ndarray, int]:
        return images[index], index

    lazy = Reader(read, images.shape, "toy", classes=3)
    assert lazy.many(np.arange(3))[1].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="toy: image 3 has the label 3"):
        lazy(3)
    assert not lazy.corrupt


# Images on the device


def test_float_and_back_is_exact() -> None:
    values = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    floats = data.to_float(values)
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, np.asarray(values, np.float32) / 127.5 - 1, atol=1e-7)
    assert float(floats.min()) == -1 and float(floats.max()) == 1
    np.testing.assert_array_equal(jax.jit(data.to_uint8)(floats), values)
    np.testing.assert_array_equal(
        data.to_uint8(jnp.array([-7.0, 7.0], jnp.bfloat16)), np.array([0, 255], np.uint8)
    )


def test_flip_mirrors_about_half_and_each_by_its_own_key() -> None:
    images = np.random.default_rng(0).normal(size=(400, 4, 6, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    flipped = np.asarray(jax.jit(data.random_flip)(keys, images))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert np.all(mirrored ^ kept) and 150 < mirrored.sum() < 250
    np.testing.assert_array_equal(
        data.random_flip(keys[100:200], jnp.asarray(images[100:200])), flipped[100:200]
    )


def test_pyramid_averages_and_ends_with_the_image() -> None:
    images = np.random.default_rng(0).normal(size=(3, 8, 16, 2)).astype(np.float32)
    levels = jax.jit(data.pyramid, static_argnums=1)(images, 3)
    assert [level.shape for level in levels] == [(3, 2, 4, 2), (3, 4, 8, 2), (3, 8, 16, 2)]
    np.testing.assert_array_equal(levels[-1], images)
    np.testing.assert_allclose(levels[0], images.reshape(3, 2, 4, 4, 4, 2).mean(axis=(2, 4)), atol=1e-6)
    points = jnp.zeros((5, 2))
    assert data.pyramid(points, 1)[0] is points
    for bad, scales in ((points, 2), (jnp.zeros((1, 6, 8, 1)), 3), (points, 0)):
        with pytest.raises(ValueError, match="cannot make"):
            data.pyramid(bad, scales)
