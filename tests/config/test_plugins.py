"""Losses, networks, data sets and more from files outside: their names, what a run keeps of them, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from plugged import forget, plugged
from small import small_config

import ganjax
from ganjax.config import plugin_record, plugins
from ganjax.config import recipe as configs
from ganjax.config.options import BY_KEY
from ganjax.data import load
from ganjax.data.augment import POLICIES
from ganjax.evals.features import choose
from ganjax.evals.metrics.measures import MEASURES, check_names
from ganjax.run.dry_run import check_plugins
from ganjax.run.setup import prepare
from ganjax.runtime.errors import UserError

__all__ = ["plugged"]  # the fixture

LOSS = """
import jax.numpy as jnp
import ganjax

@ganjax.register_loss("pearson"{facts})
class Pearson:
    def dis(real_logits, fake_logits, **others):
        return {dis}
    def gen(real_logits, fake_logits, **others):
        return fake_logits ** 2 / 2
"""
RIGHT = "(real_logits - 1) ** 2 / 2 + (fake_logits + 1) ** 2 / 2"


def write(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def write_loss(folder: Path, dis: str = RIGHT, facts: str = "", name: str = "own.py") -> Path:
    return write(folder, LOSS.format(dis=dis, facts=facts), name)


def message(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


def refused(**options: Any) -> str:
    return message(small_config, **options)


def test_a_registered_loss_is_a_choice_like_any_other(plugged: Path) -> None:
    assert "'pearson'" not in refused(loss__name="no loss")
    plugins.run_file(write_loss(plugged))
    assert small_config(loss__name="pearson").loss.name == "pearson"
    assert "Did you mean 'pearson'?" in refused(loss__name="pearsn")
    assert "pearson" in configs.help_page() and "pearson" in BY_KEY["loss.name"].choices
    assert "label smoothing" in refused(loss__name="pearson", loss__label_smoothing=0.1)


def test_the_facts_of_a_loss_count_in_the_rules(plugged: Path) -> None:
    plugins.run_file(write_loss(plugged, facts=", has_targets=True, whole_batch=True"))
    small_config(loss__name="pearson", loss__label_smoothing=0.1)
    assert "whole batch" in refused(loss__name="pearson", train__accumulate=2)
    assert "least_squares, pearson have" in refused(loss__name="hinge", loss__label_smoothing=0.1)


def test_every_kind_can_be_registered_from_a_file(plugged: Path) -> None:
    path = write(
        plugged,
        """
        import ganjax

        @ganjax.register_penalty("flat")
        def flat(inputs):
            return inputs.real_logits ** 2

        @ganjax.register_augmentation("dim")
        def dim(keys, images):
            return tuple(image * 0.5 for image in images)

        @ganjax.register_dataset("empty", points=True)
        def empty(request): ...

        @ganjax.register_model("none_of_ours", resolutions=(8,), gen_norm="none", attention=True)
        def networks(spec): ...

        @ganjax.register_model("of_points")
        def point_networks(spec): ...

        @ganjax.register_metric("worth", higher_is_better={"worth": True})
        def worth(case): ...

        @ganjax.register_feature_network("mine")
        def mine(dataset): ...

        ganjax.register_loss("plain", dis=lambda r, f: f - r, gen=lambda r, f: -f)
        """,
    )
    plugins.run_file(path)
    assert len(plugins.ENTRIES) == 8
    config = small_config(penalty__name="flat", augment__policy="dim,cutout", eval__metrics="fid,worth")
    configs.set_option(config, "eval.best", "worth")
    configs.check(config)
    check_names(["worth"])
    assert "worth" in MEASURES and "dim" in POLICIES
    assert "empty" in refused(data__name="ring")  # points, and dcgan makes images
    small_config(model__msg="none", model__name="of_points", data__name="empty", dis__minibatch_stddev=False)
    assert "none for none_of_ours" in refused(model__name="none_of_ours", model__msg="none")
    assert "none_of_ours" in refused(model__attention=8)
    assert "empty" in configs.help_page() and "dim" in configs.help_page() and "worth" in configs.help_page()


@pytest.mark.parametrize("name", ["hinge", "none", "ada", "Pearson", "", "a,b"])
def test_names_that_are_none_or_taken(plugged: Path, name: str) -> None:
    path = write_loss(plugged)
    path.write_text(path.read_text().replace('"pearson"', repr(name)))
    text = message(plugins.run_file, path)
    assert text.startswith(f"{path}:5: ") and repr(name) in text
    assert not plugins.ENTRIES and list(BY_KEY["loss.name"].choices).count("hinge") == 1


def test_a_name_belongs_to_the_file_that_has_it(plugged: Path) -> None:
    path = write_loss(plugged)
    plugins.run_file(path)
    plugins.run_file(path)  # again: a recipe is loaded more than once
    path.write_text(path.read_text() + "\n")
    plugins.run_file(path)  # edited
    other = write_loss(plugged, "fake_logits", name="other.py")
    text = message(plugins.run_file, other)
    assert str(other) in text and f"from {path}:5" in text


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ("\n\nimport nothing_of_that_name", 3, "ModuleNotFoundError"),
        ("x = 1\ny = 1 / 0", 2, "ZeroDivisionError"),
        ("def f(:\n    pass", 1, "SyntaxError"),
        ("import ganjax\nganjax.register_loss('x', dis=len)", 2, "needs two functions"),
        ("import ganjax\nganjax.train('quickstart', 'run')", None, "__main__"),
    ],
)
def test_a_file_that_cannot_be_loaded(plugged: Path, body: str, line: int | None, said: str) -> None:
    path = write(plugged, body)
    text = message(plugins.run_file, path)
    assert said in text and str(path) + (f":{line}" if line else "") in text
    assert said in message(configs.load_recipe, str(path))
    assert "cannot be read" in message(plugins.run_file, plugged / "gone.py")
    assert ".py" in message(plugins.run_file, plugged)


def traced(**options: Any) -> None:
    config = small_config(parallel__devices=1, **options)
    check_plugins(config, prepare(config))


@pytest.mark.parametrize(
    ("dis", "said"),
    [
        ("jnp.mean(fake_logits)", "gives as many float values, whose mean ganjax takes; it gave float32 []"),
        ("fake_logits > 0", "it gave bool [16]"),
        ("None", "it gave NoneType"),
        ("fake_logits @ real_logits[None]", "own.py:8: the loss 'pearson' failed: TypeError"),
        ("nothing_of_that_name", "own.py:8: the loss 'pearson' failed: NameError"),
    ],
)
def test_a_loss_that_does_not_fit_is_found_by_tracing(plugged: Path, dis: str, said: str) -> None:
    plugins.run_file(write_loss(plugged, dis))
    text = message(traced, loss__name="pearson")
    assert said in text and f"{plugged / 'own.py'}:" in text


def test_a_loss_that_fits_gives_its_values(plugged: Path) -> None:
    plugins.run_file(write_loss(plugged, facts=", needs_reals=True"))
    traced(loss__name="pearson")
    loss = ganjax.losses.adversarial.LOSSES["pearson"]
    real, fake = jax.numpy.asarray([1.0, 2.0]), jax.numpy.asarray([-1.0, 3.0])
    np.testing.assert_allclose(loss.dis(real, fake), [0.0, 8.5])
    np.testing.assert_allclose(loss.gen(None, fake), [0.5, 4.5])
    assert loss.needs_reals


OTHERS = {
    "penalty": ("penalty__name", "def f(inputs):\n    return {}", "inputs.step", "gives float values"),
    "augmentation": (
        "augment__policy",
        "def f(keys, images):\n    return {}",
        "images[::-1]",
        "gives images like those",
    ),
    "model": ("model__name", "def f(spec):\n    return {}", "None", "two Linen modules"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_that_do_not_fit(plugged: Path, kind: str) -> None:
    key, text, wrong, said = OTHERS[kind]
    facts = ", resolutions=(8,)" if kind == "model" else ""
    head = f"import ganjax\n@ganjax.register_{kind}('own'{facts})\n"
    path = plugged / "own.py"
    for value, expected in ((wrong, said), ("1 / 0", "ZeroDivisionError")):
        path.write_text(head + text.format(value))
        plugins.run_file(path)
        found = message(traced, **{key: "own"})
        assert expected in found and f"{path}:" in found


NETWORKS = """
import flax.linen as nn
import jax.numpy as jnp
import ganjax

