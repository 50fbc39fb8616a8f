"""Runs from before a family's networks were mended: they load, and say that they compute something else now."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from runs import make_run
from small import points_config, small_config

from ganjax.config import to_json
from ganjax.config.options import BEFORE, BY_KEY
from ganjax.models import MODELS, revisions
from ganjax.run.open import open_run
from ganjax.run.setup import load_data
from ganjax.run.train import train
from ganjax.runtime.checkpoint import Checkpointer, CheckpointWarning
from ganjax.runtime.errors import UserError
from ganjax.runtime.workdir import Workdir
from ganjax.training.build import build


def forget(config, keys):
    """The config without the options of these keys, as an older version has written it."""
    for key in keys:
        *groups, name = key.split(".")
        node = config
        for group in groups:
            parent, node = node, node[group]
        del node[name]
        if not node:  # a group that is younger altogether
            del parent[group]
    return config


def test_a_run_from_before_the_borders_were_mended_loads_and_says_so(tmp_path):
    _, state = make_run(tmp_path / "run", "styles", metadata={"seconds": 3.0})
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(forget(json.loads(file.read_text()), BEFORE)))
    with pytest.warns(CheckpointWarning, match=r"^Step 7 of .*stylegan2 .*revision 1, now 2.*border") as told:
        run = open_run(tmp_path / "run", n=1)
    assert len(told) == 1
    for old, new in zip(jax.tree.leaves(state.ema), jax.tree.leaves(run.variables), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new)[0] if np.ndim(new) > np.ndim(old) else new)


def test_a_run_of_now_says_nothing(tmp_path):
    make_run(tmp_path / "run", "styles")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_run(tmp_path / "run", n=1)


def test_a_checkpoint_of_a_newer_version_is_told_too():
    with pytest.warns(CheckpointWarning, match="a newer ganjax"):
        revisions.check("stylegan2", {"networks": 99}, "It")


def test_every_family_is_counted_from_one():
    assert MODELS["stylegan2"].revision == MODELS["r3gan"].revision == 2
    assert all(revisions.noted(name) == {"networks": 1 + len(MODELS[name].changes)} for name in MODELS)


def test_training_goes_on_and_says_so(tmp_path, monkeypatch):
    options = {"monitor__samples": 0, "log__report": False, "log__tensorboard": False, "parallel__devices": 1}
    config = points_config(**options, train__steps=2)
    train(config, tmp_path)
    mended = replace(MODELS["mlp"], changes=("its points are elsewhere",))
    monkeypatch.setitem(MODELS, "mlp", mended)
    config.train.steps = 3
    with pytest.warns(CheckpointWarning, match="revision 1, now 2.*; since then its points are elsewhere"):
        train(config, tmp_path)
    with Checkpointer(tmp_path / "checkpoints", keep=0) as checkpoints:
        (_, _, metadata) = checkpoints.restore(build(config, load_data(config)).shapes(), 3)
    assert metadata["networks"] == 2


def test_a_label_head_of_another_width_is_refused_with_the_reason(tmp_path):
    options = {
        "model__msg": "none",
        "model__conditional": True,
        "gen__norm": "none",
        "dis__minibatch_stddev": False,
    }
    config = small_config(model__name="r3gan", **options)
    made = build(config, load_data(config))
    shapes = made.shapes()
    old = shapes.dis.params | {"Embed_0": {"embedding": jax.ShapeDtypeStruct((10, 8), np.float32)}}
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), replace(shapes, dis=replace(shapes.dis, params=old))
    )
    with Checkpointer(tmp_path, keep=0) as checkpoints:
        checkpoints.save(1, zeros, block=True)
        with pytest.raises(UserError, match=r"Embed_0/embedding.*\[10, 16\].*\[10, 8\]") as refusal:
            checkpoints.restore(shapes)
    assert "the version of ganjax" in str(refusal.value)


def test_options_younger_than_a_run_stand_for_what_it_did(tmp_path):
    config = to_json(small_config())
    with Workdir.open(tmp_path, config=forget(to_json(small_config()), BEFORE), allowed=(), before=BEFORE):
        pass
    with Workdir.open(tmp_path, config=config, allowed=(), before=BEFORE) as same:
        assert not same.changed
    config["dis"]["stddev_group"] = 8
    with pytest.raises(UserError, match="stddev_group: was 4, now 8"):
        Workdir.open(tmp_path, config=config, allowed=(), before=BEFORE)
    assert all(type(BY_KEY[key].default) is type(value) for key, value in BEFORE.items())
