"""A generator as a model of ONNX makes the images that it makes in JAX, where there is nothing but onnxruntime."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import FAMILIES, pair
from paths import ROOT
from runs import make_run

from ganjax.models import MODELS
from ganjax.run.export import export, make_generate
from ganjax.runtime.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from ganjax.run.export.onnx_graph import OPSET, to_onnx  # noqa: E402  only where onnx is there
from ganjax.run.export.onnx_rules import erf_inv, threefry  # noqa: E402

EXAMPLE = ROOT / "docs" / "examples" / "load_onnx.py"
ELSEWHERE = """
import runpy, sys
for name in ("ganjax", "jax", "flax", "onnx"):
    sys.modules[name] = None
runpy.run_path(sys.argv[3], run_name="__main__")
"""


def session_of(content: bytes) -> Any:
    onnx.checker.check_model(content, full_check=True)
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def converted(function: Any, *arguments: np.ndarray) -> np.ndarray:
    """What a function of arrays [N, …] gives as ONNX."""
    inputs = {f"x{i}": (x.shape[1:], x.dtype) for i, x in enumerate(arguments)}
    content = to_onnx(lambda _, *x: function(*x), {}, inputs, "y")
    return session_of(content).run(None, {f"x{i}": x for i, x in enumerate(arguments)})[0]


def perturbed(path: str, x: jax.Array, rng: np.random.Generator) -> np.ndarray:
    """No variable keeps a 0 or 1 with which a wrong operation could pass; variances stay positive."""
    noise = 0.05 * rng.standard_normal(x.shape)
    return np.asarray(x) + np.asarray(np.abs(noise) if path.endswith("var") else noise, np.float32)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    ("family", "attention"),
    [*((name, False) for name in FAMILIES), *((name, True) for name in ("resnet", "biggan", "biggan_deep"))],
)
def test_every_family_makes_the_same_images(family: str, attention: bool, classes: int) -> None:
    options = {"model__attention": 4} if attention else {}
    config, gen, _, _ = pair(family, MODELS[family].resolutions[0], classes=classes, **options)
    size = config.model.latent_dim
    latents = jax.random.normal(jax.random.key(1), (5, size))
    given = [latents, jnp.arange(5, dtype=jnp.int32) % classes] if classes else [latents]
    variables = jax.jit(functools.partial(gen.init, train=True))(jax.random.key(0), *given)
    rng = np.random.default_rng(0)
    weights = {path: perturbed(path, x, rng) for path, x in flatten_dict(variables, sep=".").items()}
    generate = make_generate(gen, 1.0)
    inputs: dict[str, Any] = {"latents": ((size,), np.float32)}
    if classes:
        inputs["labels"] = ((), np.int32)
    content = to_onnx(generate, weights, inputs, "images", {"who": "test"})
    session = session_of(content)
    expected = np.asarray(jax.jit(generate)(weights, *given))
    for n in (5, 2):
        (made,) = session.run(None, dict(zip(inputs, [np.asarray(x[:n]) for x in given], strict=True)))
        assert made.shape == (n, *expected.shape[1:]) and expected.std() > 1e-3
        np.testing.assert_allclose(made, expected[:n], rtol=1e-5, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map == {"who": "test"}
    opset = onnx.load_from_string(content).opset_import[0].version
    assert (opset == OPSET) == (family != "stylegan2")  # only noise out of the latents' bits needs the newest


def test_the_random_numbers_are_those_of_jax() -> None:
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(7)))(jnp.arange(4))
    words = np.asarray(jax.random.key_data(keys))
    draw = lambda key: jax.random.normal(key, (3, 5))
    from_words = lambda words: jax.vmap(draw)(jax.random.wrap_key_data(words))
    np.testing.assert_allclose(converted(from_words, words), jax.vmap(draw)(keys), rtol=1e-5, atol=1e-5)
    numbers = np.arange(4, dtype=np.uint32)
    fold = lambda words, n: jax.random.key_data(
        jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(words), n)
    )
    np.testing.assert_array_equal(converted(fold, words, numbers), fold(words, numbers))
    # Salmon et al. 2011, the known answers of Random123: threefry2x32 with 20 rounds
    ones, zeros = jnp.full((1,), 0xFFFFFFFF, jnp.uint32), jnp.zeros(1, jnp.uint32)
    assert [int(x[0]) for x in threefry(zeros, zeros, zeros, zeros)] == [0x6B200159, 0x99BA4EFE]
    assert [int(x[0]) for x in threefry(ones, ones, ones, ones)] == [0x1CB996FC, 0xBB002BE7]


def test_the_inverse_error_function_is_scipys() -> None:
    from scipy.special import erfinv

    x = np.linspace(-0.9999, 0.9999, 2001, dtype=np.float32)
    np.testing.assert_allclose(converted(erf_inv, x), erfinv(x.astype(np.float64)), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: jnp.where(x > 0, jax.lax.cumsum(x, 1), 0.0), "cumsum"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(function: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"There is no ONNX for {name}"):
        converted(function, np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.einsum("nij,nkj->nik", x, x * 2),
        lambda x: jax.nn.softmax(x, axis=-1) + jax.nn.sigmoid(x) - jnp.exp(-jnp.abs(x)) ** 3,
        lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 3)), constant_values=0.5)[:, :, 1:],
        lambda x: jnp.tile(jnp.concatenate([x, 2 * x], axis=1)[:, 1:4], (1, 2, 1)),
        lambda x: jnp.clip(jnp.maximum(x, 0) - jnp.minimum(x, 0.5), -0.2, 0.4),
        lambda x: x + jnp.arange(3.0)[None, :, None] * jnp.sqrt(x * x).mean(axis=2, keepdims=True),
        lambda x: jax.nn.elu(x) + jax.lax.erf(x) * jax.nn.softplus(x),
    ],
)
def test_operations(function: Any) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(converted(function, x), function(jnp.asarray(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["classes", "styles", "points"])
def test_an_export_makes_images_with_onnxruntime_alone(name: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", name)
    file, out = tmp_path / "model.onnx", tmp_path / "out.npy"
    assert "differ from the run's by at most" in export(tmp_path / "run", file)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(file), str(out), str(EXAMPLE)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    made = np.load(out)
    assert made.shape == ((16, 2) if name == "points" else (16, 8, 8, 1)) and made.std() > 1e-3
    loader = "def load_onnx" + EXAMPLE.read_text().split("def load_onnx")[1].split("\n\n\n")[0]
    assert loader in (EXAMPLE.parent.parent / "model.md").read_text()
    meta = session_of(file.read_bytes()).get_modelmeta().custom_metadata_map
    assert json.loads(meta["ganjax"])["classes"] == (10 if name == "classes" else 0)