class G(nn.Module):
    @nn.compact
    def __call__(self, latents, labels=None, *, train):
        x = nn.Dense(64)(latents)
        return {images}

class D(nn.Module):
    @nn.compact
    def __call__(self, images, labels=None, *, train):
        x = nn.Dense(1)(images[-1].reshape(images[-1].shape[0], -1))
        self.sow("intermediates", "features", x)
        return {logits}

@ganjax.register_model("own", resolutions=(8,))
def networks(spec):
    return G(), D()
"""


@pytest.mark.parametrize(
    ("images", "logits", "said"),
    [
        ("(x.reshape(-1, 8, 8, 1),)", "x[:, 0]", ""),
        (
            "x.reshape(-1, 8, 8, 1)",
            "x[:, 0]",
            "G gives a tuple of float32 [2, 8, 8, 1], coarse to fine",
        ),
        ("(x.reshape(-1, 4, 16, 1),)", "x[:, 0]", "it gave tuple of float32 [2, 4, 16, 1]"),
        ("(x.reshape(-1, 8, 8, 1),)", "x", "D gives float32 [2]; it gave float32 [2, 1]"),
        ("(x.reshape(-1, 8, 8, 1),)", "x[:, 0].astype(jnp.float16)", "it gave float16 [2]"),
        ("(x.reshape(-1, 8, 8, 1),)", "x @ x", "own.py:17: a plugin failed: TypeError"),
    ],
)
def test_networks_that_do_not_fit_are_found_by_tracing(
    plugged: Path, images: str, logits: str, said: str
) -> None:
    path = write(plugged, NETWORKS.format(images=images, logits=logits))
    plugins.run_file(path)
    options = {"model__name": "own", "model__msg": "none", "dis__minibatch_stddev": False}
    if not said:
        traced(**options)
        return
    found = message(traced, **options)
    assert said in found and f"{path}:" in found


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("Dataset('own', x, np.arange(9, dtype=np.int32) % 3, 3)", ""),
        ("Dataset('own', x, None, 0)", ""),
        ("x", "gives a ganjax.data.Dataset; it gave uint8 [9, 8, 8, 1]"),
        ("Dataset('own', x / 255, None, 0)", "images [N, H, W, C] of uint8"),
        ("Dataset('own', x[0], None, 0)", "images [N, H, W, C] of uint8"),
        ("Dataset('own', x[:0], None, 0)", "N at least 1"),
        ("Dataset('own', x, np.arange(9), 9)", "labels int32 [9] or None"),
        ("Dataset('own', x, np.arange(8, dtype=np.int32), 9)", "labels int32 [9] or None"),
        ("Dataset('own', x, np.arange(9, dtype=np.int32), 3)", "the data declare 3 classes"),
        ("Dataset('own', x, np.arange(9, dtype=np.int32), 0)", "has labels, and num_classes=0"),
        ("Dataset('own', x, None, 3)", "has classes and no labels"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_data_that_do_not_fit(plugged: Path, data: str, said: str) -> None:
    path = write(
        plugged,
        f"""
        import ganjax, numpy as np
        from ganjax.data import Dataset
        x = np.zeros((9, 8, 8, 1), np.uint8)
        @ganjax.register_dataset("own")
        def own(request):
            return {data}
        """,
    )
    plugins.run_file(path)
    if not said:
        assert len(load("own")) == 9
        assert "was asked for 16×16 pixels" in message(load, "own", resolution=16)
        return
    found = message(load, "own")
    assert said in found and f"{path}:" in found


def test_a_feature_network_of_a_data_set_is_its_own_and_carries_the_hash_of_its_code(plugged: Path) -> None:
    text = """
        import ganjax
        from ganjax.evals.features import FeatureNetwork
        @ganjax.register_feature_network({name!r})
        def own(dataset):
            return {value}
        """
    network = "FeatureNetwork('pixels', '', 'none', lambda x: (x.reshape(len(x), -1), None))"
    path = write(plugged, text.format(name="digits", value=network))
    plugins.run_file(path)
    found = choose("", load("digits"))
    assert found.name == "pixels" and found.sha256 == plugins.source_of(str(path)).sha256
    write(plugged, text.format(name="mine", value="None"))
    plugins.run_file(path)
    assert "gives a FeatureNetwork; it gave NoneType" in message(choose, "mine", load("digits"))


def run_with(plugged: Path, **options: Any) -> tuple[Path, Path, dict[str, Any]]:
    """A run's folder and the plugin that its config uses, as a process that has just started finds them."""
    path = write_loss(plugged)
    plugins.run_file(path)
    config = small_config(loss__name="pearson", **options)
    folder = plugged / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs.to_json(config)))
    plugin_record.store(folder, configs.flatten(config))
    forget()
    return folder, path, configs.flatten(config)


