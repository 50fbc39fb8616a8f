"""Starting from the weights of another run: what is copied, what starts anew, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small import points_config, small_config, small_dataset

from ganjax.config.recipe import to_json
from ganjax.run import initial
from ganjax.run.data_facts import facts_of
from ganjax.run.loop import Loop
from ganjax.run.setup import Setup
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json
from ganjax.runtime.signals import StopSignals
from ganjax.training.build import build


def started(folder: Path, train: bool = False, **options: Any) -> Loop:
    """A loop on points at its start, or after its four steps."""
    config = points_config(
        **{
            "train__steps": 4,
            "log__every_steps": 2,
            "checkpoint__every_steps": 2,
            "monitor__samples": 0,
            **options,
        }
    )
    dataset = small_dataset(points=True)
    setup = Setup(dataset, jax.devices()[:1], build(config, dataset), scan=False)
    folder.mkdir(exist_ok=True)
    atomic_write_json(folder / "config.json", to_json(config))
    atomic_write_json(folder / "data.json", facts_of(dataset, config, folder))
    with Checkpointer(folder / "checkpoints", keep=0) as checkpoints:
        loop = Loop(config, setup, folder, checkpoints, StopSignals())
        if train:
            loop.run()
    return loop


def same(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def test_the_first_samples_are_those_of_the_source(tmp_path: Path) -> None:
    source = started(tmp_path / "source", train=True)
    made = started(tmp_path / "made", init__from=str(tmp_path / "source"))
    fresh = started(tmp_path / "fresh")
    assert made.step == 0 and not made.resumed and not same(source.state.gen.params, fresh.state.gen.params)
    for name in ("gen", "dis"):
        assert same(made.state.net(name).variables, source.state.net(name).variables)
        assert same(made.state.net(name).opt_state, fresh.state.net(name).opt_state)
    assert same(made.state.ema, source.state.ema) and same(made.state.control, fresh.state.control)
    assert same(made.sampler(made.state.ema, 64), source.sampler(source.state.ema, 64))
    assert "Starting from step 4" in made.started_from and "new:" not in made.started_from


def test_a_checkpoint_a_part_and_averaged_weights_can_be_chosen(tmp_path: Path) -> None:
    source = started(tmp_path / "source", train=True)
    with Checkpointer(tmp_path / "source" / "checkpoints", keep=0) as checkpoints:
        found = checkpoints.restore(source.state, 2)
    assert found is not None
    options = {"init__from": str(tmp_path / "source"), "init__step": 2}
    averaged = started(tmp_path / "averaged", init__weights="ema", init__parts="gen", **options)
    assert same(averaged.state.gen.params, found[1].ema["params"]) and same(averaged.state.ema, found[1].ema)
    assert same(averaged.state.dis, started(tmp_path / "fresh").state.dis)
    dis = started(tmp_path / "dis", init__parts="dis", **options)
    assert same(dis.state.dis.params, found[1].dis.params) and same(
        dis.state.ema, started(tmp_path / "f").state.ema
    )


def test_a_run_goes_on_when_its_source_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(tmp_path / "source", train=True)
    ended = started(tmp_path / "run", train=True, init__from=str(tmp_path / "source"))
    assert "Starting from step 4" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "source")
    again = started(tmp_path / "run", init__from=str(tmp_path / "source"))
    assert again.resumed and again.step == 4 and same(again.state.gen.params, ended.state.gen.params)


def test_what_does_not_fit_starts_anew_and_is_listed() -> None:
    old = {
        "params": {"Embed_0": {"embedding": np.arange(6.0).reshape(3, 2)}, "a": np.ones(4), "b": np.ones(2)}
    }
    new = {
        "params": {
            "Embed_0": {"embedding": np.zeros((5, 2))},
            "a": np.zeros(4),
            "b": np.zeros(3),
            "c": np.zeros(1),
        }
    }
    made, left = initial._copied(new, old)
    np.testing.assert_array_equal(made["params"]["Embed_0"]["embedding"], [[2.0, 3.0]] * 5)
    assert made["params"]["a"].all() and not made["params"]["b"].any()
    assert left == ["params/b", "params/c"]
    assert initial._listed([f"x{i}" for i in range(8)]) == " (new: x0, x1, x2, x3, x4, x5 and 2 more)"


def test_other_families_sizes_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        started(tmp_path / "run", init__from=str(tmp_path / "nothing"))
    config, dataset = small_config(), small_dataset()
    folder = tmp_path / "images"
    folder.mkdir()
    atomic_write_json(folder / "config.json", to_json(config))
    atomic_write_json(folder / "data.json", facts_of(dataset, config, folder))
    with pytest.raises(UserError, match="a run of dcgan, and this run is of mlp"):
        started(tmp_path / "run", init__from=str(folder))
    config.init["from"] = str(folder)
    larger = small_dataset()
    object.__setattr__(larger, "images", np.zeros((4, 16, 16, 1), np.uint8))
    with pytest.raises(UserError, match="images of 8×8, and this run's are 16×16"):
        initial.start_from(config, None, larger)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds no checkpoint"):
        initial.start_from(config, None, dataset)  # type: ignore[arg-type]
