"""What is exported makes the same images where there is nothing but jax."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import FAMILIES, pair
from paths import ROOT
from runs import CONFIGS, make_run
from safetensors import safe_open

from ganjax.models import MODELS
from ganjax.run import export as exporting
from ganjax.run.export import PLATFORMS, export, lower, make_generate
from ganjax.runtime.errors import UserError

LOADER = ROOT / "docs" / "examples" / "load_export.py"
# Runs the documented loader on each file, with all but jax and its own dependencies out of reach.
ELSEWHERE = """
import runpy, sys
for name in ("ganjax", "flax", "optax", "orbax", "ml_collections", "safetensors"):
    sys.modules[name] = None
sys.path[:] = [path for path in sys.path if "ganjax" not in path]
for file in sys.argv[2:]:
    sys.argv = ["load_export.py", file, file + ".npy"]
    runpy.run_path(LOADER, run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder, build and state of a run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    return {name: (root / name, *make_run(root / name, name)) for name in CONFIGS}


def latents_of_the_example(name: str) -> list[Any]:
    key, config = jax.random.key(0), CONFIGS[name]()
    shape = (16, config.model.latent_dim)
    if config.model.latent_distribution == "uniform":
        return [jax.random.uniform(key, shape, minval=-1, maxval=1)]
    labels = [np.arange(16, dtype=np.int32) % 10] if config.model.conditional else []
    return [jax.random.normal(key, shape), *labels]


@pytest.mark.slow
def test_an_export_makes_the_same_images_with_jax_alone(made: Any, tmp_path: Path) -> None:
    for name, (workdir, _, _) in made.items():
        assert "differ from the run's by at most" in export(workdir, tmp_path / f"{name}.jaxexport")
    files = [str(tmp_path / f"{name}.jaxexport") for name in made]
    code = ELSEWHERE.replace("LOADER", repr(str(LOADER)))
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, "", *files],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    for name, (_, build, state) in made.items():
        inputs = latents_of_the_example(name)
        apply = jax.jit(functools.partial(build.gan.gen.net.apply, train=False))
        expected = apply(state.ema, *inputs)[-1]
        found = np.load(tmp_path / f"{name}.jaxexport.npy")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert found.std() > 1e-3 and found.shape == ((16, 2) if name == "points" else (16, 8, 8, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_program_for_every_platform(family: str) -> None:
    config, gen, _, _ = pair(family, MODELS[family].resolutions[0], classes=3)
    latents, labels = jnp.zeros((2, config.model.latent_dim)), jnp.zeros(2, jnp.int32)
    variables = jax.eval_shape(lambda: gen.init(jax.random.key(0), latents, labels, train=True))
    program = lower(make_generate(gen, 1.0), flatten_dict(variables, sep="."), config.model.latent_dim, 3)
    read = jax.export.deserialize(bytearray(program))
    (images,) = read.out_avals
    assert read.platforms == PLATFORMS and not isinstance(images.shape[0], int)


def test_the_file_says_what_it_is(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "model.jaxexport"
    export(made["classes"][0], out, weights="raw")
    with np.load(out) as file:
        facts = json.loads(file["metadata"].item())
        program = jax.export.deserialize(bytearray(file["program"].tobytes()))
    assert facts["latent_dim"] == 8 and facts["classes"] == 10 and facts["resolution"] == 8
    assert facts["inputs"] == ["latents", "labels"] and facts["weights"] == "raw" and facts["step"] == 7
    assert program.platforms == ("cpu", "cuda", "tpu")
    loader = "def load" + LOADER.read_text().split("def load")[1].split("\n\n\n")[0]
    assert len(loader.splitlines()) <= 10 and loader in (LOADER.parent.parent / "model.md").read_text()


@pytest.mark.slow
def test_truncated_styles_are_part_of_the_program(made: Any, tmp_path: Path) -> None:
    workdir, build, state = made["styles"]
    export(workdir, tmp_path / "half.jaxexport", truncation=0.5)
    with np.load(tmp_path / "half.jaxexport") as file:
        weights = {name: file[name] for name in file.files if "." in name}
        program = jax.export.deserialize(bytearray(file["program"].tobytes()))
    latents = latents_of_the_example("styles")[0][:5]
    expected = jax.jit(functools.partial(build.gan.gen.net.apply, train=False, truncation=0.5))(
        state.ema, latents
    )
    found = jax.jit(program.call)(weights, latents)
    np.testing.assert_allclose(found, expected[-1], rtol=0, atol=1e-5)


def test_safetensors_hold_the_averaged_weights(made: Any, tmp_path: Path) -> None:
    workdir, _, state = made["classes"]
    export(workdir, tmp_path / "model.safetensors")
    leaves = jax.tree_util.tree_leaves_with_path(state.ema)
    expected = {".".join(str(part.key) for part in path): leaf for path, leaf in leaves}
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(expected)
        for name, leaf in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), leaf)
        assert json.loads(file.metadata()["ganjax"])["latent_dim"] == 8


@pytest.mark.parametrize(
    ("name", "file", "options", "words"),
    [
        ("classes", "model.pkl", {}, "--out takes a file ending in .jaxexport, .safetensors, .onnx"),
        ("classes", "model.jaxexport", {"truncation": 0.5}, "latents are truncated"),
        ("styles", "model.safetensors", {"truncation": 0.5}, "goes into the .jaxexport or .onnx"),
        ("styles", "model.jaxexport", {"truncation": 2.0}, "--truncation takes"),
    ],
)
def test_refused(made: Any, tmp_path: Path, name: str, file: str, options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(made[name][0], tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_makes_other_images_is_not_written(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = exporting.parse_weights
    broken = lambda content, origin: {name: x + np.float32(0.01) for name, x in read(content, origin).items()}
    monkeypatch.setattr(exporting, "parse_weights", broken)
    with pytest.raises(UserError, match="was not written: read back, it makes images that differ"):
        export(made["classes"][0], tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
