"""Exports a trained generator to a file that needs no ganjax.

The file holds a program and its weights, for jax or ONNX, or the weights alone. `.jaxexport` is an .npz: `program`, a
`jax.export` artifact (StableHLO with a symbolic batch) as uint8; `metadata` in JSON; and the weights by name, which are
the program's first argument; `docs/examples/load_export.py` reads it with jax alone. `.safetensors` has the same
weights under the same names, and the same metadata. `.onnx` is a model of ONNX with inputs `latents` and, where there
are classes, `labels`, and the metadata under `ganjax`. No reader runs a pickle.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from ganjax.evals.features.weight_files import parse_weights
from ganjax.models.latents import make_latents
from ganjax.models.layers import native
from ganjax.run.open import OpenRun, open_run
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import write_atomically
from ganjax.runtime.version import __version__

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-5  # of an image or point, between the original and what was read back from the file
BATCHES = (5, 3)  # that the file is tried with: the program takes any
Arrays = dict[str, np.ndarray]
Generate = Callable[
    ..., jax.Array
]  # (weights by name, latents [N, Z], labels [N] where there are classes) → [N, …]


def export(
    workdir: Path,
    out: Path,
    *,
    weights: str = "ema",
    step: int | None = None,
    truncation: float = 1.0,
) -> str:
    """Writes the generator of a run's checkpoint to `out`, and returns a summary of the result.

    The file is first read back, and its images are compared with the original's.

    Args:
      workdir: folder of the run.
      out: a path that ends in .jaxexport, .safetensors or, with the extra `onnx`, .onnx.
      weights: `ema` or `raw`.
      step: step of the checkpoint; the newest by default.
      truncation: ψ of a generator that truncates its styles, baked into the program; 1 leaves them.

    Raises:
      UserError: no run or checkpoint there, an `out` of another kind, a truncation where latents would be truncated, or
        a file that makes other images than the run; nothing is written then.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out takes a file ending in {', '.join(FORMATS)}, and got {out.name!r}.")
    if not 0 < truncation <= 1:
        raise UserError(f"--truncation takes a number above 0 and at most 1, and got {truncation}.")
    run = open_run(workdir, n=1, weights=weights, step=step, devices=0)
    if truncation != 1 and not (run.build.truncates and out.suffix != ".safetensors"):
        raise UserError(
            "--truncation goes into the .jaxexport or .onnx of a generator with styles (stylegan2). Elsewhere the "
            "latents are truncated, and they are the input of what is exported: draw them within ±truncation there."
        )
    arrays = {name: np.asarray(x) for name, x in flatten_dict(run.variables, sep=".").items()}
    facts = describe(run, weights, truncation)
    content, again = FORMATS[out.suffix](run, arrays, facts)
    original = make_generate(run.build.gan.gen.net, run.dataset.scale, truncation)
    difference = check(original, arrays, again, run)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{out} was not written: read back, it makes images that differ by {difference:.2g} from the run's, more "
            f"than {TOLERANCE:g}. The run computes in {run.config.train.precision}."
        )
    write_atomically(out, content, "the model")
    return (
        f"The generator of step {run.step} ({weights} weights) is in {out}, {len(content) / 1e6:.1f} MB. Read back, "
        f"its images differ from the run's by at most {difference:.2g}."
    )


def describe(run: OpenRun, weights: str, truncation: float) -> dict[str, Any]:
    """Returns the facts that a user of the file alone needs, as values that JSON has."""
    images = run.dataset.images
    points = images.ndim == 2
    return {
        "format": "ganjax generator 1",
        "ganjax": __version__,
        "jax": jax.__version__,
        "model": run.config.model.name,
        "step": run.step,
        "weights": weights,
        "truncation": truncation,
        "inputs": ["latents", "labels"] if run.build.classes else ["latents"],
        "latent_dim": run.config.model.latent_dim,
        "latent_distribution": run.config.model.latent_distribution,
        "classes": run.build.classes,
        "class_names": list(run.dataset.label_names) if run.build.classes else [],
        "resolution": 0 if points else images.shape[1],
        "channels": images.shape[-1],
        "output": "points, float32 [N, 2] in the data's units"
        if points
        else "images, float32 [N, H, W, C] in [-1, 1] but for overshoots",
    }


def make_generate(gen: nn.Module, scale: float, truncation: float = 1.0) -> Generate:
    """Makes G a function of its weights by name.

    Its results are images in [-1, 1], or points times `scale`, in the data's units.
    """
    styles: dict[str, Any] = {"truncation": truncation} if truncation != 1 else {}

    def generate(weights: Mapping[str, Any], latents: jax.Array, labels: Any = None) -> jax.Array:
        variables = unflatten_dict(weights, sep=".")
        scales: Any = gen.apply(variables, latents, labels, train=False, **styles)
        return scales[-1] * scale

    return generate


