"""Do the twins compute what ganjax computes? The same weights and inputs in both, outputs and gradients compared.

    python benchmarks/torch_parity.py --torch-python=PYTHON_WITH_TORCH

Of each game: G's images, D's answers to them, and the gradients of the mean answer with respect to all parameters of G
and of D (through spectral norm, with its vectors resting), joined and plain twin. Weights are drawn; StyleGAN2 without
style mixing and with noise of strength 0. Prints the largest difference relative to the largest value, of gradients the
norm of the difference over the norm, and ends with 1 if one exceeds 1e-3.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import CASES, SMALL, load_config, random_dataset, table

BOUND = 1e-3
BATCH = 32
# The twin's name of a module → ganjax's; numbers are computed from the twin's.
NAMES: dict[tuple[str, str], list[tuple[str, Any]]] = {
    ("dcgan", "gen"): [
        (r"first", "Dense_0/Dense_0"),
        (r"convs\.(\d+)", lambda i, msg: f"Conv_{2 * i + 1 if msg else i}/Conv_0"),
        (r"rgb\.(\d+)", lambda i, msg: f"Conv_{2 * i}/Conv_0" if msg else "LAST"),
    ],
    ("dcgan", "dis"): [
        (r"first", "Conv_0/Conv_0"),
        (r"convs\.(\d+)", lambda i, _: f"Conv_{i + 1}/Conv_0"),
        (r"last", "Dense_0/Dense_0"),
    ],
    ("resnet", "gen"): [
        (r"first", "Dense_0/Dense_0"),
        (r"norms\.(\d+)", lambda i, _: f"Norm_{i}/BatchNorm_0"),
        (r"convs\.(\d+)", lambda i, _: f"Conv_{3 * (i // 2) + i % 2}/Conv_0"),
        (r"skips\.(\d+)", lambda i, _: f"Conv_{3 * i + 2}/Conv_0"),
        (r"rgb", "LAST"),
    ],
    ("resnet", "dis"): [
        (r"convs\.(\d+)", lambda i, _: f"Conv_{3 * (i // 2) + i % 2 if i < 4 else i + 2}/Conv_0"),
        (r"skips\.(\d+)", lambda i, _: f"Conv_{3 * i + 2}/Conv_0"),
        (r"last", "Dense_0/Dense_0"),
    ],
    ("stylegan2", "gen"): [
        (r"mapping\.(\d+)", lambda i, _: f"Mapping_0/EqualDense_{i}"),
        (r"layers\.(\d+)\.conv\.affine", lambda i, _: f"StyledLayer_{i}/ModulatedConv_0/EqualDense_0"),
        (r"layers\.(\d+)\.conv", lambda i, _: f"StyledLayer_{i}/ModulatedConv_0"),
        (r"layers\.(\d+)", lambda i, _: f"StyledLayer_{i}"),
        (r"rgb\.(\d+)\.affine", lambda i, _: f"ToRGB_{i}/ModulatedConv_0/EqualDense_0"),
        (r"rgb\.(\d+)", lambda i, _: f"ToRGB_{i}/ModulatedConv_0"),
    ],
    ("stylegan2", "dis"): [
        (r"first", "EqualConv_0"),
        (r"blocks\.(\d+)\.(\d+)", lambda i, _, j: f"EqualConv_{1 + 3 * i + j}"),
        (r"conv", "LAST"),
        (r"hidden", "EqualDense_0"),
        (r"last", "EqualDense_1"),
    ],
}


def own_name(model: str, net: str, name: str, msg: bool, known: set[str]) -> str:
    """ganjax's name of the twin's parameter `name`."""
    if name == "constant":
        return name
    if bias := re.fullmatch(r"rgb_bias\.(\d+)", name):
        return f"ToRGB_{bias[1]}/bias"
    module, _, leaf = name.rpartition(".")
    for pattern, to in NAMES[model, net]:
        if found := re.fullmatch(pattern, module):
            numbers = [int(n) for n in found.groups()]
            path = to if isinstance(to, str) else to(numbers[0], msg, *numbers[1:])
            break
    else:
        raise KeyError(name)
    if path == "LAST":  # the convolution with the highest number
        numbered = {
            int(n[1]): n[0] for key in known if (n := re.match(r"(?:Equal)?Conv_(\d+)(?:/Conv_0)?", key))
        }
        path = numbered[max(numbered)]
    own = {"weight": "scale" if "BatchNorm" in path else "kernel"}.get(leaf, leaf)
    return f"{path}/{own}"


def twins_layout(x: np.ndarray) -> np.ndarray:
    """HWIO → OIHW, [I, O] → [O, I], [h, w, C] → [1, C, h, w]."""
    if x.ndim == 4:
        return x.transpose(3, 2, 0, 1)
    if x.ndim == 3:
        return x.transpose(2, 0, 1)[None]
    return x.T


def ours(game: str) -> dict[str, np.ndarray]:
    """Weights, inputs, outputs and gradients of ganjax, by name."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    from ganjax.training.build import build

    config = load_config(game)
    parts = build(config, random_dataset(CASES[game].resolution), axis_name=None)
    state, rng = parts.init(), np.random.default_rng(0)
    # Biases and scales that are not what they start as; noise stays off.
    nudge = lambda path, x: (
        x if path[-1] == "noise" else x + 0.1 * rng.normal(size=x.shape).astype(np.float32)
    )
    tree = {
        net: jax.tree_util.tree_map_with_path(
            lambda p, x: nudge([k.key for k in p], x), getattr(state, net).params
        )
        for net in ("gen", "dis")
    }
    z = jnp.asarray(rng.normal(size=(BATCH, config.model.latent_dim)), jnp.float32)

    def answer(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        made = parts.gan.gen.net.apply(
            {"params": params["gen"], **state.gen.stats},
            z,
            None,
            train=config.model.name != "stylegan2",
            mutable=["batch_stats"],
        )[0]
        logits = parts.gan.dis.net.apply({"params": params["dis"], **state.dis.stats}, made, None, train=True)
        return jnp.mean(logits), (made, logits)

    gradients, (made, logits) = jax.jit(jax.grad(answer, has_aux=True))(tree)
    result = {"z": z, "logits": logits, **{f"image{x.shape[1]}": x for x in made}}
    for net in ("gen", "dis"):
        result |= {f"{net}:{k}": v for k, v in flatten_dict(tree[net], sep="/").items()}
        result |= {f"slope:{net}:{k}": v for k, v in flatten_dict(gradients[net], sep="/").items()}
    for key, value in flatten_dict(state.dis.stats.get("spectral", {}), sep="/").items():
        result[f"spectral:{key}"] = value
    return {key: np.asarray(value) for key, value in result.items()}


def theirs(request: dict[str, Any], data: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest relative differences of the twin; runs where torch is."""
    import torch
    import torch_networks as networks

    networks.JOINED = request["joined"]
    options = request["options"]
    gen, dis = networks.make(options)
    known = {net: {k.split(":", 1)[1] for k in data if k.startswith(f"{net}:")} for net in ("gen", "dis")}
    names = {
        net: {
            n: own_name(options["model"], net, n, options["msg"], known[net])
            for n, _ in module.named_parameters()
        }
        for net, module in (("gen", gen), ("dis", dis))
    }
    for net, module in (("gen", gen), ("dis", dis)):
        assert sorted(names[net].values()) == sorted(known[net]), set(names[net].values()) ^ known[net]
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                value = twins_layout(data[f"{net}:{names[net][name]}"])
                parameter.copy_(torch.tensor(value))
    for name, module in dis.named_modules():
        if getattr(module, "spectral", False):
            layer = own_name(options["model"], "dis", f"{name}.weight", options["msg"], known["dis"]).split(
                "/"
            )[0]
            vectors = {k[-1]: v for k, v in data.items() if k.startswith(f"spectral:{layer}/")}
            shape = data[f"dis:{layer}/{layer.split('_')[0]}_0/kernel"].shape[:-1]
            along = vectors["u"].reshape(shape)  # of ganjax's matrix [kh·kw·I, O]; the twin's is [O, I·kh·kw]
            along = along.transpose(2, 0, 1) if along.ndim == 3 else along
            module.v.copy_(torch.from_numpy(np.ascontiguousarray(along).reshape(-1)))
            module.u.copy_(torch.from_numpy(vectors["v"]))
    z = torch.from_numpy(data["z"])
    if options["model"] == "stylegan2":
        styles = gen.map(z)[:, None].expand(-1, 2 * len(gen.sides), -1)
        images = gen.synthesis(styles)
    else:
        images = gen(z)
    logits = dis(images, False)
    logits.mean().backward()
    relative = lambda a, b: float(np.abs(a - b).max() / max(1e-12, np.abs(b).max()))
    own = lambda x: x.detach().permute(0, 2, 3, 1).numpy()
    found = {
        "images": max(relative(own(x), data[f"image{x.shape[-1]}"]) for x in images),
        "answers": relative(logits.detach().numpy(), data["logits"]),
    }
    for net, module in (("gen", gen), ("dis", dis)):
        pairs = [
            (p.grad.numpy(), twins_layout(data[f"slope:{net}:{names[net][n]}"]))
            for n, p in module.named_parameters()
            if not n.endswith("noise")  # whose gradient is of the drawn noise
        ]
        # As a whole, since where a ReLU's input is within rounding of 0 a single entry may jump.
        norm = lambda arrays: float(np.sqrt(sum(np.square(x).sum() for x in arrays)))
        found[f"gradients of {net}"] = norm(a - b for a, b in pairs) / norm(b for _, b in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--games", default=",".join(SMALL), help=", ".join(CASES))
    parser.add_argument("--twin", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.twin:
        with np.load(options.twin) as stored:
            data = dict(stored)
        print(json.dumps(theirs(json.loads(str(data.pop("request"))), data)))
        return
    from train_speed import twin_options

    rows, worst = [], 0.0
    for game in options.games.split(","):
        data = ours(game)
        for joined in (False, True):
            twin = twin_options(load_config(game), CASES[game].resolution)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "data.npz")
                np.savez(file, request=json.dumps({"options": twin, "joined": joined}), **data)
                command = [options.torch_python, __file__, "--twin", str(file)]
                answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(answer.splitlines()[-1])
            worst = max(worst, *found.values())
            rows += [
                [game, "joined" if joined else "plain", name, f"{value:.1e}"] for name, value in found.items()
            ]
    print(table(rows, ["game", "twin", "of", "largest difference"]))
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
