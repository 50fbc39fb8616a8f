"""`ganjax data prepare` and `stats`: sixty nasty files, each accounted for; killed and resumed, to the same bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganjax import data
from ganjax.cli import main as cli
from ganjax.data import stats as data_stats
from ganjax.data.pictures.decode import Refusal, decode, fit, quiet_pillow, to_array
from ganjax.data.prepare import Options, prepare
from ganjax.data.prepare.plan import Plan
from ganjax.runtime.errors import UserError

RNG = np.random.default_rng(0)


def photo(width: int = 40, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth colours that no other seed has."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of 20 kB or less that says that it has so many pixels, and has (its rows are one long run of zeros)."""

    def part(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * 100), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")


def modes() -> dict[str, bytes]:
    """Pictures that can all be used: every mode, each with pixels of its own."""
    seeds = iter(range(100, 200))
    new = lambda: photo(seed=next(seeds))
    alpha = new().convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    grey_alpha = new().convert("LA")
    grey_alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    palette = new().quantize(16)
    see_through = new().quantize(16)
    deep = Image.fromarray(np.asarray(new().convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [new(), new(), new()]
    return {
        "rgb.png": encoded(new(), "PNG"),
        "rgba.png": encoded(alpha, "PNG"),
        "grey.png": encoded(new().convert("L"), "PNG"),
        "grey_alpha.png": encoded(grey_alpha, "PNG"),
        "bilevel.png": encoded(new().convert("1"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(see_through, "PNG", transparency=3),
        "sixteen_bit.png": encoded(deep, "PNG"),
        "rgb_transparent.png": encoded(new(), "PNG", transparency=(0, 0, 0)),
        "animated.png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "interlaced.gif": encoded(new(), "GIF", interlace=1),
        "animated.gif": encoded(new(), "GIF", save_all=True, append_images=[new(), new()]),
        "transparent.gif": encoded(new().quantize(16), "GIF", transparency=2),
        "rgb.jpg": encoded(new(), "JPEG"),
        "grey.jpg": encoded(new().convert("L"), "JPEG"),
        "cmyk.jpg": encoded(new().convert("CMYK"), "JPEG"),
        "progressive.jpeg": encoded(new(), "JPEG", progressive=True),
        "turned.jpg": encoded(new(), "JPEG", exif=turned),
        "large.jpg": encoded(photo(1600, 900, seed=1), "JPEG"),
        "damaged_exif.jpg": encoded(new(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03"),
        "rgb.webp": encoded(new(), "WEBP"),
        "alpha.webp": encoded(alpha.rotate(180), "WEBP", lossless=True),
        "animated.webp": encoded(new(), "WEBP", save_all=True, append_images=[new()]),
        "rgb.bmp": encoded(new(), "BMP"),
        "UPPER.PNG": encoded(new(), "PNG"),
        "really_a_jpeg.png": encoded(new(), "JPEG"),
        "really_a_png.jpg": encoded(new(), "PNG"),
        "wide.png": encoded(photo(3000, 20, seed=2), "PNG"),
        "enlarged.png": encoded(photo(12, 12, seed=3), "PNG"),
        "größe – 猫 🐈.png": encoded(new(), "PNG"),
        "[red]rich markup[/red].png": encoded(new(), "PNG"),
        "new\nline \x1b[31m.png": encoded(new(), "PNG"),
        "-rf.png": encoded(new(), "PNG"),
        " .png": encoded(new(), "PNG"),
        "n" * 251 + ".png": encoded(new(), "PNG"),
        "/".join(["deep"] * 20) + "/deep.png": encoded(new(), "PNG"),
        "trailing_bytes.jpg": encoded(new(), "JPEG") + bytes(1000),
    }


def refused() -> dict[str, tuple[str, bytes]]:
    """Files that cannot be used: kind of the reason, and content."""
    png, jpeg = (
        encoded(photo(300, 300, seed=50), "PNG"),
        encoded(photo(300, 300, seed=51), "JPEG", quality=95),
    )
    flipped = bytearray(png)
    flipped[60:90] = bytes(30)
    return {
        "empty.png": ("broken", b""),
        "text.png": ("not a picture", b"This is no picture, whatever its name says.\n" * 9),
        "page.jpg": ("not a picture", b"<html><script>alert(1)</script></html>"),
        "drawing.gif": ("not a picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "postscript.png": ("not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n"),
        "program.png": ("not a picture", b"\x7fELF" + bytes(200)),
        "pickle.png": ("not a picture", b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
        "one_pixel.png": ("tiny", encoded(photo(1, 1, seed=52), "PNG")),
        "one_pixel.gif": ("tiny", encoded(photo(1, 1, seed=53), "GIF")),
        "thin.png": ("tiny", encoded(photo(500, 3, seed=54), "PNG")),
        "huge.png": ("huge", bomb(20_000, 20_000)),
        "huger.png": ("huge", bomb(2_000_000, 2_000_000)),
        "large.png": ("huge", bomb(10_000, 10_000)),
        "truncated.png": ("broken", png[: len(png) // 2]),
        "truncated.jpg": ("broken", jpeg[: len(jpeg) // 2]),
        "header_only.png": ("not a picture", png[:33]),
        "signature_only.png": ("not a picture", png[:8]),
        "flipped.png": ("broken", bytes(flipped)),
        "truncated.webp": ("broken", encoded(photo(300, 300, seed=55), "WEBP")[:200]),
        "no_rows.gif": ("broken", encoded(photo(seed=56), "GIF")[:-60]),
        "notes.txt": ("other file", b"hello"),
        "Thumbs.db": ("other file", b"\xd0\xcf\x11\xe0"),
    }


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], int]:
    """A folder, the kind of reason for each file that must be left out, and the number of good ones."""
    folder = tmp_path_factory.mktemp("nasty") / "pictures"
    good, bad = modes(), refused()
    for name, content in {**good, **{name: content for name, (_, content) in bad.items()}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    kinds = {name: kind for name, (kind, _) in bad.items()}
    (folder / "zz_copy.png").write_bytes((folder / "rgb.png").read_bytes())
    Image.open(folder / "rgb.bmp").save(folder / "zz_same_pixels.png")
    (folder / "loop").symlink_to(folder)
    (folder / "deep" / "loop").symlink_to("..")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("/does/not/exist.png")
    os.mkfifo(folder / "pipe.png")
    os.close(os.open(os.fsencode(folder) + b"/not_utf8_\xff.png", os.O_CREAT | os.O_WRONLY))
    kinds |= {"zz_copy.png": "duplicate", "zz_same_pixels.png": "duplicate", "pipe.png": "other file"}
    kinds |= dict.fromkeys(("loop", "deep/loop", "itself.png", "nowhere.png"), "unreadable")
    kinds["not_utf8_\\xff.png"] = "broken"
    return folder, kinds, len(good)


def read_left_out(out: Path) -> dict[str, str]:
    with open(out / "left_out.csv", newline="") as file:
        return {row["file"]: row["kind"] for row in csv.DictReader(file)}


def test_nasty_files_are_each_accounted_for(
    nasty: tuple[Path, dict[str, str], int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, kinds, good = nasty
    assert len(kinds) + good >= 60
    out = tmp_path / "out"
    assert cli.main(["data", "prepare", str(folder), f"--out={out}", "--resolution=16"]) == 0
    written = capfd.readouterr()
    assert "Traceback" not in written.err and "Warning" not in written.err, written.err
    assert "\x1b" not in written.out and f"{good} images of 16×16 (RGB)" in written.out
    assert f"{good + len(kinds)} files" in written.out
    assert read_left_out(out) == kinds
    facts = json.loads((out / "ganjax.json").read_text())
    assert facts["images"] == good and facts["files"] == good + len(kinds)
    assert sum(facts["left_out"].values()) == len(kinds) and facts["enlarged"] == 1
    assert not list(tmp_path.glob(".*"))  # nothing half-done is left
    dataset = data.load("folder", path=str(out))
    assert dataset.images.shape == (good, 16, 16, 3) and dataset.labels is None
    with Image.open(out / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 100


def test_statistics_of_nasty_files(nasty: tuple[Path, dict[str, str], int]) -> None:
    folder, kinds, good = nasty
    found = data_stats.examine(str(folder))
    tiny = list(kinds.values()).count("tiny")  # a matter of the resolution
    assert found.count == good + tiny + 2 and found.duplicates == 2
    assert sum(found.left_out.values()) == len(kinds) - tiny - 2
    assert any("differ in size" in warning for warning in found.warnings)
    assert "\n" in data_stats.told(found) and "Warning: Only" in data_stats.told(found)


def test_two_hundred_damaged_pictures_are_decoded_or_refused() -> None:
    rng = np.random.default_rng(0)
    refused_count = 0
    for content in modes().values():
        for _ in range(6):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), rng.integers(1, 20)):
                damaged[place] = rng.integers(0, 256)
            if rng.random() < 0.3:
                del damaged[rng.integers(0, len(damaged)) :]
            with quiet_pillow():
                try:
                    assert fit(decode(io.BytesIO(damaged), target=8), 8, "crop").shape[:2] == (8, 8)
                except Refusal as refusal:
                    assert refusal.reason and "\n" not in refusal.reason
                    refused_count += 1
    assert 60 < refused_count < 200


def pixel(content: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    picture = decode(io.BytesIO(content))
    value: Any = picture.getpixel((x, y))
    return value if isinstance(value, tuple) else (value,)


def test_modes_become_the_colours_that_a_viewer_shows() -> None:
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    red.putpixel((0, 0), (0, 0, 0, 0))
    red.putpixel((1, 0), (255, 0, 0, 51))
    for kind in ("PNG", "WEBP"):
        content = encoded(red, kind, lossless=True)
        assert pixel(content) == (255, 255, 255)
        assert pixel(content, 1) == (255, 204, 204) and pixel(content, 2) == (255, 0, 0)
    grey = Image.new("LA", (4, 4), (0, 51))
    assert pixel(encoded(grey, "PNG")) == (204,)
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert [pixel(encoded(deep, "PNG"), x) for x in range(4)] == [(0,), (1,), (128,), (255,)]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixel(encoded(palette, "PNG", transparency=1)) == (10, 20, 30)
    assert pixel(encoded(palette, "PNG", transparency=1), 1) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), color) for color in ("lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        first = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert pixel(first) == (0, 255, 0)
    cyan = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)
    assert np.abs(np.subtract(pixel(cyan), (0, 255, 255))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_upright(orientation: int) -> None:
    upright = photo(24, 16, seed=4)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose that stores it in that orientation
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(io.BytesIO(encoded(stored, "PNG", exif=exif)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(upright))


def test_shrinking_averages_areas_and_fits() -> None:
    pixels = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    cropped = fit(picture, 4, "crop").astype(float)
    means = pixels[4:20].reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(cropped - means).max() <= 1
    padded = fit(picture, 6, "pad")
    assert padded.shape == (6, 6, 3)
    assert np.all(padded[:, [0, 5]] == 255)
    means = pixels.reshape(6, 4, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(padded[:, 1:5].astype(float) - means).max() <= 1


def test_a_jpeg_decoded_small_is_the_same_picture() -> None:
    content = encoded(photo(1000, 800, seed=5), "JPEG", quality=95)
    small, full = (decode(io.BytesIO(content), target=target) for target in (32, 0))
    assert small.size[0] < 200 and full.size == (1000, 800)
    difference = fit(small, 32, "crop").astype(float) - fit(full, 32, "crop")
    assert np.abs(difference).mean() < 1.5


def tree(folder: Path, count: int = 30) -> Path:
    """Pictures in two classes, 2:1."""
    for i in range(count):
        path = folder / ("cats" if i % 3 else "dogs") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(seed=1000 + i).save(path)
    return folder


def as_zip(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"album/{path.relative_to(folder)}")
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_classes_zip_and_any_number_of_workers_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganjax.data.prepare.plan.CHUNK", 7)
    pictures = tree(tmp_path / "pictures")
    made = []
    for workers in (1, 3):
        (tmp_path / str(workers)).mkdir()
        out = tmp_path / str(workers) / "pets"
        prepare(Options(pictures, out, 16, workers=workers), say=lambda text: None)
        made.append(contents(out))
    assert made[0] == made[1]
    dataset = data.load("folder", path=str(tmp_path / "1" / "pets"))
    assert dataset.label_names == ("cats", "dogs") and dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [20, 10]
    with Image.open(pictures / "cats" / "001.png") as first:
        np.testing.assert_array_equal(dataset.images[0], fit(first, 16, "crop"))
    zipped = tmp_path / "zipped"
    facts = prepare(Options(as_zip(pictures, tmp_path / "a.zip"), zipped, 16), say=lambda text: None)
    assert facts["pixels_sha256"] == json.loads(made[0]["ganjax.json"])["pixels_sha256"]
    raw = data.load("folder", path=str(pictures), resolution=16)
    np.testing.assert_array_equal(raw.labels, dataset.labels)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of two classes; copy it before you change it."""
    folder = tmp_path_factory.mktemp("pets")
    prepare(Options(tree(folder / "p", 6), folder / "pets", 16, workers=1), say=lambda text: None)
    return folder / "pets"


@pytest.mark.parametrize("most", [None, 0], ids=["resident", "streaming"])
def test_labels_that_the_metadata_do_not_declare_are_refused(
    pets: Path, tmp_path: Path, most: int | None
) -> None:
    folder = Path(shutil.copytree(pets, tmp_path / "pets"))
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "1"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("cats\n")
    with pytest.raises(UserError, match=r"has the label 1, and the data declare 1 classes, 0 to 0\."):
        _ = data.load("folder", path=str(folder), max_bytes=most).images[:]


@pytest.mark.parametrize("most", [None, 0], ids=["resident", "streaming"])
def test_images_whose_labels_tfds_does_not_tell_have_none(
    pets: Path, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    monkeypatch.setattr("ganjax.data.sources.tfds._NO_LABEL", 0)  # the label of its first image
    dataset = data.load("folder", path=str(pets), max_bytes=most)
    assert dataset.labels is None and dataset.num_classes == 0 and len(dataset.images[:]) == 6


def test_tfds_reads_it_without_tensorflow(tmp_path: Path) -> None:
    out = tmp_path / "Pets 64!"
    prepare(Options(tree(tmp_path / "p", 6), out, 16), say=lambda text: None)
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "builder = tfds.builder_from_directory(sys.argv[1])\n"
        "source = builder.as_data_source()['train']\n"
        "print(builder.info.name, len(source), source[0]['image'].shape, source[5]['label'], "
        "builder.info.features['label'].names, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pets_64 6 (16, 16, 3) 1 ['cats', 'dogs'] False"


def test_zips_that_lead_outside_or_lie(tmp_path: Path) -> None:
    file = tmp_path / "evil.zip"
    good = encoded(photo(seed=9), "PNG")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", good)
        for name in ("../up.png", "/etc/absolute.png", "a/../../up.png", "C:/drive.png"):
            archive.writestr(name, good)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("wrong_checksum.png", good)
        archive.writestr("zeros.png", bytes(300 * 1024**2))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("good.png", good)
    content = bytearray(file.read_bytes())
    place = content.index(b"wrong_checksum.png") + len("wrong_checksum.png") + 40
    content[place] ^= 0xFF
    file.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    facts = prepare(Options(file, tmp_path / "out" / "set", 16), say=lambda text: None)
    assert facts["images"] == 1 and facts["files"] == 9
    assert facts["left_out"] == {"unreadable": 6, "broken": 1, "huge": 1}
    assert sorted(set(tmp_path.rglob("*")) - set((tmp_path / "out").rglob("*"))) == [
        *before,
        tmp_path / "out",
    ]
    (tmp_path / "no.zip").write_bytes(content[:100])
    with pytest.raises(UserError, match=r"cannot be read as a \.zip"):
        prepare(Options(tmp_path / "no.zip", tmp_path / "x", 16))


def test_killed_in_the_middle_it_goes_on_to_the_same_dataset(tmp_path: Path) -> None:
    pictures = tree(tmp_path / "p", 150)
    code = (
        "import os, signal, sys, time\n"
        "import ganjax.data.prepare.plan, ganjax.data.prepare.run as run\n"
        "ganjax.data.prepare.plan.CHUNK = 10\n"
        "def end(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[3] == 'kill': run.records.write_dataset = end\n"
        "if __name__ == '__main__':\n"
        "    from pathlib import Path\n"
        "    run.prepare(run.Options(Path(sys.argv[1]), Path(sys.argv[2]), 16, workers=2))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    out, other = tmp_path / "a" / "set", tmp_path / "b" / "set"

    def start(folder: Path, how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, script, pictures, folder, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # once between two chunks, once when all chunks are there and the dataset is being written
    process = start(out, "go on")
    partial = out.with_name(".set.preparing")
    deadline = time.monotonic() + 60
    while not list(partial.glob("chunk-*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    process = start(out, "kill")
    assert "Going on" in process.communicate()[0] and process.returncode == -signal.SIGKILL
    assert not out.exists() and len(list(partial.glob("chunk-*.npz"))) == 15
    (partial / "chunk-000003.npz").write_bytes(b"PK damaged")
    process = start(out, "go on")
    text = process.communicate()[0]
    assert process.returncode == 0 and "Going on: 140 of 150 pictures are done." in text, text
    prepare(Options(pictures, other, 16, workers=1), say=lambda text: None)
    assert contents(out) == contents(other) and not partial.exists()


def test_a_disk_that_fills_while_the_shards_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks are kept, and the same command goes on. `tests/stress/faults.py` fills a disk."""
    from array_record.python import array_record_module

    class Full:
        def __init__(self, path: str, options: str) -> None:
            Path(path).touch()

        def write(self, record: bytes) -> None:
            pass

        def close(self) -> None:
            raise RuntimeError(
                "write() failed: No space left on device; writing x; Failed to close chunk_writer"
            )

    options = Options(tree(tmp_path / "p", 6), tmp_path / "set", 16, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(array_record_module, "ArrayRecordWriter", Full)
        with pytest.raises(
            UserError, match=r"Could not write the dataset .* No space left .* Free some space"
        ):
            prepare(options)
    said: list[str] = []
    assert prepare(options, say=said.append)["images"] == 6
    assert said[0] == "Going on: 6 of 6 pictures are done."


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    pictures, out = tree(tmp_path / "p", 6), tmp_path / "set"
    said: list[str] = []
    prepare(Options(pictures, out, 16), say=said.append)
    before = contents(out)
    prepare(Options(pictures, out, 16), say=said.append)
    assert "Nothing to do" in said[-1]
    with pytest.raises(UserError, match=r"other files or options .6 images of 16 pixels"):
        prepare(Options(pictures, out, 8))
    assert contents(out) == before
    with pytest.raises(UserError, match="no dataset of ganjax"):
        prepare(Options(pictures, pictures.parent, 8))
    (tmp_path / "odd").mkdir()
    for odd in ("{}", "[" * 100_000, '{"plan": 1, "images": "many"}'):
        (tmp_path / "odd" / "ganjax.json").write_text(odd)
        with pytest.raises(UserError, match="no dataset of ganjax"):
            prepare(Options(pictures, tmp_path / "odd", 8))
    with pytest.raises(UserError, match="lies inside"):
        prepare(Options(pictures, pictures / "x", 8))
    other = Options(pictures, tmp_path / "y", 16)
    with Plan.of(other).begun(), pytest.raises(UserError, match="by another process"):
        prepare(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resolution=0"], "--resolution takes an integer from 4 to 1024, and got 0"),
        (["--fit=stretch"], "--fit takes crop or pad, and got 'stretch'"),
        (["--workers=-1"], "--workers"),
    ],
)
def test_misuse(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "p", 2)
    assert cli.main(["data", "prepare", str(tmp_path / "p"), f"--out={tmp_path / 'o'}", *options]) == 2
    assert words in capsys.readouterr().err
    assert cli.main(["data", "prepare", str(tmp_path / "none"), f"--out={tmp_path / 'o'}"]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "e").mkdir()
    assert cli.main(["data", "prepare", str(tmp_path / "e"), f"--out={tmp_path / 'o'}"]) == 2
    assert "No supported pictures in" in capsys.readouterr().err
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob(".*"))


def test_grey_stays_grey_and_joins_colours(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for i in range(4):
        photo(seed=i).convert("L").save(folder / f"{i}.png")
    prepare(Options(folder, tmp_path / "a", 16), say=lambda text: None)
    grey = data.load("folder", path=str(tmp_path / "a"))
    assert grey.images.shape == (4, 16, 16, 1)
    photo(seed=9).save(folder / "9.png")
    prepare(Options(folder, tmp_path / "b", 16), say=lambda text: None)
    mixed = data.load("folder", path=str(tmp_path / "b")).images
    np.testing.assert_array_equal(mixed[:4], np.repeat(grey.images, 3, axis=3))
    np.testing.assert_array_equal(mixed[4], fit(photo(seed=9), 16, "crop"))
    assert to_array(photo().convert("L")).shape == (32, 40, 1)


def test_statistics_name_what_may_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(33):
        path = tmp_path / "p" / ("rare" if i < 1 else "often") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (i, 100, 200)).save(path)
    prepare(Options(tmp_path / "p", tmp_path / "set", 24), say=lambda text: None)
    assert cli.main(["data", "stats", str(tmp_path / "set")]) == 0
    text = capsys.readouterr().out
    for words in (
        "33 images",
        "24×24",
        "rare: 1 (3.0%)",
        "16, 100, 200 of 255",
        "less than a fifth",
        "one colour",
    ):
        assert words in text, text
    assert cli.main(["data", "stats", str(tmp_path / "set"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == {"often": 32, "rare": 1} and found["std"][1:] == [0, 0]
    assert found["std"][0] == pytest.approx(np.std(np.arange(33)), abs=1e-3)
    assert found["bytes"] == 33 * 24 * 24 * 3
