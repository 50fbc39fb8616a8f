"""Streamed data: the images, order and run of resident data; broken images; memory; what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from PIL import Image
from small import small_config

from ganjax import data
from ganjax.data.delivery import Batch
from ganjax.data.feed import Share, Stream
from ganjax.data.lazy import LazyImages, Reader
from ganjax.data.order import shuffled_indices
from ganjax.data.prepare import Options, prepare
from ganjax.run.setup import prepare as set_up
from ganjax.runtime.errors import UserError
from ganjax.training import parallel
from ganjax.training.forward import GAN
from ganjax.training.state import GanState, NetState

if TYPE_CHECKING:
    from conftest import RunCli

COUNT = 37


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 noise pictures of 8×8 in two classes."""
    folder = tmp_path_factory.mktemp("stream") / "pictures"
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def prepared(pictures: Path) -> Path:
    """The same as a dataset."""
    out = pictures.parent / "prepared"
    prepare(Options(pictures, out, 8, workers=1), say=lambda text: None)
    return out


def both(path: Path, **arguments: Any) -> tuple[data.Dataset, data.Dataset]:
    return data.load("folder", path=str(path), **arguments), data.load(
        "folder", path=str(path), max_bytes=0, **arguments
    )


@pytest.mark.parametrize("kind", ["pictures", "prepared"])
@pytest.mark.parametrize("resolution", [0, 4])
def test_what_stays_on_the_disk_is_like_the_array(
    kind: str, resolution: int, request: pytest.FixtureRequest
) -> None:
    resident, lazy = both(request.getfixturevalue(kind), resolution=resolution)
    assert lazy.streams and not resident.streams and isinstance(lazy.images, LazyImages)
    assert lazy.images.shape == resident.images.shape and lazy.images.nbytes == resident.images.nbytes
    chosen = np.array([3, 3, 36, 0])
    for key in (slice(None), slice(5, 9), chosen, 7):
        np.testing.assert_array_equal(lazy.images[key], resident.images[key])
        np.testing.assert_array_equal(lazy.labels[key], resident.labels[key])  # type: ignore[index]
    assert lazy.label_names == resident.label_names == ("a", "b")
    if kind == "prepared":
        assert lazy.fingerprint == resident.fingerprint
    assert len(lazy.fingerprint) == 64


