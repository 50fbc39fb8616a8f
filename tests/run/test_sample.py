"""Samples as people ask for them: seeds, classes by name, grids of many classes, a folder of pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import make_run

from ganjax.cli.common import class_list, seed_list
from ganjax.data.dataset import find_classes
from ganjax.evals.sampler import Sampler
from ganjax.models.latents import make_latents
from ganjax.run import sample_folder
from ganjax.run.open import open_run
from ganjax.run.sample import sample
from ganjax.runtime import files
from ganjax.runtime.errors import UserError


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "classes"
    make_run(folder, "classes")
    return folder


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), ("0,3", (0, 3)), ("5-7,9", (5, 6, 7, 9)), ("4-4", (4,)), ("0-63", tuple(range(64)))],
)
def test_seeds_are_read(text: str, seeds: tuple[int, ...]) -> None:
    assert seed_list(text) == seeds


@pytest.mark.parametrize("text", ["", "-1", "1-", "3-1", "a", "1,,2", "1.5", "0-9999999", "0-999999,5"])
def test_seeds_refused(text: str) -> None:
    with pytest.raises(UserError, match="--seeds takes"):
        seed_list(text)


def test_classes_by_name_or_number() -> None:
    names = ("10", "2", "cat")
    assert find_classes(class_list("cat, 10,2"), names, 3) == (2, 0, 1)  # names first
    assert find_classes(class_list("0"), names, 3) == (0,) and find_classes((1, 2), names, 3) == (1, 2)
    with pytest.raises(
        UserError, match=r"numbers from 0 to 2 or names \(10, 2, cat\), and got 'cta'. Did you mean 'cat'"
    ):
        find_classes(("cta",), names, 3)
    for wrong in (3, -1, "3", ""):
        with pytest.raises(UserError, match="--classes takes numbers from 0 to 2"):
            find_classes((wrong,), names, 3)
    with pytest.raises(UserError, match="this run has no classes"):
        find_classes(("cat",), names, 0)


@pytest.mark.parametrize(
    ("classes", "each", "n", "columns"),
    [
        (0, None, 64, None),
        (10, None, 64, 10),
        (3, None, 64, 9),
        (120, None, 120, 12),
        (120, None, 64, 8),
        (1000, None, 64, 8),
        (113, None, 113, None),
        (2, None, 1, 1),
        (0, 1, 64, None),
        (10, 10, 40, 10),
        (0, 30, 60, None),
    ],
)
def test_grids_are_about_square(classes: int, each: int | None, n: int, columns: int | None) -> None:
    """120 classes made a single row. A column has one class, or each of every so many; a seed begins a row."""
    sampler: Any = SimpleNamespace(classes=np.arange(classes), _each=each or 2**31 - 1)
    found = Sampler.columns(sampler, n)
    assert found == columns
    assert found is None or not classes or found % classes == 0 or classes % found == 0 or n < classes


def test_several_seeds(classes: Path, tmp_path: Path) -> None:
    run = open_run(classes, n=6, devices=1)
    made = run.sampler.for_seeds((8, 3), 3)(run.variables, 6)[-1]
    for part, seed in ((made[:3], 8), (made[3:], 3)):
        np.testing.assert_array_equal(part, run.sampler.for_seed(seed)(run.variables, 3)[-1])
    sample(classes, out=tmp_path / "x.npz", seeds=(8, 3), classes=("4", "1"), devices=1)
    with np.load(tmp_path / "x.npz") as file:
        np.testing.assert_array_equal(file["labels"], [4, 1, 4, 1])
        assert len(file["samples"]) == 4


def test_classes_in_the_shares_of_the_data(classes: Path) -> None:
    """Of the first n samples each class has n times its share, but for four at most; the images are of them."""
    run = open_run(classes, n=8, devices=1)
    counts = np.array([9500, 0, 500, 3, 1, 700, 700, 0, 1, 60_000])
    sampler = run.sampler.at_shares(counts.tolist())
    for n in (20, 333, 10_000, 250_000):
        labels = sampler.labels(n)
        assert labels is not None
        found = np.bincount(labels, minlength=10)
        assert np.abs(found - n * counts / counts.sum()).max() <= 4 and not found[counts == 0].any()
    labels = sampler.labels(8)
    made, again = sampler(run.variables, 8)[-1], run.sampler
    assert labels is not None and len(set(labels.tolist())) > 1
    again.classes = labels  # taken in turn
    np.testing.assert_array_equal(made, again(run.variables, 8)[-1])


def test_a_folder_of_pictures(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "pictures"
    told = sample(classes, out=out, seeds=(7, 12345, 7), n=3, classes=("3", "8"), devices=1)
    assert told == f"6 samples of step 7 (ema weights) are in {out}"
    stems = [f"seed{seed}_{i:06d}_{'38'[i % 2]}" for seed in ("0007", "12345") for i in range(3)]
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["samples.json", *(f"{stem}.png" for stem in stems)]
    )
    run = open_run(classes, n=3, seed=12345, classes=(3, 8), devices=1)
    for image, stem in zip(run.sampler(run.variables, 3)[-1], stems[3:], strict=True):
        np.testing.assert_array_equal(read(out / f"{stem}.png"), image[..., 0])


def test_a_folder_goes_on_after_a_kill(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    sample(classes, out=whole, n=130, devices=1)

    def killed(path: Path, data: bytes, **options: Any) -> None:
        if len(list(out.glob("*.png"))) >= 70:
            (out / f".{path.name}.99.tmp").write_bytes(data[:20])
            raise KeyboardInterrupt
        files.replace_file(path, data, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sample_folder, "replace_file", killed)
        sample(classes, out=out, n=130, devices=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 70 <= len(before) < 130
    assert f"{len(before)} of them from before" in sample(classes, out=out, n=130, devices=1)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert "130 of them from before" in sample(classes, out=out, n=131, devices=1)


def test_a_folder_takes_no_other_samples(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sample(classes, out=out, n=2, devices=1)
    for options, words in (
        ({"truncation": 0.5}, "truncation: was 1.0, now 0.5"),
        ({"classes": ("1", "0")}, "classes: was"),
    ):
        with pytest.raises(UserError, match=f"holds other samples .*{words}"):
            sample(classes, out=out, n=2, devices=1, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").write_bytes(b"")
    with pytest.raises(UserError, match="holds other files than samples"):
        sample(classes, out=tmp_path / "mine", n=2)
    monkeypatch.setattr(sample_folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 4096))
    with pytest.raises(UserError, match="4 pictures of about 4 kB take"):
        sample(classes, out=tmp_path / "new" / "deep", n=4, devices=1)
    assert sorted(os.listdir(tmp_path)) == ["mine", "out"] and len(os.listdir(out)) == 3
    assert json.loads((out / "samples.json").read_text())["step"] == 7


def test_points_take_no_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "points")
    with pytest.raises(UserError, match="a folder takes images"):
        sample(tmp_path / "run", out=tmp_path / "out", n=2)
    run = open_run(tmp_path / "run", n=5, truncation=0.0, devices=1)
    points = run.sampler(run.variables, 5)[-1]
    assert np.isfinite(points).all() and np.ptp(points, axis=0).max() == 0  # the one in the middle


def test_no_sphere_has_a_middle() -> None:
    with pytest.raises(UserError, match="one length"):
        make_latents(4, "sphere", 0.0)
