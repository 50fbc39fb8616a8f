"""What a run keeps of its data: it lives on without them, and notices when they change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from runs import make_run
from small import points_config, small_config

import ganjax
from ganjax.config.recipe import flatten, from_workdir, set_option
from ganjax.data.prepare.plan import Options
from ganjax.data.prepare.run import prepare
from ganjax.run import data_facts
from ganjax.run.evaluate import evaluate_run
from ganjax.run.export import export
from ganjax.run.interpolate import interpolate
from ganjax.run.open import open_run
from ganjax.run.sample import sample
from ganjax.run.setup import load_data
from ganjax.run.train import train
from ganjax.runtime.errors import UserError
from ganjax.training.build import build


def draw(folder: Path, classes: dict[str, int], side: int = 8) -> Path:
    """Pictures of noise, so many in the folder of each class."""
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{i}.png")
    return folder


def config_of(path: Path, **options: Any) -> Any:
    return small_config(
        **{
            "data__name": "folder",
            "data__path": str(path),
            "model__conditional": True,
            "gen__width": 4,
            **options,
        }
    )


def run_on_pictures(place: Path, **options: Any) -> tuple[Path, Any]:
    """A run in `place/run` on the pictures in `place/pictures`, and its config."""
    config = config_of(draw(place / "pictures", {"cat": 3, "dog": 5}), **options)
    make_run(place / "run", config)
    data_facts.settle(place / "run", load_data(config), config)
    return place / "run", config


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run whose data are gone and whose folder has moved, and samples that it made before."""
    place = tmp_path_factory.mktemp("lone")
    workdir, _ = run_on_pictures(place / "here")
    sample(workdir, n=6, out=place / "before.npz", devices=1)
    shutil.rmtree(place / "here" / "pictures")
    shutil.move(workdir, place / "run")
    with np.load(place / "before.npz") as file:
        return place / "run", file["samples"]


