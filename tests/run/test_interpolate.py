"""Films between samples, mixed styles, and samples beside their nearest training images."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from runs import make_run

from ganjax.data import Dataset
from ganjax.run.interpolate import Painter, interpolate, mix, open_images, spherical, write_film
from ganjax.run.nearest import write_nearest
from ganjax.run.open import open_run
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs.images import grid_picture


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "classes"
    make_run(folder, "classes")
    return folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without noise: an image is a function of its style."""
    folder = tmp_path_factory.mktemp("runs") / "styles"
    make_run(folder, "styles", noise=0.0)
    return folder


def test_spherical_paths() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(spherical(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(spherical(a, b, 1.0), b, atol=1e-6)
    length = lambda x: np.linalg.norm(x, axis=1)
    angle = lambda x, y: np.arccos(np.clip((x * y).sum(1) / length(x) / length(y), -1, 1))
    third = spherical(a, b, 1 / 3)
    np.testing.assert_allclose(angle(a, third), angle(a, b) / 3, rtol=1e-4)
    np.testing.assert_allclose(length(third), 2 / 3 * length(a) + 1 / 3 * length(b), rtol=1e-5)
    np.testing.assert_allclose(spherical(a, a, 0.5), a, atol=1e-6)  # no angle to divide by


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_film_passes_through_the_samples(classes: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"film.{kind}"
    assert "6 frames of step 7" in interpolate(classes, out, seeds=(3, 4), steps=3, n=4)
    run = open_run(classes, n=4, seed=4)
    expected = np.asarray(grid_picture(run.sampler(run.variables, 4)[-1], columns=2), np.int64)
    with Image.open(out) as film:
        assert film.n_frames == 6 and film.info["loop"] == 0
        frames = [np.asarray(frame.convert("L"), np.int64) for frame in ImageSequence.Iterator(film)]
    assert frames[0].shape == expected.shape
    off = [np.abs(frame - expected).mean() for frame in frames]
    assert off[3] < (1e-9 if kind == "gif" else 8) and min(off[0], off[1], off[4]) > 2 * off[3] + 1


@pytest.mark.parametrize(("kind", "unit"), [("gif", 10), ("webp", 1)])
def test_a_film_takes_the_time_that_was_asked_for(tmp_path: Path, kind: str, unit: int) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8))
    write_film(tmp_path / f"x.{kind}", frames, 24)
    with Image.open(tmp_path / f"x.{kind}") as film:
        durations = []
        for frame in ImageSequence.Iterator(film):
            frame.load()
            durations.append(frame.info["duration"])
    assert sum(durations) == 1000 and len(durations) == 24 and max(durations) - min(durations) == unit


def test_a_film_goes_from_class_to_class(classes: Path) -> None:
    """The networks have classes 0 to 9; the ends are samples of the class, and half-way is neither."""
    run = open_images(classes, "ema", None)
    painter = Painter(run, 1.0)
    frames = painter.paths(
        [painter.keyframe(5, 3, 2), painter.keyframe(5, 3, 7), painter.keyframe(5, 3, 2)], 2
    )
    for frame, label in ((0, 2), (2, 7)):
        run.sampler.classes = np.array([label], np.int32)
        samples = run.sampler.for_seed(5)(run.variables, 3)[-1].astype(int)
        assert np.abs(frames[frame] - samples).max() <= 1
    np.testing.assert_array_equal(frames[1], frames[3])
    assert all(np.abs(frames[1].astype(int) - frames[i]).max() > 2 for i in (0, 2))


def test_films_of_classes(classes: Path, tmp_path: Path) -> None:
    assert "6 frames" in interpolate(classes, tmp_path / "x.gif", seeds=(5,), classes=("2", 7), steps=3, n=1)
    assert "4 frames" in interpolate(classes, tmp_path / "x.gif", seeds=(5, 6), classes=("2",), steps=2, n=1)


@pytest.mark.slow
def test_styles_go_straight(styles: Path) -> None:
    painter = Painter(open_images(styles, "ema", None), truncation=0.7)
    here, there = painter.keyframe(0, 3), painter.keyframe(1, 3)
    frames = painter.paths([here, there, here], 2)
    run = open_run(styles, n=3, truncation=0.7)
    for frame, seed in ((0, 0), (2, 1)):
        samples = run.sampler.for_seed(seed)(run.variables, 3)[-1]
        np.testing.assert_array_equal(frames[frame], samples)
    end = painter.images(*painter._between(here, there, 1.0))
    assert np.abs(end.astype(int) - frames[2]).max() <= 1
    np.testing.assert_array_equal(frames[1], frames[3])  # half-way is the same both ways, without noise
    assert np.abs(frames[1].astype(int) - frames[0]).max() > 2


def test_mixed_styles(styles: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix.png"
    mix(styles, out, side=4, seeds=(0, 1), n=2)
    run = open_run(styles, n=2)
    rows, columns = (run.sampler.for_seed(seed)(run.variables, 2)[-1] for seed in (0, 1))
    with Image.open(out) as picture:
        pixels = np.asarray(picture, np.int64)
    pitch = (pixels.shape[0] - 2) // 3
    cell = lambda i, j: pixels[2 + i * pitch : (i + 1) * pitch : 8, 2 + j * pitch : (j + 1) * pitch : 8]
    assert (cell(0, 0) == 255).all()
    for i in range(2):
        np.testing.assert_array_equal(cell(0, i + 1), columns[i, ..., 0])
        np.testing.assert_array_equal(cell(i + 1, 0), rows[i, ..., 0])
    mixed = cell(1, 2)
    assert np.abs(mixed - rows[0, ..., 0]).max() > 2 and np.abs(mixed - columns[1, ..., 0]).max() > 2
    mix(styles, out, side=4, seeds=(5, 5), n=2)
    with Image.open(out) as picture:
        pixels = np.asarray(picture, np.int64)
    for i in range(2):  # mixed with itself
        np.testing.assert_array_equal(cell(i + 1, i + 1), cell(0, i + 1))


def test_pairs_with_the_nearest_training_images(tmp_path: Path) -> None:
    training = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    copies = training[[31, 4]].copy()
    copies[0, :2, :2] ^= 255
    dataset = Dataset("digits", training, None, 0)
    run: Any = SimpleNamespace(sampler=lambda variables, n: (copies[:n],), variables=None)
    told = write_nearest(tmp_path / "pairs.png", run, 2, dataset)
    off = np.sqrt(np.square(copies[0].astype(float) - training[31]).mean())
    assert told == f"0.0 to {off:.1f} of 255 apart (root mean square)"
    with Image.open(tmp_path / "pairs.png") as picture:
        pixels = np.asarray(picture)
    expected = grid_picture(np.stack([training[4], training[4], copies[0], training[31]]), columns=2)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w, t: interpolate(w, t / "x.png"), "ending in .gif, .webp or .mp4"),
        (lambda w, t: interpolate(w, t / "x.gif", seeds=(1,)), "--seeds takes two numbers or more"),
        (lambda w, t: interpolate(w, t / "x.gif", seeds=(1,), classes=("3",)), "one with several --classes"),
        (lambda w, t: interpolate(w, t / "x.gif", classes=("cat",)), "--classes takes numbers from 0 to 9"),
        (lambda w, t: interpolate(w, t / "x.gif", seeds=(1, -2)), "whole number from 0"),
        (lambda w, t: interpolate(w, t / "x.gif", frames_per_second=60), "--fps takes a number from 1 to 50"),
        (lambda w, t: interpolate(w, t / "x.gif", steps=0), "--steps takes"),
        (lambda w, t: mix(w, t / "x.png", side=4), "generator with styles"),
        (lambda w, t: mix(w, t / "x.gif", side=4), "ending in .png with --mix"),
    ],
)
def test_refused(classes: Path, tmp_path: Path, call: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(classes, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_ffmpeg(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program ffmpeg"):
        interpolate(classes, tmp_path / "x.mp4")


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg on PATH")
def test_mp4(classes: Path, tmp_path: Path) -> None:
    interpolate(classes, tmp_path / "film.mp4", seeds=(0, 1), steps=2, n=1)
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"
