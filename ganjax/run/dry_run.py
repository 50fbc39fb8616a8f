"""The costs of a config: parameters, FLOPs and activations of each network, and the bytes of the compiled step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from ganjax.config import plugin_record, plugins
from ganjax.config.options import BY_KEY
from ganjax.config.recipe import flatten, to_json
from ganjax.models.layers import native, plain
from ganjax.models.layers.equalized import EqualConv, EqualDense
from ganjax.models.stylegan2 import ModulatedConv
from ganjax.run.report.format import duration
from ganjax.run.setup import Setup, prepare
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import Stages
from ganjax.training.build import batches_per_step, build
from ganjax.training.forward import GAN
from ganjax.training.state import GanState, NetState, count_parameters
from ganjax.training.step import train_step

# Layers whose outputs count as activations.
LAYERS = (plain.Dense, plain.Conv, EqualDense, EqualConv, ModulatedConv, nn.BatchNorm, nn.GroupNorm)
LOPSIDED = 10.0  # one network's parameters or FLOPs over the other's


def told(config: ConfigDict, *, as_json: bool, everything: bool = False) -> str:
    """Returns the facts of a run, without running it: in words (see `in_words`) or as one JSON object."""
    stages = Stages(sys.stderr)
    with stages(f"Loading {config.data.name}"):
        setup = prepare(config)
        check_plugins(config, setup)
    with stages("Compiling the training step"):
        facts = describe(config, setup)
    return json.dumps(facts) if as_json else in_words(config, setup, facts, everything=everything)


def describe(config: ConfigDict, setup: Setup) -> dict[str, Any]:
    """Returns the facts that `--dry-run` prints: config, parameters, FLOPs a step and bytes, from the compiled step."""
    changed = {key: value for key, value in flatten(config).items() if BY_KEY[key].default != value}
    return {"config": to_json(config), **step_costs(config, setup), "changed": changed}


def check_plugins(config: ConfigDict, setup: Setup) -> None:
    """Traces a step where the config uses plugins, which finds what does not fit before anything is compiled.

    Raises:
      UserError: the code of a plugin failed, or gave something of another shape or type; the message names its line.
    """
    if not plugin_record.used(flatten(config)):
        return
    with plugins.blamed():
        gan, one, state, shapes = step_alone(config, setup)
        if place := plugins.ENTRIES.get(("model", config.model.name)):
            _check_networks(f"{place}: the model {config.model.name!r}", config, setup, gan, state)
        jax.eval_shape(one, state, shapes)


def _check_networks(what: str, config: ConfigDict, setup: Setup, gan: GAN, state: GanState) -> None:
    """Raises a `UserError` where the networks of a plugin give something of another shape or type than they must."""
    *_, last = setup.dataset.images.shape
    sides = [(side, side, last) if side else (last,) for side in setup.build.sides]
    images = tuple(jax.ShapeDtypeStruct((2, *side), jnp.float32) for side in sides)
    latents = jax.ShapeDtypeStruct((2, config.model.latent_dim), jnp.float32)
    made = jax.eval_shape(lambda s, z: _forward(gan.gen.net, s, z)[0], state.gen, latents)
    if plugins.shown(made) != plugins.shown(images):
        raise UserError(
            f"{what}: for 2 samples G gives a {plugins.shown(images)}, coarse to fine; it gave {plugins.shown(made)}."
        )
    packed = tuple(jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] * gan.packing), x.dtype) for x in images)
    logits = jax.eval_shape(lambda s, x: _forward(gan.dis.net, s, x)[0], state.dis, packed)
    if plugins.shown(logits) != "float32 [2]":
        raise UserError(f"{what}: for 2 samples D gives float32 [2]; it gave {plugins.shown(logits)}.")


def step_costs(config: ConfigDict, setup: Setup) -> dict[str, Any]:
    """Returns the costs of each network, FLOPs of a step over all devices, and bytes on each device.

    They count XLA's operations alone. XLA cannot count the work of native kernels, which make fewer products, nor, on a
    GPU, of cuDNN's convolutions.
    """
    gan, one, state, shapes = step_alone(config, setup)
    with native.portable():
        compiled = jax.jit(one, donate_argnums=0).lower(state, shapes).compile()
        networks = network_costs(gan, state, config.model.latent_dim)
    memory = compiled.memory_analysis()
    result: dict[str, Any] = {
        "parameters": {name: costs["parameters"] for name, costs in networks.items()},
        "networks": networks,
        "flops_per_step": _flops(compiled) * len(setup.devices),
        "devices": len(setup.devices),
        "bytes": {
            "state": _bytes(state),
            "data": _bytes(shapes),
            "activations": int(memory.temp_size_in_bytes) if memory else None,
        },
    }
    if warning := lopsided(networks):
        result["warning"] = warning
    return result


def step_alone(config: ConfigDict, setup: Setup) -> tuple[GAN, Callable[..., Any], GanState, Any]:
    """Returns the GAN of one device, its step, and the shapes of state and data.

    The step is (state, data) → (state, metrics), without mapping.
    """
    gan = build(config, setup.dataset, axis_name=None).gan
    share = config.train.batch_size // len(setup.devices)

    def one(state: GanState, data: Any) -> Any:
        index = jnp.arange(share, dtype=jnp.int32)
        return train_step(gan, state, setup.build.make_batch(data, state.seed, state.step, index))

    state = setup.build.shapes()
    lead = (batches_per_step(config), share) if setup.dataset.streams else (len(setup.dataset),)
    data = (setup.dataset.images, setup.dataset.labels)
    shapes = tuple(None if x is None else jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype) for x in data)
    return gan, one, state, shapes


def network_costs(gan: GAN, state: GanState, latent_dim: int) -> dict[str, dict[str, float]]:
    """Returns, for `gen` and `dis`, the parameters, and the FLOPs and activation bytes of one forward pass, per sample.

    Activations are the outputs of `LAYERS`, most of what a backward pass without rematerialisation keeps. With
    packing, D's are those of one packed sample. Nothing is compiled.
    """
    latents = jax.ShapeDtypeStruct((gan.packing, latent_dim), jnp.float32)
    fakes = jax.eval_shape(lambda s, z: _forward(gan.gen.net, s, z)[0], state.gen, latents)
    packed = tuple(
        jax.ShapeDtypeStruct((1, *x.shape[1:-1], x.shape[-1] * gan.packing), x.dtype) for x in fakes
    )
    single = jax.ShapeDtypeStruct((1, latent_dim), jnp.float32)
    return {
        "gen": _network_cost(lambda s, z: _forward(gan.gen.net, s, z), state.gen, single),
        "dis": _network_cost(lambda s, x: _forward(gan.dis.net, s, x), state.dis, packed),
    }


def _forward(net: nn.Module, state: NetState, inputs: Any) -> tuple[Any, Any]:
    """Returns the network's output, and the outputs of each of its layers."""
    output, kept = net.apply(
        state.variables,
        inputs,
        jnp.zeros(jax.tree.leaves(inputs)[0].shape[0], jnp.int32),
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, LAYERS),
        mutable=["intermediates"],
    )
    calls = traverse_util.flatten_dict(kept.get("intermediates", {}))
    return output, {path: outputs[0] for path, outputs in calls.items() if path[-1] == "__call__"}


