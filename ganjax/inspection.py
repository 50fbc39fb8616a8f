"""What a config costs, from the compiled step: parameters, FLOPs, bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.setup import Setup
from ganjax.state import count_parameters
from ganjax.step import train_step

LOPSIDED = 10.0  # parameters of one network over the other's


def step_costs(config: ConfigDict, setup: Setup) -> dict[str, Any]:
    """Parameters of each network, FLOPs of a step over all devices, and bytes on each device."""
    build = setup.build
    game = dataclasses.replace(
        build.game,
        gen=build.game.gen.clone(axis_name=None),
        dis=build.game.dis.clone(axis_name=None),
        axis_name=None,
    )
    share = config.train.batch_size // len(setup.devices)

    def one(state: Any, data: Any) -> Any:
        return train_step(game, state, build.deliver(data, state, jnp.arange(share, dtype=jnp.int32)))

    state = build.shapes()
    data = (setup.dataset.images, setup.dataset.labels)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
    compiled = jax.jit(one, donate_argnums=0).lower(state, shapes).compile()
    costs = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    gen, dis = count_parameters(state.gen.params), count_parameters(state.dis.params)
    result: dict[str, Any] = {
        "parameters": {"gen": gen, "dis": dis},
        "flops_per_step": float(costs.get("flops", 0.0)) * len(setup.devices),
        "devices": len(setup.devices),
        "bytes": {
            "state": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
            "data": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)),
            "activations": int(memory.temp_size_in_bytes) if memory else None,
        },
    }
    if max(gen, dis) > LOPSIDED * min(gen, dis):
        big, small = ("G", "D") if gen > dis else ("D", "G")
        result["warning"] = (
            f"{big} has {max(gen, dis) / min(gen, dis):.0f} times the parameters of {small}: one network may "
            "overpower the other (lesson 1, capacity)"
        )
    return result