def test_samples_outlive_the_data(
    lone: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, before = lone
    monkeypatch.chdir(tmp_path)
    sample(workdir, n=6, out=tmp_path / "after.npz", devices=1)
    with np.load(tmp_path / "after.npz") as file:
        np.testing.assert_array_equal(file["samples"], before)
        np.testing.assert_array_equal(file["labels"], [0, 1] * 3)
    np.testing.assert_array_equal(ganjax.load(workdir).sample(6), before)


@pytest.mark.slow
def test_all_else_that_takes_the_generator_outlives_the_data(
    lone: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    workdir, _ = lone
    sample(workdir, n=6, out=tmp_path / "grid.png", devices=1)
    interpolate(workdir, tmp_path / "film.gif", seeds=(0, 1), steps=2, n=1)
    export(workdir, tmp_path / "model.jaxexport")
    with np.load(tmp_path / "model.jaxexport") as file:
        facts = json.loads(file["metadata"].item())
    assert facts["class_names"] == ["cat", "dog"] and facts["resolution"] == 8


def test_what_needs_the_data_says_so(
    lone: tuple[Path, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir, _ = lone
    with pytest.raises(
        UserError, match=r"evaluate compares with the data of the run\..*does not exist.*--data=DIR"
    ):
        evaluate_run(workdir, ["ms_ssim"], n=20)
    with pytest.raises(UserError, match=r"--nearest compares with the data of the run\..*--data=DIR"):
        sample(workdir, n=4, out=tmp_path / "x.png", nearest=True)
    config = from_workdir(workdir)
    moved = draw(tmp_path / "moved", {"cat": 3, "dog": 5})
    assert len(data_facts.data_of(workdir, config, "evaluate", str(moved))) == 8
    assert not caplog.messages and from_workdir(workdir) == config
    more = draw(tmp_path / "more", {"cat": 3, "dog": 5, "eel": 2})
    assert len(data_facts.data_of(workdir, config, "evaluate", str(more))) == 10
    assert "classes new: eel" in caplog.messages[0]
    with pytest.raises(UserError, match="size: was 8×8×3, now 16×16×3"):
        data_facts.data_of(
            workdir, config, "evaluate", str(draw(tmp_path / "large", {"cat": 3, "dog": 5}, 16))
        )


def test_data_beside_the_workdir_move_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    draw(Path("pictures"), {"cat": 3, "dog": 5})
    config = config_of(Path("pictures"))
    make_run(tmp_path / "a" / "run", config)
    data_facts.settle(Path("run"), load_data(config), config)
    stored = json.loads((tmp_path / "a" / "run" / "data.json").read_text())
    assert stored["path"] == str(tmp_path / "a" / "pictures") and stored["path_from_workdir"] == "../pictures"
    monkeypatch.chdir(tmp_path)
    shutil.move("a", "b")
    workdir = tmp_path / "b" / "run"
    assert data_facts.place_of(workdir, config) == str(tmp_path / "b" / "pictures")
    assert len(data_facts.data_of(workdir, config, "evaluate")) == 8


def test_a_new_class_leaves_the_generator_alone(tmp_path: Path) -> None:
    workdir, _ = run_on_pictures(tmp_path)
    draw(tmp_path / "pictures", {"ant": 4})
    run = open_run(workdir, n=1, devices=1)
    assert run.dataset.label_names == ("cat", "dog") and run.build.classes == 2


def test_runs_of_before_open_while_their_data_are_there(tmp_path: Path) -> None:
    workdir, config = run_on_pictures(tmp_path)
    (workdir / "data.json").unlink()
    assert open_run(workdir, n=1, devices=1).dataset.label_names == ("cat", "dog")
    assert len(data_facts.data_of(workdir, config, "evaluate")) == 8
    (tmp_path / "pictures").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist"):
        open_run(workdir, n=1, devices=1)
    assert open_run(workdir, n=1, devices=1, data=str(tmp_path / "moved")).build.classes == 2
    (workdir / "data.json").write_text('{"shape": 3}')
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        open_run(workdir, n=1, devices=1)


@pytest.mark.parametrize("name", ["ring", "digits", "folder", "prepared", "streamed"])
def test_networks_are_those_of_the_data(tmp_path: Path, name: str) -> None:
    """Every kind of source: what is kept, written and read again, makes the same networks and pictures."""
    if name == "ring":
        config = points_config(model__conditional=True)
    elif name == "digits":
        config = small_config(data__resolution=16)
    else:
        pictures = draw(tmp_path / "pictures", {"cat": 3, "dog": 5})
        if name == "prepared":
            prepare(Options(pictures, tmp_path / "set", 8, workers=1), say=lambda text: None)
            pictures = tmp_path / "set"
        config = config_of(pictures, data__delivery="streaming" if name == "streamed" else "auto")
    dataset = load_data(config)
    data_facts.settle(tmp_path, dataset, config)
    facts = data_facts.read_facts(tmp_path)
    assert facts is not None
    kept = data_facts.stand_in(facts)
    for field in ("name", "num_classes", "label_names", "scale", "std", "class_counts"):
        assert getattr(kept, field) == getattr(dataset, field), field
    assert sum(kept.class_counts) == (len(dataset) if dataset.num_classes else 0)
    np.testing.assert_array_equal(kept.modes, dataset.modes)
    shapes = lambda data: jax.tree.map(lambda x: (x.shape, x.dtype), build(config, data).shapes())
    assert shapes(kept) == shapes(dataset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: (p / "cat").rename(p / "kitten"), ["classes gone: cat", "classes new: kitten"]),
        (lambda p: (p / "cat").rename(p / "eel"), ["classes gone: cat", "classes new: eel"]),
        (lambda p: shutil.copy(p / "cat" / "0.png", p / "cat" / "x.png"), ["images of cat: were 3, now 4"]),
        (lambda p: (p / "dog" / "4.png").unlink(), ["images of dog: were 5, now 4"]),
        (lambda p: (p / "dog" / "4.png").rename(p / "dog" / "9.png"), ["names, sizes or content"]),
        (lambda p: Image.new("RGB", (8, 8)).save(p / "dog" / "4.png"), ["names, sizes or content"]),
    ],
    ids=["renamed class", "other order", "added", "removed", "renamed", "another"],
)
def test_changed_data_are_refused_and_named(tmp_path: Path, change: Any, words: list[str]) -> None:
    workdir, config = run_on_pictures(tmp_path)
    stored = lambda: {path.name: json.loads(path.read_text()) for path in workdir.glob("*.json")}
    before = stored()
    change(tmp_path / "pictures")
    set_option(config, "train.steps", 9)
    with pytest.raises(UserError, match="the data of this run have changed") as refused:
        train(config, workdir)
    assert all(word in str(refused.value) for word in [*words, "--accept-new-data"])
    assert stored() == before
    data_facts.settle(workdir, load_data(config), config, accept=True)
    data_facts.settle(workdir, load_data(config), config)  # they are the run's data now


def test_data_that_do_not_fit_are_never_accepted(tmp_path: Path) -> None:
    workdir, config = run_on_pictures(tmp_path)
    draw(tmp_path / "pictures", {"ant": 4})
    with pytest.raises(
        UserError, match=r"classes new: ant\n  images: were 8, now 12\nThis run's networks do not fit"
    ):
        data_facts.settle(workdir, load_data(config), config, accept=True)


@pytest.mark.parametrize("delivery", ["resident", "streaming"])
def test_the_same_data_elsewhere_or_delivered_otherwise_are_no_change(tmp_path: Path, delivery: str) -> None:
    workdir, config = run_on_pictures(tmp_path, data__delivery=delivery)
    shutil.copytree(tmp_path / "pictures", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "pictures")
    other = {"resident": "streaming", "streaming": "resident"}[delivery]
    config = config_of(tmp_path / "copy", data__delivery=other)
    with data_facts.open_workdir(workdir, config) as opened:
        assert set(opened.changed) == {"data.path", "data.delivery"}
        data_facts.settle(workdir, load_data(config), config)
    assert json.loads((workdir / "data.json").read_text())["path"] == str(tmp_path / "copy")


def test_places_are_stored_absolute_whatever_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "pictures", {"cat": 3, "dog": 5})
    monkeypatch.chdir(tmp_path)
    typed, other = config_of(Path("pictures")), config_of(Path("other"))
    make_run(tmp_path / "run", typed)  # an earlier ganjax stored what was typed
    with pytest.raises(UserError, match=r'data\.path: was "pictures", now ".*other"'):
        data_facts.open_workdir(tmp_path / "run", other)
    with data_facts.open_workdir(tmp_path / "run", typed):
        stored = flatten(from_workdir(tmp_path / "run"))
    assert stored["data.path"] == str(tmp_path / "pictures") and typed.data.path == "pictures"
    with data_facts.open_workdir(tmp_path / "run", typed) as again:
        assert not again.changed