def test_size_decides(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = COUNT * 8 * 8 * 3
    assert not data.load("folder", path=str(prepared), max_bytes=size).streams
    assert data.load("folder", path=str(prepared), max_bytes=size - 1).streams
    assert 2**24 < parallel.resident_budget(jax.devices()[:1]) < 2**50
    config = small_config(data__name="folder", data__path=str(prepared))
    assert not set_up(config, jax.devices()[:1]).dataset.streams
    monkeypatch.setattr(parallel, "resident_budget", lambda devices: size - 1)
    assert set_up(config, jax.devices()[:1]).dataset.streams
    config.data.delivery = "resident"
    assert not set_up(config, jax.devices()[:1]).dataset.streams


def test_positions_are_those_of_the_device_and_processes_divide_them() -> None:
    whole = Share(batch_size=12, updates=2, steps=3, devices=4).positions(step=5)
    assert whole.shape == (4, 3, 2, 3) and whole.dtype == np.uint32
    # (step · updates + update) · batch + index, in the order of the batch over the devices
    in_order = whole.transpose(1, 2, 0, 3).reshape(-1)
    np.testing.assert_array_equal(in_order, np.arange(5 * 2 * 12, 8 * 2 * 12))
    parts = [Share(12, 2, 3, 2, index, 2).positions(5) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    last = Share(8, 1, 1, 1).positions(2**32 // 8)
    np.testing.assert_array_equal(last.reshape(-1), np.arange(8))  # the count starts again, as on the device


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_a_function_of_seed_and_step(prepared: Path, threads: int) -> None:
    resident, lazy = both(prepared)
    assert isinstance(lazy.images, LazyImages)
    share = Share(batch_size=8, updates=1, steps=2, devices=2)
    stream = Stream(lazy.images.reader, share, lambda x: x, labelled=True, threads=threads)
    for start, seed in ((0, 3), (10, 3), (0, 4)):
        positions = np.arange(start * 8, 20 * 8, dtype=np.uint32)
        order = shuffled_indices(positions, COUNT, seed, xp=np)
        with stream.start(start, 20, seed) as feed:
            got = list(feed)
        images = np.concatenate([x.transpose(1, 2, 0, 3, 4, 5, 6).reshape(-1, 8, 8, 3) for x, _ in got])
        np.testing.assert_array_equal(images, resident.images[order])
        labels = np.concatenate([x.transpose(1, 2, 0, 3).reshape(-1) for _, x in got])
        np.testing.assert_array_equal(labels, resident.labels[order])  # type: ignore[index]
    before = threading.active_count()
    with stream.start(0, 10**6, 0) as feed:  # left in the middle, no thread stays behind
        next(feed)
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with stream.start(5, 5, 0) as feed:
        assert list(feed) == []


def reveal(gan: GAN, state: GanState, batch: Batch) -> tuple[GanState, dict[str, jax.Array]]:
    """In place of a train step: the whole batch, from all devices, as its metrics."""
    assert batch.labels is not None
    shown = {f"reals{i}": x for i, x in enumerate(batch.reals)} | {"labels": batch.labels.astype(np.float32)}
    return dataclasses.replace(state, step=state.step + 1), jax.lax.all_gather(shown, "devices")


@pytest.mark.parametrize(
    ("mode", "devices", "per_call", "scan"),
    [("pmap", 2, 1, False), ("shard_map", 2, 2, True)],
)
def test_the_devices_get_the_same_to_the_bit(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, mode: str, devices: int, per_call: int, scan: bool
) -> None:
    monkeypatch.setattr(parallel, "train_step", reveal)
    config = small_config(
        data__name="folder",
        data__path=str(prepared),
        data__flip=True,
        train__dis_steps=2,
        parallel__mode=mode,
        seed=5,
    )
    used, seen = jax.devices()[:devices], []
    net = NetState({}, {}, ())
    hyper = {"seed": np.uint32(5)}
    empty = GanState(step=np.int32(0), gen=net, dis=net, ema={}, control={}, hyper=hyper)
    for delivery in ("resident", "streaming"):
        config.data.delivery = delivery
        setup = set_up(config, used)
        update = parallel.make_update(
            setup.build.gan,
            setup.build.make_batch,
            used,
            batch_size=16,
            mode=mode,
            steps=per_call,
            scan=scan,
            streams=setup.dataset.streams,
        )
        state = parallel.replicate(empty, used)
        with setup.feed(config, per_call).start(0, 6, seed=5) as feed:
            for _ in range(6 // per_call):
                own = next(feed)
                with jax.transfer_guard("disallow"):
                    state, shown = update(state, own)
                seen.append(jax.device_get(shown))
    half = len(seen) // 2
    assert seen[0]["reals1"].shape == (devices, 2, 16 // devices, 8, 8, 3)
    jax.tree.map(np.testing.assert_array_equal, seen[:half], seen[half:])
    assert any((seen[0]["reals1"] != later["reals1"]).any() for later in seen[1:half])


def test_broken_images_are_passed_over_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)

    def read(index: int) -> tuple[np.ndarray, int]:
        if index in (3, 4, 9):
            raise OSError("image file is truncated")
        return images[index], index

    reader = Reader(read, (10, 2, 2, 1), "the folder", 3)
    with caplog.at_level(logging.WARNING):
        found, labels = reader.many(np.array([3, 4, 9, 9, 2, 3]))
    assert labels.tolist() == [5, 5, 0, 0, 2, 5]
    assert found[:, 0, 0, 0].tolist() == [5, 5, 0, 0, 2, 5]
    assert reader.corrupt == {3, 4, 9} and len(caplog.records) == 3
    assert "image 3 cannot be decoded (image file is truncated)" in caplog.text
    strict = Reader(read, (10, 2, 2, 1), "the folder", 1)
    stream = Stream(strict, Share(10, 1, 1, 1), lambda x: x, labelled=False, threads=2)
    with pytest.raises(UserError, match=r"more than data\.max_corrupt=1"), stream.start(0, 5, 0) as feed:
        list(feed)
    none = Reader(lambda index: read(3), (2, 2, 2, 1), "the folder", 5)
    with pytest.raises(UserError, match="not one of its 2 images"):
        none(0)


def test_a_damaged_shard_is_passed_over_or_ends_with_a_message(prepared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    shard = next(copy.glob("*.array_record*"))
    content = bytearray(shard.read_bytes())
    place = content.index(b"IDAT") + 30
    content[place : place + 8] = bytes(8)
    shard.write_bytes(content)
    lazy = data.load("folder", path=str(copy), max_bytes=0, max_corrupt=1)
    whole = data.load("folder", path=str(prepared)).images
    assert isinstance(lazy.images, LazyImages)
    got = lazy.images[:]
    different = np.flatnonzero((got != whole).any(axis=(1, 2, 3)))
    assert len(different) == len(lazy.images.reader.corrupt) == 1
    with pytest.raises(UserError, match=r"data\.max_corrupt=0"):
        data.load("folder", path=str(copy), max_bytes=0, max_corrupt=0).images[:]


@pytest.mark.slow
def test_training_streams_and_either_delivery_goes_on_with_the_run(
    prepared: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    def train(workdir: str, steps: int, delivery: str) -> list[dict[str, Any]]:
        done = run_cli(
            "train",
            "--config=configs/quickstart.py",
            f"--workdir={tmp_path / workdir}",
            "--config.data.name=folder",
            "--config.model.conditional=False",
            f"--config.data.path={prepared}",
            f"--config.data.delivery={delivery}",
            f"--config.train.steps={steps}",
            "--config.train.batch_size=16",
            "--config.gen.width=8",
            "--config.dis.width=8",
            "--config.gen.optimizer.schedule=constant",
            "--config.dis.optimizer.schedule=constant",
            "--config.log.every_steps=2",
            "--config.log.tensorboard=False",
            "--config.monitor.samples=0",
            "--config.parallel.devices=1",
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    train("mixed", 4, "streaming")
    mixed, streamed = train("mixed", 8, "resident"), train("streamed", 8, "streaming")
    assert [row["step"] for row in mixed] == [2, 4, 6, 8]
    assert ["data/wait" in row for row in mixed] == [True, True, False, False]
    assert all(0 <= row["data/wait"] <= 1 for row in streamed)
    for name in ("loss/dis", "loss/gen", "grad_norm/gen"):
        if name in mixed[0]:
            assert [row[name] for row in mixed] == [row[name] for row in streamed]


def test_memory_stays_flat(prepared: Path) -> None:
    """10,000 images; 100,000 of 128 pixels in benchmarks/data.py."""
    lazy = data.load("folder", path=str(prepared), max_bytes=0)
    assert isinstance(lazy.images, LazyImages)
    stream = Stream(lazy.images.reader, Share(100, 1, 1, 1), lambda x: x, labelled=True, threads=2)
    sizes = []
    with stream.start(0, 100, 0) as feed:
        for number, _ in enumerate(feed):
            if number % 20 == 0:
                sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[-1] - sizes[1] < 20_000  # kB


def test_data_made_in_memory_do_not_stream(capsys: pytest.CaptureFixture[str]) -> None:
    from ganjax.cli import main as cli

    assert cli.main(["train", "--config=configs/quickstart.py", "--config.data.delivery=streaming"]) == 2
    assert "data.delivery='streaming', data.name='digits'" in capsys.readouterr().err


def test_damaged_datasets_end_in_a_message(prepared: Path, tmp_path: Path) -> None:
    """Random bytes in, or cuts of, any file of a prepared dataset: it is read, or there is one `UserError`."""
    rng = np.random.default_rng(0)
    files = [path for path in prepared.iterdir() if path.suffix not in (".npz", ".csv", ".png")]
    outcomes = []
    for number in range(40):
        copy = tmp_path / str(number)
        shutil.copytree(prepared, copy, ignore=shutil.ignore_patterns("*.npz"))
        file = copy / files[number % len(files)].name
        content = bytearray(file.read_bytes())
        for place in rng.integers(0, len(content), 5):
            content[place] = rng.integers(0, 256)
        if number % 3 == 0:
            del content[rng.integers(0, len(content)) :]
        file.write_bytes(content)
        for most in (None, 0):
            try:
                outcomes.append(len(data.load("folder", path=str(copy), max_bytes=most).images[:]))
            except UserError as error:
                assert "\n" not in str(error)
                outcomes.append(0)
    assert 10 < outcomes.count(0) < 75


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_dataset_cannot_have_a_module_imported(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    (tmp_path / "evil_features.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((copy / "features.json").read_text())
    features["featuresDict"]["features"]["label"] = {key: "evil_features.Label"}
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"names 'evil_features\.Label'"):
        data.load("folder", path=str(copy))
