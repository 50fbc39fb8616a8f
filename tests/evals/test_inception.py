"""FID's network against PyTorch's layers, and files of weights: what is read, and what is refused unread."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from paths import ORACLE_FILES

from ganjax.evals import features
from ganjax.evals.features import inception
from ganjax.evals.features.classifiers import load_classifier
from ganjax.evals.features.weight_files import MAGIC, check_finite, parse_weights, read_weights
from ganjax.runtime.errors import UserError

ORACLE = np.load(ORACLE_FILES / "inception_torch.npz")
FORMATS = {name: ORACLE[name].tobytes() for name in ("zip", "old")}
IMAGES = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As in oracles/inception_torch.py."""
    rng = np.random.RandomState(sum(name.encode()) * 1009 % 2**31)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return (rng.randn(*shape) * 0.1 + (1.0 if name.endswith("bn.weight") else 0.0)).astype(np.float32)
    return np.asarray(rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def torch_weights() -> dict[str, np.ndarray]:
    arrays = {"fc.weight": draw("fc.weight", (1008, 2048))}
    for name, shape in inception.shapes().items():
        if name.endswith("/conv/kernel"):
            layer = name.removesuffix("/conv/kernel").replace("/", ".")
            h, w, i, o = shape
            arrays[f"{layer}.conv.weight"] = draw(f"{layer}.conv.weight", (o, i, h, w))
            for part in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{layer}.bn.{part}"] = draw(f"{layer}.bn.{part}", (o,))
    return arrays


@pytest.mark.slow
def test_features_and_logits_are_pytorchs() -> None:
    variables = inception.convert(torch_weights(), "memory")
    apply = jax.jit(inception.Inception().apply)
    for resize in inception.RESIZES:
        found = apply(variables, inception.preprocess(jax.device_put(IMAGES), resize))
        for part, values in zip(("features", "logits"), found, strict=True):
            expected = ORACLE[f"{part}/{resize}"]
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                values, expected, rtol=1e-4, atol=1e-4 * scale, err_msg=f"{part} {resize}"
            )
    assert np.abs(ORACLE["features/tf1"] - ORACLE["features/pytorch"]).max() > 1e-2  # the resizes do differ


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_pytorch_saved(form: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(FORMATS[form])
    arrays = read_weights(path)
    np.testing.assert_array_equal(arrays["0.weight"], np.arange(108).reshape(4, 3, 3, 3))
    np.testing.assert_array_equal(arrays["half"], np.arange(6, dtype=np.float16).reshape(2, 3).T)
    assert arrays["1.running_var"].tolist() == [1] * 4 and arrays["1.num_batches_tracked"] == 0
    assert arrays["0.weight"].dtype == np.float32


class Evil:
    """What a malicious file holds: a call that its reader would make."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def as_zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return file.getvalue()


def as_old(data: bytes) -> bytes:
    return b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {})) + data


@pytest.mark.parametrize("wrap", [as_zip, as_old, bytes], ids=["zip", "old", "bare"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_a_malicious_pickle_is_refused_and_does_nothing(
    wrap: Any, protocol: int, nested: bool, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    for evil in (Evil(os.mkdir, str(witness)), Evil(eval, f"__import__('os').mkdir({str(witness)!r})")):
        data = pickle.dumps({"a": [evil]} if nested else evil, protocol)
        with pytest.raises(UserError, match="was not used"):
            parse_weights(wrap(data), "evil.pth")
        assert not witness.exists()
    pickle.loads(pickle.dumps(Evil(os.mkdir, str(witness))))  # it would have worked
    assert witness.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_files_are_refused(form: str) -> None:
    content = FORMATS[form]
    for length in [0, 1, 3, 4, *range(10, len(content) - 1, 97), len(content) - 1]:
        with pytest.raises(UserError, match="was not used"):
            parse_weights(content[:length], "x.pth")


def test_damage_in_a_zip_is_noticed() -> None:
    content = bytearray(FORMATS["zip"])
    content[content.index(np.arange(1, 20, dtype="<f4").tobytes()) + 5] ^= 1
    with pytest.raises(UserError, match="CRC"):
        parse_weights(bytes(content), "x.pth")


def test_what_is_no_dict_of_tensors() -> None:
    for thing in ([1], {"a": 1}, None):
        with pytest.raises(UserError, match="dict of tensors"):
            parse_weights(as_zip(pickle.dumps(thing, 2)), "x.pth")


def opcodes(value: Any) -> bytes:
    """What a pickle says of a value, without its first and last word."""
    return pickle.dumps(value, 2)[2:-1]


def weights_of(shape: tuple[int, ...], strides: tuple[int, ...], *, compressed: bool = False) -> bytes:
    """A zip of PyTorch with a tensor `a` of this shape, whose storage has 100 zeros."""
    storage = b"(" + opcodes("storage") + b"ctorch\nFloatStorage\n" + opcodes("0") + opcodes("cpu") + b"KdtQ"
    tensor = b"(" + storage + b"K\0" + opcodes(shape) + opcodes(strides) + b"tR"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        pickled = b"\x80\x02}" + opcodes("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"s."
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(400))
    return file.getvalue()


def test_a_tensor_is_no_larger_than_its_values() -> None:
    assert parse_weights(weights_of((10, 10), (10, 1)), "x.pth")["a"].shape == (10, 10)
    assert parse_weights(weights_of((0, 7), (7, 1)), "x.pth")["a"].shape == (0, 7)
    for shape, strides in [((1000,), (0,)), ((101,), (1,)), ((2,) * 40, (0,) * 40), ((10, 10), (11, 1))]:
        with pytest.raises(UserError, match="was not used"):
            parse_weights(weights_of(shape, strides), "x.pth")


def test_a_compressed_file_of_pytorch_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(UserError, match="unpack to more than it holds"):
        parse_weights(weights_of((10, 10), (10, 1), compressed=True), "x.pth")


@pytest.mark.parametrize("wrap", [as_zip, as_old], ids=["zip", "old"])
def test_a_key_whose_hash_never_ends(wrap: Any) -> None:
    nested = b")" + b"2\x86" * 100  # an empty tuple; a hundred times a pair of the one before
    ordered = b"ccollections\nOrderedDict\n]("
    for pickled in (
        b"}" + nested + b"K\1s",
        b"}(" + nested + b"K\1u",
        b"(" + nested + b"K\1d",
        b"\x8f(" + nested + b"\x90",
        b"(" + nested + b"\x91",
        ordered + nested + b"K\1\x86e\x85R",
        b"(" + opcodes("storage") + b"ctorch\nFloatStorage\n" + nested + opcodes("cpu") + b"KdtQ",
    ):
        with pytest.raises(UserError, match="was not used"):
            parse_weights(wrap(b"\x80\x04" + pickled + b"."), "x.pth")


def test_a_note_of_versions_is_passed_over() -> None:
    """A state_dict of PyTorch carries `_metadata`, set with BUILD."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(weights_of((100,), (1,)))) as plain,
        zipfile.ZipFile(content, "w") as noted,
    ):
        pickled = plain.read("archive/data.pkl")
        noted.writestr("archive/data.pkl", pickled[:-1] + opcodes({"_metadata": {"version": 1}}) + b"b.")
        noted.writestr("archive/data/0", plain.read("archive/data/0"))
    assert list(parse_weights(content.getvalue(), "x.pth")) == ["a"]