def some_inputs(run: OpenRun, n: int) -> tuple[jax.Array, ...]:
    """Returns latents [n, Z] of the run's distribution, and labels [n] where it has classes."""
    model = run.config.model
    keys = jax.random.split(jax.random.key(0), n)
    latents = make_latents(model.latent_dim, model.latent_distribution)(keys)
    classes = run.build.classes
    return (latents, jnp.arange(n, dtype=jnp.int32) % classes) if classes else (latents,)


def check(original: Generate, arrays: Arrays, again: Callable[..., Any], run: OpenRun) -> float:
    """Returns the largest difference between images of the run and of the file read back.

    It tries batches of several sizes.
    """
    inputs = some_inputs(run, max(BATCHES))
    expected = np.asarray(jax.jit(original)(arrays, *inputs))
    differences = []
    for n in BATCHES:
        made = np.asarray(again(*(x[:n] for x in inputs)))
        if made.shape != (n, *expected.shape[1:]):
            return float("inf")
        differences.append(float(np.abs(made - expected[:n]).max()))
    return float(np.max(differences))  # NaN stays NaN


def lower(generate: Generate, weights: Mapping[str, Any], latent_dim: int, classes: int) -> bytes:
    """Returns the `jax.export` artifact of `generate` for all `PLATFORMS` and any number of latents.

    `weights` may be arrays or `jax.ShapeDtypeStruct`s: only their shapes and types matter.
    """
    (n,) = jax_export.symbolic_shape("n")
    shapes: list[Any] = [jax.ShapeDtypeStruct((n, latent_dim), jnp.float32)]
    if classes:
        shapes.append(jax.ShapeDtypeStruct((n,), jnp.int32))
    given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    with native.portable():
        exported = jax_export.export(jax.jit(generate), platforms=PLATFORMS)(given, *shapes)
    return bytes(exported.serialize())


def to_jaxexport(run: OpenRun, arrays: Arrays, facts: dict[str, Any]) -> tuple[bytes, Callable[..., Any]]:
    """Returns the bytes of a `.jaxexport`, and the function (latents, labels) → images that is read back from them."""
    generate = make_generate(run.build.gan.gen.net, run.dataset.scale, facts["truncation"])
    program = lower(generate, arrays, facts["latent_dim"], facts["classes"])
    file = io.BytesIO()
    facts = {**facts, "platforms": PLATFORMS}
    parts = {"program": np.frombuffer(program, np.uint8), "metadata": np.array(json.dumps(facts))}
    np.savez(file, allow_pickle=False, **parts, **arrays)
    content = file.getvalue()
    with np.load(io.BytesIO(content)) as stored:
        read = dict(stored)
    read.pop("metadata")
    call = jax.jit(jax_export.deserialize(bytearray(read.pop("program").tobytes())).call)
    return content, lambda *inputs: call(read, *inputs)


def to_safetensors(run: OpenRun, arrays: Arrays, facts: dict[str, Any]) -> tuple[bytes, Callable[..., Any]]:
    """Returns the bytes of a `.safetensors`, and the run's generator with the weights read back from them."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    content = save(contiguous, metadata={"ganjax": json.dumps(facts)})
    read = parse_weights(content, "the file as written.safetensors")
    if read.keys() != arrays.keys():
        raise UserError("The .safetensors was not written: read back, it lacks weights.")
    call = jax.jit(make_generate(run.build.gan.gen.net, run.dataset.scale))
    return content, lambda *inputs: call(read, *inputs)


def to_onnx(run: OpenRun, arrays: Arrays, facts: dict[str, Any]) -> tuple[bytes, Callable[..., Any]]:
    """Returns the bytes of an ONNX model, and the function (latents, labels) → images that onnxruntime makes of it."""
    from ganjax.run.export import onnx_graph

    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"A .onnx needs the extra onnx: pip install 'ganjax[onnx]' ({error}).") from None
    if run.config.train.precision != "float32":
        raise UserError(f"A .onnx is float32, and the run computes in {run.config.train.precision}.")
    generate = make_generate(run.build.gan.gen.net, run.dataset.scale, facts["truncation"])
    inputs: dict[str, Any] = {"latents": ((facts["latent_dim"],), np.float32), "labels": ((), np.int32)}
    inputs = {name: inputs[name] for name in facts["inputs"]}
    output = "images" if facts["resolution"] else "points"
    content = onnx_graph.to_onnx(generate, arrays, inputs, output, {"ganjax": json.dumps(facts)})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def again(*given: jax.Array) -> Any:
        return session.run(None, dict(zip(inputs, map(np.asarray, given), strict=True)))[0]

    return content, again


FORMATS: dict[str, Callable[[OpenRun, Arrays, dict[str, Any]], tuple[bytes, Callable[..., Any]]]] = {
    ".jaxexport": to_jaxexport,
    ".safetensors": to_safetensors,
    ".onnx": to_onnx,
}