def test_a_run_brings_its_plugins(plugged: Path) -> None:
    folder, path, flat = run_with(plugged)
    (record,) = json.loads((folder / "plugins.json").read_text())
    copy = folder / "plugins" / record["copy"]
    assert record["path"] == str(path) and record["names"] == ["loss pearson"]
    assert copy.read_text() == path.read_text()
    assert configs.flatten(configs.from_workdir(folder)) == flat
    assert "loss pearson" in [" ".join(entry) for entry in plugins.ENTRIES]
    configs.from_workdir(folder)  # it is loaded already
    forget()
    path.unlink()
    configs.from_workdir(folder)  # the copy is enough
    forget()
    plugins.run_file(write_loss(plugged, name="moved.py"))
    configs.from_workdir(folder)  # the same code from another place


def test_a_run_without_plugins_keeps_none(plugged: Path) -> None:
    plugins.run_file(write_loss(plugged))
    plugin_record.store(plugged, configs.flatten(small_config()))
    assert not (plugged / "plugins.json").exists() and not (plugged / "plugins").exists()


def test_a_changed_or_missing_plugin_is_said(plugged: Path) -> None:
    folder, path, flat = run_with(plugged)
    copy = next((folder / "plugins").glob("*.py"))
    path.write_text(path.read_text() + "# changed\n")
    plugins.run_file(path)
    text = message(plugin_record.store, folder, flat)
    assert "another" in text and str(path) in text and str(copy) in text and "--workdir" in text
    forget()
    configs.from_workdir(folder)  # as it was, by the copy
    forget()
    copy.write_text("raise SystemExit\n")
    text = message(configs.from_workdir, folder)
    assert str(copy) in text and "gone or have changed" in text and "loss pearson" in text
    write_loss(plugged)
    configs.from_workdir(folder)  # as it was, by the original
    forget()
    path.unlink()
    copy.unlink()
    assert "bring back the file with sha256" in message(configs.from_workdir, folder)
    (folder / "plugins.json").write_text('[{"path": 3}]')
    assert "plugins.json" in message(configs.from_workdir, folder)


