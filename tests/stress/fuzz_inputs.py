"""Does any broken input end in a traceback? Weights, arrays, pictures and prepared data, damaged at random.

    python tests/stress/fuzz_inputs.py --count=200 --seed=0

Every input has to be read or to be refused with a `UserError`; a folder of damaged pictures has to be prepared with
every file accounted for. Prints the counts of each kind and every other error; the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import collections
import functools
import io
import json
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save

from ganjax.data import load
from ganjax.data.prepare.plan import Options
from ganjax.data.prepare.run import prepare
from ganjax.data.sources.folder import image_folder
from ganjax.evals.features.weight_files import parse_weights
from ganjax.runtime.errors import UserError

ORACLE = Path(__file__).resolve().parents[1] / "oracles" / "inception_torch.npz"
PICTURES = ("png", "jpeg", "gif", "webp", "bmp", "tiff")


def damage(content: bytes, rng: random.Random) -> bytes:
    """The content with flipped bits, cut off, emptied, or with other bytes in some place."""
    kind = rng.choice(("flip", "flip", "cut", "empty", "zeros", "noise", "double"))
    at = rng.randrange(max(1, len(content)))
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 8, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind in ("zeros", "noise"):
        length = rng.randrange(1, 200)
        return (
            content[:at]
            + (bytes(length) if kind == "zeros" else rng.randbytes(length))
            + content[at + length :]
        )
    return {"cut": content[:at], "empty": b"", "double": content[: at + 1] + content}[kind]


def picture(form: str, rng: random.Random) -> bytes:
    """A picture of noise and colours, in some mode that the format takes."""
    side = rng.choice((8, 16, 32))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side, 3), np.uint8)
    image = Image.fromarray(pixels)
    modes = {"png": ("RGB", "L", "P", "RGBA"), "tiff": ("RGB", "L", "CMYK")}.get(form, ("RGB",))
    buffer = io.BytesIO()
    image.convert(rng.choice(modes)).save(buffer, form)
    return buffer.getvalue()


def weights() -> dict[str, bytes]:
    """A small file of each format that weights may have."""
    arrays: dict[str, np.ndarray] = {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.ones(5, np.float16),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    stored = np.load(ORACLE)
    return {
        "pth (zip)": stored["zip"].tobytes(),
        "pth (old)": stored["old"].tobytes(),
        "safetensors": save(arrays),
        "npz of weights": buffer.getvalue(),
    }


def samples() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, samples=np.zeros((30, 8, 8, 3), np.uint8))
    return buffer.getvalue()


def read_all(path: Path) -> np.ndarray:
    return np.asarray(image_folder(path).images)


def read_prepared(path: Path, most: int | None) -> np.ndarray:
    """The first images of a prepared folder: of those in memory, or, for 0 bytes there, decoded one by one."""
    return np.asarray(load("folder", path=str(path), max_bytes=most).images[:50])


class Fuzz:
    """Runs attempts and keeps count of how they end."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def attempt(self, kind: str, action: Callable[[], object]) -> None:
        try:
            action()
            self.counts[kind]["read"] += 1
        except UserError:
            self.counts[kind]["refused"] += 1
        except Exception as error:
            self.counts[kind]["broken"] += 1
            print(json.dumps({"kind": kind, "error": f"{error!r:.300}"}), flush=True)

    def loose_files(self, folder: Path, count: int, rng: random.Random) -> None:
        """Weights, arrays and folders of pictures."""
        files = weights()
        for i in range(count):
            kind = rng.choice((*files, "npz of samples", *PICTURES))
            if kind in files:
                content = damage(files[kind], rng)
                self.attempt(kind, functools.partial(parse_weights, content, f"weights.{kind.split()[0]}"))
                continue
            own = folder / str(i)
            own.mkdir()
            path = own / ("samples.npz" if kind == "npz of samples" else f"picture.{kind}")
            path.write_bytes(damage(samples() if kind == "npz of samples" else picture(kind, rng), rng))
            target = path if path.suffix == ".npz" else own
            self.attempt(kind, functools.partial(read_all, target))

    def prepared(self, folder: Path, count: int, rng: random.Random) -> None:
        """A folder of whole and damaged pictures is prepared; then the files of the result are damaged in turn."""
        source, out = folder / "pictures", folder / "prepared"
        source.mkdir()
        for i in range(count):
            form = rng.choice(PICTURES)
            content = picture(form, rng)
            (source / f"{i}.{form}").write_bytes(content if i % 2 else damage(content, rng))
        summary = prepare(Options(source=source, out=out, resolution=16, workers=1), say=lambda text: None)
        print(json.dumps({name: value for name, value in summary.items() if isinstance(value, int)}))
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        for i in range(count):
            copy, path = folder / f"copy_{i}", rng.choice(files)
            shutil.copytree(out, copy)
            broken = copy / path.relative_to(out)
            broken.write_bytes(damage(broken.read_bytes(), rng))
            delivery = rng.choice((None, 0))
            kind = f"prepared data, {'resident' if delivery is None else 'streaming'}"
            self.attempt(kind, functools.partial(read_prepared, copy, delivery))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=200, help="of loose files; and half of it of prepared data"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # each skipped record is told of
    fuzz, start = Fuzz(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        fuzz.loose_files(Path(name), arguments.count, random.Random(arguments.seed))
        fuzz.prepared(Path(name), arguments.count // 2, random.Random(arguments.seed + 1))
    for kind, counts in sorted(fuzz.counts.items()):
        print(f"{kind:28} {dict(counts)}")
    print(f"{time.monotonic() - start:.1f} s")
    return 1 if any(counts["broken"] for counts in fuzz.counts.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