def _network_cost(forward: Callable[..., tuple[Any, Any]], state: NetState, inputs: Any) -> dict[str, float]:
    _, layers = jax.eval_shape(forward, state, inputs)
    lowered = jax.jit(lambda s, x: forward(s, x)[0]).lower(state, inputs)
    return {
        "parameters": count_parameters(state.params),
        "flops": _flops(lowered),
        "activation_bytes": _bytes(layers),
    }


def lopsided(networks: dict[str, dict[str, float]]) -> str:
    """Returns a warning if one network has over ten times the other's parameters or FLOPs, else an empty string."""
    for what, unit in (("parameters", "parameters"), ("flops", "FLOPs")):
        gen, dis = (max(networks[name][what], 1.0) for name in ("gen", "dis"))
        if max(gen, dis) > LOPSIDED * min(gen, dis):
            big, small = ("G", "D") if gen > dis else ("D", "G")
            return (
                f"{big} has {max(gen, dis) / min(gen, dis):.0f} times the {unit} of {small}: one network may "
                f"overpower the other (lesson 1, capacity); see {'gen' if small == 'G' else 'dis'}.width and depth"
            )
    return ""


def _flops(stage: Any) -> float:
    return float((stage.cost_analysis() or {}).get("flops", 0.0))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def in_words(config: ConfigDict, setup: Setup, facts: dict[str, Any], *, everything: bool = False) -> str:
    """Returns what `describe` found as text: what a run will cost, then the options that differ from the defaults.

    Args:
      config, setup: those of the run.
      facts: the result of `describe`.
      everything: True for all options, and the FLOPs and activations of each network.
    """
    size, steps, batch = facts["bytes"], config.train.steps, config.train.batch_size
    dataset, shape = setup.dataset, setup.dataset.images.shape[1:]
    rate = matrix_rate(setup.devices)
    kept = config.checkpoint.keep * size["state"]
    costs: list[tuple[str, object]] = [
        ("data", f"{len(dataset):,} × {'×'.join(map(str, shape))}, {_classes(setup)}"),
        (
            "networks",
            " and ".join(f"{n.upper()[0]} {count:,}" for n, count in facts["parameters"].items())
            + " parameters",
        ),
        ("a step", f"{batch} images, {facts['flops_per_step'] / 1e9:.3g} GFLOP, {_devices(setup)}"),
        ("memory", f"{sum(value or 0 for value in size.values()) / 1e6:,.0f} MB on each device"),
        ("the run", f"{steps:,} steps, {steps * setup.build.images_per_step:,} images of the data"),
        (
            "time",
            f"{duration(steps * facts['flops_per_step'] / rate)} at the least: at the {rate / 1e9:,.0f} GFLOP/s of "
            "large matrix products here",
        ),
        ("writes", f"about {kept / 1e6:,.0f} MB of checkpoints (the newest {config.checkpoint.keep})"),
    ]
    sections: dict[str, list[tuple[str, object]]] = {"What it costs": costs}
    if everything:
        for name, of in (("G", facts["networks"]["gen"]), ("D", facts["networks"]["dis"])):
            sections[f"{name}, forward, one sample"] = [
                ("parameters", of["parameters"]),
                ("MFLOP", round(of["flops"] / 1e6, 3)),
                ("activations, kB", round(of["activation_bytes"] / 1e3, 1)),
            ]
        sections["MB on each device"] = [(name, round((value or 0) / 1e6, 1)) for name, value in size.items()]
    options = flatten(facts["config"]) if everything else facts["changed"]
    title = "Options" if everything else "Options that differ from the defaults (--all shows every one)"
    sections[title] = sorted(options.items())
    text = aligned(sections)
    return f"{text}\n\nWarning: {facts['warning']}." if "warning" in facts else text