def test_a_folder_from_elsewhere_runs_nothing_by_itself(
    plugged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = run_with(plugged)
    monkeypatch.setenv("XDG_CACHE_HOME", str(plugged / "of another user"))
    copy = next((folder / "plugins").glob("*.py"))
    text = message(configs.from_workdir, folder)
    assert f"--plugin={copy}" in text and "trust" in text and not plugins.ENTRIES
    (record,) = json.loads((folder / "plugins.json").read_text())
    record["copy"] = "../../own.py"
    (folder / "plugins.json").write_text(json.dumps([record]))
    message(configs.from_workdir, folder)
    assert not plugins.ENTRIES
    record["copy"] = copy.name
    (folder / "plugins.json").write_text(json.dumps([record]))
    plugins.run_file(copy)
    configs.from_workdir(folder)


def test_what_no_file_registered_is_asked_for(plugged: Path) -> None:
    """A cell of a notebook."""
    cell = compile(LOSS.format(dis=RIGHT, facts=""), "<cell 3>", "exec")
    exec(cell, {"__name__": "__main__"})
    exec(compile(LOSS.format(dis=RIGHT, facts=""), "<cell 4>", "exec"), {"__name__": "__main__"})  # edited
    flat = configs.flatten(small_config(loss__name="pearson"))
    folder = plugged / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs.to_json(configs.unflatten(flat))))
    plugin_record.store(folder, flat)
    configs.from_workdir(folder)
    forget()
    assert "That is no file" in message(configs.from_workdir, folder)
    plugins.run_file(write_loss(plugged))
    configs.from_workdir(folder)


PACKAGE_INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: own-losses\nVersion: 1.0\n",
    "entry_points.txt": "[ganjax.plugins]\nlosses = own_losses.losses\n",
    "RECORD": "",
}


def test_packages_register_by_entry_points(plugged: Path) -> None:
    """In a process of its own, as an installed package is found there."""
    site = plugged / "site"
    (site / "own_losses").mkdir(parents=True)
    (site / "own_losses" / "__init__.py").write_text("")
    write_loss(site / "own_losses", name="losses.py")
    (site / "own_losses-1.0.dist-info").mkdir()
    for name, text in PACKAGE_INFO.items():
        (site / "own_losses-1.0.dist-info" / name).write_text(text)
    run = plugged / "run"
    run.mkdir()

    def called(code: str) -> subprocess.CompletedProcess[str]:
        head = f"import sys; sys.path.insert(0, {str(site)!r}); from ganjax.config import recipe, plugin_record\n"
        return subprocess.run(
            [sys.executable, "-c", head + code], capture_output=True, text=True, check=False
        )

    made = called(
        "import json\n"
        "config = recipe.resolve('quickstart', [('loss.name', 'pearson')])\n"
        f"plugin_record.store(__import__('pathlib').Path({str(run)!r}), recipe.flatten(config))\n"
        f"open({str(run / 'config.json')!r}, 'w').write(config.to_json())\n"
    )
    assert made.returncode == 0, made.stderr
    (record,) = json.loads((run / "plugins.json").read_text())
    assert record["module"] == "own_losses.losses"
    opening = f"import pathlib; recipe.from_workdir(pathlib.Path({str(run)!r}))"
    assert called(opening).returncode == 0
    losses = site / "own_losses" / "losses.py"
    text = losses.read_text()
    losses.write_text(text + "# changed\n")
    assert "Install the package that the run was made with" in called(opening).stderr
    losses.write_text("1 / 0\n")
    failed = called("recipe.resolve('quickstart')").stderr
    assert "own_losses.losses" in failed and f"{losses}:1" in failed and "ZeroDivisionError" in failed
    assert "uninstall own-losses" in failed