def test_weights_that_are_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", Path("/dev/zero")):
        with pytest.raises(UserError, match="No regular file"):
            read_weights(path)
        with pytest.raises(UserError, match="No regular file"):
            inception.load_inception(str(path))
    with pytest.raises(UserError, match="No regular file"):
        load_classifier(str(tmp_path / "pipe.npz"))


def test_safetensors_and_npz(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"x": "y"}}

    def packed(header: dict[str, Any]) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + values.tobytes()

    np.testing.assert_array_equal(parse_weights(packed(header), "x.safetensors")["a"], values)
    for facts in ({"data_offsets": [0, 28]}, {"shape": [7]}, {"dtype": "X"}, {"data_offsets": [-4, 20]}):
        with pytest.raises(UserError, match="was not used"):
            parse_weights(packed({"a": {**header["a"], **facts}}), "x.safetensors")
    path = tmp_path / "x.npz"
    np.savez(path, a=values)
    np.testing.assert_array_equal(read_weights(path)["a"], values)
    np.savez(path, a=np.array([Evil(os.mkdir, str(tmp_path / "witness"))], object))
    with pytest.raises(UserError, match="was not used"):
        read_weights(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(tmp_path / "missing.npz")


def test_weights_of_another_network_and_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"not FID's Inception network: .* is missing"):
        inception.convert({}, "x")
    with pytest.raises(ValueError, match="1 of its arrays are not finite, among them b"):
        check_finite({"a": np.zeros(2, np.float32), "b": np.array([np.inf], np.float32)})
    zeros = {
        f"Conv2d_1a_3x3.bn.{part}": np.zeros(32) for part in ("weight", "bias", "running_mean", "running_var")
    }
    with pytest.raises(UserError, match=r"has shape \(1, 1\), not \(32, 3, 3, 3\)"):
        inception.convert({"Conv2d_1a_3x3.conv.weight": np.ones((1, 1)), **zeros}, "x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GANJAX_OFFLINE", "1")
    with pytest.raises(UserError, match="GANJAX_OFFLINE is set"):
        inception.load_inception()
    cached = tmp_path / "ganjax" / "inception" / inception.URL.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(FORMATS["zip"])
    with pytest.raises(UserError, match=f"expected sha256 {inception.SHA256}"):
        inception.load_inception()
    with pytest.raises(UserError, match="not FID's Inception"):
        inception.load_inception(str(cached))


@pytest.mark.parametrize("resize", inception.RESIZES)
def test_resizing(resize: str) -> None:
    flat = np.full((1, 8, 6, 1), 200, np.uint8)
    found = inception.preprocess(jax.device_put(flat), resize)
    assert found.shape == (1, 299, 299, 3)
    np.testing.assert_allclose(found, 72 / 128 if resize == "tf1" else 200 / 127.5 - 1, rtol=1e-5)
    matrix = inception.bilinear(2, 4, half_pixel=resize == "pytorch")
    expected = [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]  # TF1: places 0, .5, 1, 1.5 of which the last is clamped
    if resize == "pytorch":
        expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(matrix, expected)


def test_choosing_the_network() -> None:
    import ganjax.data as data

    with pytest.raises(UserError, match=r"cannot be read"):
        features.choose("inception:/nowhere/x.pth", data.load("digits"))