def matrix_rate(devices: Sequence[jax.Device]) -> float:
    """Measures the FLOP/s of float32 matrix products of side 1,024 over these devices, in under a second."""
    with jax.default_device(devices[0]):
        a = jnp.ones((1024, 1024), jnp.float32)
        product = jax.jit(lambda a: a @ a)
        product(a).block_until_ready()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            product(a).block_until_ready()
            seconds.append(time.perf_counter() - start)
    # CPU devices share the processor, of which one takes all.
    return 2 * 1024**3 / min(seconds) * (1 if devices[0].platform == "cpu" else len(devices))


def _classes(setup: Setup) -> str:
    return f"{setup.build.classes} classes" if setup.build.classes else "no labels used"


def _devices(setup: Setup) -> str:
    count = len(setup.devices)
    return f"{count} {setup.devices[0].platform} device{'s' if count > 1 else ''}"


def aligned(sections: Mapping[str, Iterable[tuple[str, object]]]) -> str:
    """Returns aligned text: each section's title, then its names and values in two columns.

    Integers get thousands separators, floats 6 significant digits; all else is shown by `str`.
    """
    rows = {title: list(section) for title, section in sections.items()}
    width = max((len(name) for section in rows.values() for name, _ in section), default=0)
    blocks = []
    for title, section in rows.items():
        lines = [title, *(f"  {name:<{width}}  {_shown(value)}".rstrip() for name, value in section)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
