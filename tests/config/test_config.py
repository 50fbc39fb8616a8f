"""Configs: what is accepted, what is refused, and what the refusal says. Nothing here starts JAX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from ganjax.config import recipe as configs
from ganjax.config.options import BY_KEY, OPTIONS
from ganjax.config.rules import RULES, TARGET_LOSSES, Rule
from ganjax.config.shipped import FOLDERS, shipped, summary
from ganjax.runtime.errors import UserError

RECIPES = shipped("get_config")

POINTS = {"model.name": "mlp", "data.name": "ring"}

# For each rule, by its keys: options that break this rule and none before it.
VIOLATIONS: dict[tuple[str, ...], dict[str, Any]] = {
    ("loss.label_smoothing", "loss.name"): {"loss.label_smoothing": 0.1, "loss.name": "hinge"},
    ("dis.norm", "penalty.name"): {"dis.norm": "batch", "penalty.name": "r1"},
    ("dis.norm", "dis.packing"): {"dis.norm": "batch", "dis.packing": 2},
    ("data.delivery", "data.name"): {"data.delivery": "streaming"},
    ("model.name", "model.attention"): {"model.name": "dcgan", "model.attention": 16},
    ("model.conditional", "dis.packing"): {
        "model.name": "resnet",
        "model.conditional": True,
        "dis.packing": 2,
    },
    ("gen.norm", "model.name"): {"model.name": "r3gan", "gen.norm": "batch"},
    ("model.name", "dis.norm"): {"model.name": "progan", "dis.norm": "group"},
    ("model.name", "gen.spectral_norm"): {
        "model.name": "stylegan2",
        "gen.norm": "none",
        "gen.spectral_norm": True,
    },
    ("model.msg_scales", "model.msg"): {"model.msg_scales": "coarse"},
    ("model.msg_images", "model.name", "model.msg"): {"model.msg_images": "separate", "model.msg": "simple"},
    ("loss.path_length", "model.name"): {"loss.path_length": 1.0},
    ("loss.auxiliary_classifier", "model.conditional"): {"loss.auxiliary_classifier": 1.0},
    ("penalty.final_scale", "dis.optimizer.schedule"): {"penalty.final_scale": 0.1},
    ("augment.final_p", "augment.policy"): {"augment.final_p": 0.3, "dis.optimizer.schedule": "cosine"},
    ("augment.color_share", "augment.policy"): {"augment.color_share": 0.5, "augment.policy": "color"},
    ("augment.final_p", "dis.optimizer.schedule"): {"augment.final_p": 0.3, "augment.policy": "ada"},
    **{
        (f"{net}.optimizer.final_beta2", f"{net}.optimizer.{other}"): {
            f"{net}.optimizer.final_beta2": 0.99,
            f"{net}.optimizer.schedule": "constant" if other == "schedule" else "cosine",
            f"{net}.optimizer.name": "sgd" if other == "name" else "adam",
        }
        for net in ("gen", "dis")
        for other in ("schedule", "name")
    },
    ("penalty.clip_weights", "dis.spectral_norm"): {"penalty.clip_weights": 0.01, "dis.spectral_norm": True},
    ("train.batch_size", "train.accumulate"): {"train.batch_size": 64, "train.accumulate": 3},
    ("train.batch_size", "dis.packing"): {"train.batch_size": 64, "dis.packing": 3},
    ("model.name", "data.name"): {"model.name": "mlp", "data.name": "digits"},
    ("model.name", "model.msg"): {"model.name": "mlp", "data.name": "ring", "model.msg": "simple"},
    ("model.name", "gen.norm"): {"model.name": "mlp", "data.name": "ring", "gen.norm": "group"},
    ("model.name", "dis.minibatch_stddev"): {**POINTS, "dis.minibatch_stddev": True},
    ("data.name", "penalty.consistency"): {**POINTS, "penalty.consistency": 1.0},
    ("data.name", "data.flip"): {"model.name": "mlp", "data.name": "grid", "data.flip": True},
    ("data.name", "augment.policy"): {"model.name": "mlp", "data.name": "ring", "augment.policy": "color"},
    ("augment.policy",): {"augment.policy": "ada,color"},
    ("train.shared_forward", "train.dis_steps", "train.gen_steps"): {
        "train.shared_forward": True,
        "train.dis_steps": 2,
    },
    ("train.shared_forward", "train.accumulate"): {"train.shared_forward": True, "train.accumulate": 2},
    ("train.shared_forward", "train.fresh_reals"): {"train.shared_forward": True, "train.fresh_reals": True},
    ("train.shared_forward", "loss.path_length"): {
        "model.name": "stylegan2",
        "gen.norm": "none",
        "train.shared_forward": True,
        "loss.path_length": 2.0,
    },
    ("train.shared_forward", "penalty.orthogonal"): {
        "train.shared_forward": True,
        "penalty.orthogonal": 1e-4,
    },
    ("train.remat", "model.name"): {"model.name": "mlp", "data.name": "ring", "train.remat": True},
    ("loss.name", "train.accumulate"): {"loss.name": "ra_hinge", "train.accumulate": 2},
    ("loss.feature_matching", "train.accumulate"): {"loss.feature_matching": 1.0, "train.accumulate": 2},
    ("noise.schedule", "augment.policy"): {"noise.std": 0.1, "noise.schedule": "ada"},
    ("gen.optimizer.warmup_steps", "train.steps"): {"gen.optimizer.warmup_steps": 10, "train.steps": 10},
    ("dis.optimizer.warmup_steps", "train.steps"): {"dis.optimizer.warmup_steps": 10, "train.steps": 10},
    ("train.balance_low", "train.balance_high"): {
        "train.balance": "adaptive",
        "train.balance_low": 0.8,
        "train.balance_high": 0.8,
    },
}


def checked(options: dict[str, Any]) -> Any:
    config = configs.default_config()
    for key, value in options.items():
        configs.set_option(config, key, value)
    configs.check(config)
    return config


def refused(options: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        checked(options)
    return str(caught.value)


def write_recipe(folder: Path, body: str) -> Path:
    path = folder / "recipe.py"
    path.write_text(f"from ganjax.config.recipe import default_config\n{body}\n")
    return path


def test_the_defaults_pass() -> None:
    flat = configs.flatten(checked({}))
    assert flat == {option.key: option.default for option in OPTIONS}
    assert configs.flatten(configs.unflatten(flat)) == flat


def test_options_are_well_formed() -> None:
    assert len(BY_KEY) == len(OPTIONS), "a key is listed twice"
    for option in OPTIONS:
        assert option.help and "\n" not in option.help
        assert not option.choices or option.default in option.choices
        if type(option.default) in (int, float):
            assert option.low is not None, f"{option.key} should say what its lowest value is"


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("train.step", "train.steps"),
        ("batch_size", "train.batch_size"),
        ("gen.optimizer.learningrate", "gen.optimizer.learning_rate"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, guess: str) -> None:
    message = refused({key: "1"})
    assert repr(key) in message and f"Did you mean {guess!r}?" in message and "--help-config" in message


def test_a_group_key_names_its_members() -> None:
    message = refused({"train": "1"})
    assert "'train' is a group" in message and "train.steps" in message
    assert "gen.optimizer.beta1" in refused({"gen.optimizer": "adam"})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.steps", "1e3", 1000),
        ("train.steps", "2000.0", 2000),
        ("seed", "2147483647", 2147483647),
        ("gen.optimizer.learning_rate", "1", 1.0),
        ("gen.optimizer.learning_rate", "2e-4", 2e-4),
        ("data.flip", "true", True),
        ("data.flip", "0", False),
        ("data.name", "123", "123"),
        ("augment.policy", "", ""),
    ],
)
def test_texts_become_values(key: str, text: str, value: object) -> None:
    found = configs.flatten(checked({key: text}))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.steps", "1.5", "an integer"),
        ("train.steps", "many", "an integer"),
        ("train.steps", "inf", "an integer"),
        ("train.steps", "nan", "an integer"),
        ("train.steps", "", "an integer"),
        ("train.steps", 1.5, "an integer"),
        ("train.steps", True, "an integer"),
        ("data.flip", "maybe", "True or False"),
        ("data.flip", 1, "True or False"),
        ("noise.std", "much", "a number"),
        ("data.name", 3, "a text"),
        ("noise.std", None, "a number"),
    ],
)
def test_wrong_types_are_refused(key: str, value: object, expected: str) -> None:
    message = refused({key: value})
    assert key in message and expected in message and repr(value) in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.steps", 0, "at least 1"),
        ("train.batch_size", "-4", "at least 1"),
        ("gen.optimizer.learning_rate", "-1e-4", "at least 0"),
        ("gen.optimizer.learning_rate", "inf", "at least 0"),
        ("gen.optimizer.learning_rate", "nan", "at least 0"),
        ("loss.label_smoothing", 0.6, "from 0 to 0.5"),
        ("data.resolution", 2048, "from 0 to 1024"),
    ],
)
def test_ranges(key: str, value: object, expected: str) -> None:
    message = refused({key: value})
    assert key in message and expected in message and "got" in message


WITHOUT_SIGN = [
    o.key for o in OPTIONS if type(o.default) in (int, float) and o.low is not None and o.low >= 0
]


@pytest.mark.parametrize("key", WITHOUT_SIGN)
def test_no_number_may_be_negative(key: str) -> None:
    message = refused({key: "-1"})
    assert key in message and "got -1" in message
    assert "at least" in message or "from" in message


@pytest.mark.parametrize(
    ("base", "key", "values"),
    [
        ({"loss.label_smoothing": 0.1}, "loss.name", set(BY_KEY["loss.name"].choices) - set(TARGET_LOSSES)),
        ({"dis.norm": "batch"}, "penalty.name", set(BY_KEY["penalty.name"].choices) - {"none"}),
        ({"train.accumulate": 2}, "loss.name", {"ra_non_saturating", "ra_hinge", "ra_least_squares"}),
    ],
    ids=["smoothing", "batch norm in D", "accumulation"],
)
def test_rules_on_names_refuse_these_and_no_others(base: dict[str, Any], key: str, values: set[str]) -> None:
    found = set()
    for choice in BY_KEY[key].choices:
        try:
            checked({**base, key: choice})
        except UserError as error:
            assert "do not go together" in str(error)
            found.add(choice)
    assert found == values


@pytest.mark.parametrize(
    ("key", "value", "guess"),
    [
        ("loss.name", "hing", "hinge"),
        ("gen.optimizer.name", "Adam", "adam"),
        ("penalty.name", "wgangp", "wgan_gp"),
        ("parallel.mode", "shardmap", "shard_map"),
    ],
)
def test_choices_name_the_nearest(key: str, value: str, guess: str) -> None:
    message = refused({key: value})
    assert key in message and repr(value) in message and f"Did you mean {guess!r}?" in message
    assert all(repr(choice) in message for choice in BY_KEY[key].choices)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "+".join(rule.keys))
def test_every_rule_refuses(rule: Rule) -> None:
    options = VIOLATIONS.get(rule.keys)
    assert options is not None, f"add to VIOLATIONS options that break the rule on {rule.keys}"
    message = refused(options)
    assert rule.reason in message
    assert all(f"{key}=" in message for key in rule.keys)


def test_rules_have_keys_of_their_own_that_exist() -> None:
    assert len({rule.keys for rule in RULES}) == len(RULES)
    assert {key for rule in RULES for key in rule.keys} <= BY_KEY.keys()
    assert VIOLATIONS.keys() == {rule.keys for rule in RULES}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_resolve_by_name_and_by_file(name: str) -> None:
    config = configs.resolve(name, [("train.steps", "7")])
    assert config.train.steps == 7
    assert json.loads(json.dumps(configs.to_json(config))) == configs.to_json(config)
    by_file = configs.resolve(str(ROOT / "configs" / f"{name}.py"), [("train.steps", "7")])
    assert configs.flatten(by_file) == configs.flatten(config)


def test_the_files_in_configs_are_the_recipes_and_studies_of_the_package() -> None:
    """Each says no more than where its recipe is: there is one text of a recipe."""
    expected = {}
    for function, (folder, room, kind) in {
        "get_config": ("configs", "config", "recipe"),
        "get_study": ("configs/ablations", "study", "study"),
    }.items():
        for name in shipped(function):
            expected[ROOT / folder / f"{name}.py"] = (
                f'"""The {kind} {name} of the package, which `ganjax recipes show {name}` prints."""\n\n'
                f"from ganjax.{room}.recipes.{name} import {function} as {function}\n"
            )
    assert {path: path.read_text() for path in (ROOT / "configs").rglob("*.py")} == expected


def test_recipes_say_what_they_are_and_how_to_run_them() -> None:
    names = [name for function in FOLDERS for name in shipped(function)]
    assert len(set(names)) == len(names)
    for function in FOLDERS:
        for name, path in shipped(function).items():
            what, measured = summary(path)
            assert what.endswith((".", "?")) and (measured or function == "get_study" or name == "technique")
            assert f"--config={name}" in path.read_text() and "configs/" not in path.read_text()


def test_parse_arg() -> None:
    parse = configs.parse_arg
    assert parse("", size=8, flip=False) == {"size": 8, "flip": False}
    assert parse(None, size=8) == {"size": 8}
    found = parse("size=1e2,flip,rate=1,name=x", size=8, flip=False, rate=0.5, name="")
    assert found == {"size": 100, "flip": True, "rate": 1.0, "name": "x"}
    assert type(found["size"]) is int and type(found["rate"]) is float
    with pytest.raises(UserError, match=r"no argument 'sise'.*takes: flip, size.*'size'"):
        parse("sise=3", size=8, flip=False)
    with pytest.raises(UserError, match=r"argument 'size' of the recipe takes an integer, and got 'big'"):
        parse("size=big", size=8)
    with pytest.raises(UserError, match="takes: none"):
        parse("size=3")


def test_a_recipe_gets_its_argument_and_overrides_win(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path,
        "from ganjax.config.recipe import parse_arg\n"
        "def get_config(arg=''):\n"
        "    config = default_config()\n"
        "    config.train.steps = parse_arg(arg, steps=5)['steps']\n"
        "    config.noise.std = 1\n"
        "    return config",
    )
    assert configs.resolve(str(path)).train.steps == 5
    assert configs.resolve(f"{path}:steps=6").train.steps == 6
    config = configs.resolve(f"{path}:steps=6", [("train.steps", "7"), ("train.steps", "8")])
    assert config.train.steps == 8
    assert type(config.noise.std) is float
    with pytest.raises(UserError, match="no argument 'stops'"):
        configs.resolve(f"{path}:stops=6")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("x = 1", "AttributeError.*get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import not_a_module_of_anyone", "ModuleNotFoundError"),
        ("def get_config():\n    raise RuntimeError('of the recipe')", "RuntimeError: of the recipe"),
        ("def get_config():\n    return 3", "must return a ConfigDict, and returned int"),
        ("def get_config():\n    c = default_config()\n    c.train.stepz = 3\n    return c", "train|stepz"),
        (
            "def get_config():\n    c = default_config()\n    c.train.steps = 'x'\n    return c",
            "TypeError|steps",
        ),
        (
            "def get_config():\n    from ml_collections import ConfigDict\n    return ConfigDict({'seed': 1})",
            "Option data.name is missing.*default_config",
        ),
        (
            "def get_config():\n    c = default_config()\n    c.unlock()\n    c.sead = 3\n    return c",
            "no option 'sead'.*Did you mean 'seed'",
        ),
    ],
)
def test_recipes_that_fail(tmp_path: Path, body: str, expected: str) -> None:
    path = write_recipe(tmp_path, body)
    with pytest.raises(UserError) as caught:
        configs.resolve(str(path))
    assert re.search(expected, str(caught.value), re.DOTALL)


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "def get_config(): return default_config()")
    with pytest.raises(UserError, match=r"no recipe .*recipes\.py.*Did you mean .*recipe\.py"):
        configs.resolve(str(tmp_path / "recipes.py"))
    with pytest.raises(UserError, match="no recipe"):
        configs.resolve(str(tmp_path))
    text = path.rename(tmp_path / "recipe.txt")
    with pytest.raises(UserError, match=r"not a Python file.*\.py"):
        configs.resolve(str(text))


def test_the_help_page_lists_every_option() -> None:
    page = configs.help_page()
    for option in OPTIONS:
        assert f"  {option.key} = {option.default!r}" in page and option.help in page
        assert option.allowed() in page


def test_differences() -> None:
    assert configs.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == {"b": (2, 3), "c": (None, 4)}


@pytest.mark.parametrize("text", [None, "{", "[]", '"x"', '{"seed": 0}', '{"train": {"steps": "x"}}'])
def test_a_workdir_without_a_usable_config(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError):
        configs.from_workdir(tmp_path)


def test_a_config_survives_its_workdir(tmp_path: Path) -> None:
    config = checked({"noise.std": 0.25, "data.name": "digits", "seed": 7})
    (tmp_path / "config.json").write_text(json.dumps(configs.to_json(config)))
    assert configs.flatten(configs.from_workdir(tmp_path)) == configs.flatten(config)


def test_reading_a_config_does_not_import_jax() -> None:
    code = (
        "import sys; from ganjax.cli import main; "
        "from ganjax.config import recipe as config; "
        "config.resolve('configs/quickstart.py'); config.help_page(); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_run_from_before_a_runtime_option(tmp_path: Path) -> None:
    config = configs.default_config()
    flat = configs.flatten(config)
    del flat["eval.every_kimg"]
    (tmp_path / "config.json").write_text(json.dumps(configs.to_json(configs.unflatten(flat))))
    assert configs.flatten(configs.from_workdir(tmp_path)) == configs.flatten(config)
    del flat["loss.name"]
    (tmp_path / "config.json").write_text(json.dumps(configs.to_json(configs.unflatten(flat))))
    with pytest.raises(UserError, match=r"loss\.name is missing"):
        configs.from_workdir(tmp_path)
