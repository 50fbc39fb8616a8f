"""Reads weights from files of PyTorch (both formats), .safetensors and .npz, without PyTorch. No pickle is run.

A pickle names the functions that make its objects. Here each name is looked up in a short list, which gives functions
of this file in its place. Any other name ends the reading before anything is called. No file takes much more memory
than its own size: tensors are views of its bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load as load_safetensors

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import read_npz, read_regular

Arrays = dict[str, np.ndarray]

MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's old format
MAX_AXES = 32
STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "BoolStorage": np.dtype("?"),
}


class _Refused(Exception):
    """An error: the file holds something that is not plain weights."""


class _Storage:
    """A storage of PyTorch: its type and name, and its values once they are read."""

    def __init__(self, dtype: np.dtype[Any], count: int) -> None:
        self.dtype, self.count = dtype, count
        self.values: np.ndarray | None = None


class _Tensor:
    """A tensor of PyTorch: a view of a storage."""

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        values = self.storage.values
        sizes = (self.offset, *self.shape, *self.strides)
        if values is None or any(type(n) is not int or n < 0 for n in sizes):
            raise _Refused("a tensor without values or with a negative size")
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_AXES:
            raise _Refused("a tensor whose shape and strides do not match")
        if math.prod(self.shape) > len(values):
            raise _Refused("a tensor larger than its values")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, values.dtype)
        if last >= len(values):
            raise _Refused("a tensor that reaches beyond its values")
        steps = [s * values.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps, writeable=False)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor that is not made of a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _pairs(pairs: Iterable[Any] = ()) -> dict[str, Any]:
    return {_name(key): value for key, value in pairs}


def _name(key: Any) -> str:
    """Returns the key of a dict. The hash of tuples within tuples may take for ever."""
    if not isinstance(key, str):
        raise _Refused("a key that is no text")
    return key


# The names that a file of weights may use, and what stands for them.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _pairs,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle._Unpickler):
    """An unpickler that knows only the names in `ALLOWED`, and dicts whose keys are texts.

    It is the one in Python, since of the one in C the operations are fixed, and one of them allocates what a file asks
    for. Sets have no place in weights; what BUILD would set is PyTorch's note of versions.
    """

    def __init__(self, file: Any, storage: Callable[[Any], _Storage] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if self._storage is None or (module, name) not in ALLOWED:
            raise _Refused(f"it wants to use {module}.{name}, which weights do not need")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None:
            raise _Refused("a storage where none may be")
        return self._storage(pid)

    def _set_items(self: Any) -> None:
        items: list[Any] = self.pop_mark()
        self.stack[-1].update(_pairs(zip(items[::2], items[1::2], strict=True)))

    def _set_item(self: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_name(key)] = value

    def _build(self: Any) -> None:
        self.stack.pop()

    def _refuse(self: Any) -> None:
        raise _Refused("a set, or a dict of an old kind, which weights do not need")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
        **dict.fromkeys(
            (pickle.DICT[0], pickle.ADDITEMS[0], pickle.FROZENSET[0], pickle.EMPTY_SET[0]), _refuse
        ),
    }


def read_weights(path: Path) -> Arrays:
    """Reads the arrays of a file of weights, by name.

    Args:
      path: a file that ends in .npz or .safetensors; any other is taken for PyTorch's, in its zip or its old format.

    Raises:
      UserError: the file cannot be read, is damaged, or holds anything but plain weights. Nothing in it is run.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"The weights {path} cannot be read: {error.strerror or error}.") from error
    return parse_weights(content, str(path))


def check_finite(arrays: Arrays) -> None:
    """Raises `ValueError` for weights that are not finite: features of such a network are all alike, and FID is 0."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{len(bad)} of its arrays are not finite, among them {bad[0]}")


def parse_weights(content: bytes, origin: str) -> Arrays:
    """Reads the arrays from the bytes of a file named `origin`, as `read_weights` does."""
    try:
        if origin.endswith(".npz"):
            return read_npz(io.BytesIO(content))
        if origin.endswith(".safetensors"):
            return load_safetensors(content)
        if content[:4] == b"PK\x03\x04":
            return _zip_format(content)
        return _old_format(content)
    except Exception as error:  # what damaged bytes raise in zipfile, pickle and struct is no closed list
        raise UserError(
            f"{origin} holds no plain weights, or is damaged, and was not used: "
            f"{str(error)[:200] or type(error).__name__}."
        ) from error


def _zip_format(content: bytes) -> Arrays:
    """Reads PyTorch ≥ 1.6: a zip with `NAME/data.pkl`, and the values of each storage in `NAME/data/KEY`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # PyTorch stores without compressing, so that no honest file unpacks to more than it holds.
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise _Refused("it would unpack to more than it holds")
        (pickled,) = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        folder = pickled.rpartition("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise _Refused("its values are not little-endian")
        known: dict[str, _Storage] = {}

        def storage(pid: Any) -> _Storage:
            _, dtype, key, _, count = pid
            if _name(key) not in known:
                known[key] = _Storage(_dtype(dtype), count)
                known[key].values = _values(archive.read(f"{folder}/data/{key}"), known[key])
            return known[key]

        return _arrays(_Unpickler(io.BytesIO(archive.read(pickled)), storage).load())


def _old_format(content: bytes) -> Arrays:
    """Reads PyTorch < 1.6: five pickles (magic number, version, system, object, keys), then the storages' values."""
    file = io.BytesIO(content)
    if _Unpickler(file).load() != MAGIC or _Unpickler(file).load() != 1001:
        raise _Refused("it is no file of PyTorch")
    _Unpickler(file).load()  # sizes of C types where it was written
    known: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, count, view = pid
        if view is not None:
            raise _Refused("a view of a storage, as PyTorch before 0.4 wrote it")
        return known.setdefault(_name(key), _Storage(_dtype(dtype), count))

    weights = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        if count != known[_name(key)].count:
            raise _Refused("a storage of another size than was announced")
        known[key].values = _values(file.read(count * known[key].dtype.itemsize), known[key])
    return _arrays(weights)


def _dtype(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, np.dtype):
        raise _Refused("a storage of an unknown type")
    return dtype


def _values(data: bytes, storage: _Storage) -> np.ndarray:
    if len(data) != storage.count * storage.dtype.itemsize:
        raise _Refused(f"{len(data)} bytes where {storage.count} values were announced")
    return np.frombuffer(data, storage.dtype)


def _arrays(weights: Any) -> Arrays:
    if not isinstance(weights, dict) or not all(isinstance(value, _Tensor) for value in weights.values()):
        raise _Refused("expected a dict of tensors, as state_dict() gives")
    return {str(name): tensor.array() for name, tensor in weights.items()}
