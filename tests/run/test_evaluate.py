"""Numbers with their protocol: what is measured, what is refused, the cache, and the command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from runs import make_run
from small import points_config

import ganjax.data as data
from ganjax.cli import main as cli
from ganjax.data.sources.folder import image_folder
from ganjax.evals import features
from ganjax.evals.metrics import statistics
from ganjax.evals.metrics.measures import MEASURES, Case, floor_case, measure
from ganjax.evals.metrics.protocol import PROVENANCE, Measurement, Protocol, code_version
from ganjax.evals.metrics.statistics import gather, in_blocks, of_reference
from ganjax.evals.sampler import Sampler
from ganjax.run import data_facts
from ganjax.run import evaluate as judging
from ganjax.run.open import open_run
from ganjax.run.setup import load_data
from ganjax.runtime.errors import UserError

if TYPE_CHECKING:
    from conftest import RunCli

DIGITS = data.load("digits")
PROTOCOL = Protocol("digits", "ab", "none", "digits", "train", "cd", 1797, 500, "ema", (("k", 3),), seed=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "ganjax" / "metrics"


def number(value: float = 1.0, name: str = "fid", **changes: Any) -> Measurement:
    return Measurement(name, value, value - 0.1, value + 0.1, 0.5, dataclasses.replace(PROTOCOL, **changes))


def judge_points(points: np.ndarray, names: list[str], **options: Any) -> dict[str, Measurement]:
    judge = judging.Evaluator(data.load("ring"), "train")
    found = judge([points], names, weights="ema", seed=0, step=1, origin="here", **options)
    return {result.name: result for result in found}


def test_numbers_of_one_protocol_are_compared() -> None:
    assert number(3.0) - number(1.0, seed=9, commit="other", step=7, origin="there") == pytest.approx(2.0)
    assert number(3.0) - number(1.0, reference="/elsewhere/digits") == pytest.approx(
        2.0
    )  # the hash is the same
    assert {"reference", "seed", "commit", "step", "origin"} == set(PROVENANCE)
    assert judging.compare([number(3.0)], [number(1.0), number(1.0, name="kid")]) == {"fid": 2.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"features": "inception"},
        {"features_sha256": "ff"},
        {"resize": "other"},
        {"split": "test"},
        {"reference_sha256": "ff"},
        {"reference_count": 50},
        {"sample_count": 50},
        {"weights": "raw"},
        {"settings": (("k", 5),)},
        {"class_shares": "even"},
        {"sample_count": 60, "weights": "raw"},
    ],
)
def test_other_protocols_are_refused_with_their_differences(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not compared") as refused:
        number() - number(**changes)
    for field in changes:
        assert f"  {field}: " in str(refused.value)
    assert str(refused.value).count("\n  ") == len(changes)
    with pytest.raises(UserError, match="measure: 'fid' against 'kid'"):
        number() - number(name="kid")


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    judging.write_results(path, [number(), number(name="kid")])
    assert judging.read_results(path) == [number(), number(name="kid")]
    with pytest.raises(UserError, match="Nothing to compare"):
        judging.compare([number()], [])
    for text in ("{", "{}", "[1]", '[{"name": 1}]', '[{"protocol": {}}]'):
        path.write_text(text)
        with pytest.raises(UserError):
            judging.read_results(path)


def test_the_code_has_a_version() -> None:
    assert code_version().startswith("0.")


@pytest.mark.slow
def test_real_points_reach_the_floor_and_collapsed_ones_do_not() -> None:
    ring = data.load("ring", seed=5)
    good = judge_points(ring.images[:2000], ["fid", "prdc", "modes", "kid"])
    assert good["modes"].value == 8 and good["fid"].value < 0.01 and good["precision"].value > 0.9
    assert good["high_quality"].floor == pytest.approx(0.989, abs=0.01)
    assert ring.labels is not None
    bad = judge_points(ring.images[ring.labels == 3][:2000], ["fid", "prdc", "modes"])
    assert bad["modes"].value == 1 and bad["kl"].value == pytest.approx(np.log(8))
    assert bad["fid"].value > 20 * good["fid"].value and bad["coverage"].value < 0.2 < good["coverage"].value
    for result in [*good.values(), *bad.values()]:
        assert result.low <= result.value <= result.high and result.floor is not None
        assert result.protocol.reference_count == 100_000 and result.protocol.sample_count == 2000
    quick = judge_points(ring.images[:2000], ["fid"], quick=True)["fid"]
    assert quick.value == good["fid"].value and quick.low < quick.value < quick.high and quick.floor is None


def test_every_measure_on_digits() -> None:
    network = features.choose("", DIGITS)
    reals = of_reference(DIGITS, network, "train", None)
    assert reals.features.shape == (1797, 128) and reals.count == 1797
    fakes = gather(in_blocks(DIGITS.images[:300]), network)
    case = Case(reals, fakes, DIGITS, network, seed=0)
    found = {result.name: result for result in measure(list(MEASURES), case, PROTOCOL)}
    assert {"fid", "kid", "is", "precision", "coverage", "ms_ssim", "modes", "memorised"} <= set(found)
    assert found["modes"].value == 10 and 8 < found["is"].value <= 10 and found["memorised"].value == 1
    assert found["memorised"].floor is not None and found["memorised"].floor < 0.1
    assert found["precision"].value == 1 and found["nearest_distance"].value == pytest.approx(0, abs=1e-3)
    assert dict(found["recall"].protocol.settings) == {"k": 3, "reals": 1797, "fakes": 300}


def test_perfect_samples_of_rare_classes_reach_the_floor(tmp_path: Path) -> None:
    """G that makes real images of the class it is told: even classes made it look bad, 95:5 as in the data do not."""
    assert DIGITS.labels is not None
    places = [np.flatnonzero(DIGITS.labels == label)[:count] for label, count in enumerate((170, 9))]
    chosen = np.concatenate(places)
    dataset = dataclasses.replace(
        DIGITS, images=DIGITS.images[chosen], labels=DIGITS.labels[chosen], num_classes=2
    )
    assert dataset.class_counts == (170, 9)
    make_run(tmp_path / "run", "classes")
    sampler = open_run(tmp_path / "run", n=1, devices=1).sampler
    sampler.classes = np.arange(2)
    judge, rng = judging.Evaluator(dataset, "train"), np.random.default_rng(0)
    fid = {}
    for name, chooser in (("even", sampler), ("data", sampler.at_shares(dataset.class_counts))):
        labels = chooser.labels(400)
        assert labels is not None
        fakes = DIGITS.images[[rng.choice(places[label]) for label in labels]]
        (found,) = judge(
            [fakes], ["fid"], weights="ema", seed=0, step=1, origin="", class_shares=name, quick=True
        )
        assert found.protocol.class_shares == name
        fid[name] = found.value
    assert fid["data"] < 0.05 * fid["even"]


@pytest.mark.parametrize(
    ("options", "shares", "counts"),
    [({}, "data", [400, 2, 0]), ({"class_shares": "even"}, "even", [51, 51, 50])],
)
def test_runs_are_judged_at_the_shares_of_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], shares: str, counts: list[int]
) -> None:
    config = points_config(model__conditional=True, data__name="ring")
    make_run(tmp_path / "run", config)
    ring = load_data(config)
    kept = dataclasses.replace(ring, counts=(99_500, 500, *[0] * 6))
    data_facts.settle(tmp_path / "run", kept, config)
    drawn: list[Any] = []
    real = Sampler.blocks

    def blocks(self: Sampler, variables: Any, n: int) -> Any:
        drawn.append(self.labels(n))
        return real(self, variables, n)

    monkeypatch.setattr(Sampler, "blocks", blocks)
    (result,) = judging.evaluate_run(tmp_path / "run", ["modes"], n=402, devices=1, **options)[:1]
    assert result.protocol.class_shares == shares
    assert np.bincount(drawn[0], minlength=8)[:3].tolist() == counts


def test_features_are_the_classifiers() -> None:
    from ganjax.evals.features.classifiers import load_classifier, stacked_modes

    classifier = load_classifier("digits")
    network = features.choose("digits", DIGITS)
    found, logits = network.run(DIGITS.images[:5])
    np.testing.assert_allclose(found, classifier.features(DIGITS.images[:5]), rtol=1e-4, atol=1e-4)
    assert logits is not None and network.sha256 == classifier.sha256
    stacked = data.load("stacked_digits")
    network = features.choose("", stacked)
    found, logits = network.run(stacked.images[:40])
    assert found.shape == (40, 384) and logits is not None and network.modes is not None
    np.testing.assert_array_equal(network.modes(logits), stacked_modes(classifier, stacked.images[:40]))
    with pytest.raises(UserError, match="images of 3 channels"):
        network.run(DIGITS.images[:5])


def test_reference_statistics_are_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = features.choose("", DIGITS)
    first = of_reference(DIGITS, network, "train", cache)
    (file,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(statistics, "gather", lambda *_: pytest.fail("the cache was not read"))
        second = of_reference(DIGITS, network, "train", cache)
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.gaussian.covariance, second.gaussian.covariance)
    np.testing.assert_array_equal(first.images, second.images)
    of_reference(data.load("digits", split="test"), network, "test", cache)
    other = dataclasses.replace(network, sha256="other")
    of_reference(DIGITS, other, "train", cache)
    assert len(list(cache.iterdir())) == 3
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    mended = of_reference(DIGITS, network, "train", cache)
    np.testing.assert_array_equal(first.features, mended.features)


def test_the_floor_is_of_disjoint_halves() -> None:
    points = data.load("ring")
    network = features.choose("", points)
    reals = gather([points.images[:1000]], network)
    case = Case(reals, gather([points.images[1000:3000]], network), points, network, 0)
    floor = floor_case(case)
    assert floor is not None and (floor.fakes.count, floor.reals.count) == (500, 500)
    np.testing.assert_array_equal(floor.fakes.images, points.images[:500])
    few = dataclasses.replace(case, reals=gather([points.images[:30]], network))
    assert floor_case(few) is None


def test_non_finite_samples() -> None:
    with pytest.raises(UserError, match="not finite"):
        judge_points(np.full((50, 2), np.nan, np.float32), ["fid"])


def write_pictures(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / f"{index:04d}.png")
    return folder


def test_folders_of_pictures(tmp_path: Path) -> None:
    grey = write_pictures(tmp_path / "grey", DIGITS.images[:7])
    np.testing.assert_array_equal(image_folder(grey).images, DIGITS.images[:7])
    color = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    mixed = write_pictures(tmp_path / "mixed", color)
    Image.fromarray(DIGITS.images[0, ..., 0]).save(mixed / "z.png")
    assert image_folder(mixed).images.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(image_folder(mixed).images[:3], color)
    Image.fromarray(color[0, :4]).save(mixed / "zz.png")
    with pytest.raises(UserError, match=r"one size, and zz.png has 4×8"):
        image_folder(mixed)
    (grey / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match=r"bad.png cannot be read"):
        image_folder(grey)
    with pytest.raises(UserError, match="does not exist"):
        image_folder(tmp_path / "nothing")
    np.savez(tmp_path / "x.npz", samples=DIGITS.images[:4].astype(np.float64))
    with pytest.raises(UserError, match="uint8"):
        image_folder(tmp_path / "x.npz")


@pytest.mark.slow
def test_images_against_a_name_and_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging.parallel, "prepare_backend", lambda *_: None)  # devices are up already
    images = write_pictures(tmp_path / "fakes", DIGITS.images[:60])
    reals = write_pictures(tmp_path / "reals", DIGITS.images[60:160])
    out = tmp_path / "x.json"
    code = cli.main(
        ["evaluate", f"--images={images}", "--reference=digits:test", "--metrics=fid,prdc", f"--out={out}"]
    )
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "95 % interval" in shown.out and "real vs real" in shown.out and "60 samples" in shown.out
    (fid, *_) = judging.read_results(out)
    assert fid.protocol.split == "test" and fid.protocol.weights == "images"
    arguments = ["evaluate", f"--images={images}", f"--reference={reals}", "--features=digits", "--json"]
    assert cli.main([*arguments, "--metrics=fid,kid"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed["results"]] == ["fid", "kid"]
    assert printed["results"][0]["protocol"]["reference_count"] == 100
    assert cli.main([*arguments, "--metrics=fid", f"--compare={out}"]) == 2
    assert "  reference_count: 100 against 355" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir=x", "--metrics=fod"], "got 'fod'. Did you mean 'fid'?"),
        (["--workdir=x", "--metrics="], "joined by commas"),
        (["--workdir=x", "--samples=5"], "at least 20, and got 5"),
        (["--workdir=x"], "holds no run"),
        (["--images=x"], "--images together with --reference"),
        (["--workdir=x", "--reference=digits"], "--images together with --reference"),
        (["--images=x", "--reference=digits"], "does not exist"),
        (["--workdir=x", "--compare=nothing.json"], "nothing.json holds no results"),
        (["--workdir=x", "--config.seed=1"], "belongs to train"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_networks_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="no feature network for x"):
        features.choose("x", DIGITS)
    with pytest.raises(UserError, match="has points"):
        features.choose("digits", data.load("ring"))


@pytest.mark.slow
def test_evaluating_a_run(run_cli: RunCli, tmp_path: Path) -> None:
    options = ["--config.train.steps=4", "--config.gen.width=8", "--config.dis.width=8"]
    done = run_cli("train", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", *options)
    assert done.returncode == 0, done.stderr
    command = ["evaluate", f"--workdir={tmp_path / 'run'}", "--samples=300", "--metrics=fid,modes", "--json"]
    first, second = run_cli(*command), run_cli(*command, "--weights=raw")
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout)["results"]
    stored = judging.read_results(tmp_path / "run" / "evaluations" / "step_00000004.json")
    assert [row["name"] for row in rows] == ["fid", "modes", "kl"] and stored[0].protocol.weights == "raw"
    assert rows[0]["protocol"]["step"] == 4 and rows[0]["protocol"]["sample_count"] == 300
    assert second.returncode == 0 and json.loads(second.stdout)["results"][0]["value"] != rows[0]["value"]
