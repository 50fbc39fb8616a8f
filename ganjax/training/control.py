"""Values that change across steps besides the weights: noise, augmentation strength, balance, the average of G."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ganjax.data.augment import NOISE_SCHEDULES, ada_update, transform
from ganjax.data.images import Images
from ganjax.losses.penalties import lecam_update
from ganjax.training.state import GanState

Tree = Any
Metrics = dict[str, jax.Array]
ADA_EVERY = 4  # steps between two moves of ADA's p (Karras et al. 2020)
ACCURACY_DECAY = 0.9  # of D's running accuracy, which the adaptive balance reads


def initial_control(*, ada: bool, lecam: bool, path_length: bool, balance: bool) -> dict[str, jax.Array]:
    """Returns the control values that the techniques in use need, at their start."""
    start: dict[str, float] = {}
    if ada:
        start |= {"ada/p": 0.0, "ada/sign": 0.0}
    if lecam:
        start |= {"lecam/real": 0.0, "lecam/fake": 0.0}
    if path_length:
        start |= {"path_length/mean": 0.0}
    if balance:
        start |= {"balance/accuracy": 0.5, "rest/dis": 0.0, "rest/gen": 0.0}
    control = {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}
    return {**control, "fault/dis": jnp.asarray(-1, jnp.int32), "fault/gen": jnp.asarray(-1, jnp.int32)}


def make_transform(
    policy: tuple[str, ...], *, color_share: float, noise: str | None, noise_steps: float
) -> Callable[[jax.Array, Images, GanState], Images]:
    """Returns the function `data.augment.transform` for D's inputs, at the strengths that the state of the run gives.

    Args:
      policy: the parts of `augment.policy`.
      color_share: ADA's share of color transforms.
      noise: the schedule of the noise, a key of `NOISE_SCHEDULES` or `ada`; None for no noise.
      noise_steps: the number of steps after which the schedule is at its end.
    """

    def noise_level(state: GanState) -> jax.Array:
        if noise == "ada":
            return jnp.minimum(state.control["ada/p"], 1.0)
        return NOISE_SCHEDULES[str(noise)](state.step.astype(jnp.float32) / max(1.0, noise_steps))

    def of_state(keys: jax.Array, images: Images, state: GanState) -> Images:
        return transform(
            keys,
            images,
            policy,
            p=state.control.get("ada/p"),
            color_share=color_share,
            noise_std=state.hyper["noise/std"] * noise_level(state) if noise else None,
        )

    return of_state


def make_control_update(
    *,
    ada_target: float,
    ada_images: int,
    ada_speed_kimg: float,
    planned_p: Callable[[jax.Array], jax.Array] | None,
    balance: tuple[float, float],
) -> Callable[[GanState, Metrics], dict[str, jax.Array]]:
    """Returns the function (state, metrics of this step) → the control values of the next step.

    Args:
      ada_target, ada_speed_kimg: as for `ada_update`.
      ada_images: the number of reals that D gets in a step.
      planned_p: the function from a step to ADA's p where it follows a plan, else None.
      balance: the accuracies of D below which G rests, and above which D rests.
    """

    def update_control(state: GanState, metrics: Metrics) -> dict[str, jax.Array]:
        control = dict(state.control)
        if "ada/p" in control and planned_p is not None:
            control["ada/p"] = planned_p(state.step + 1)
        elif "ada/p" in control:
            sign = control["ada/sign"] + metrics["dis/sign_real"] / ADA_EVERY
            due = (state.step + 1) % ADA_EVERY == 0
            moved = ada_update(
                control["ada/p"],
                sign,
                target=ada_target,
                images_per_update=ada_images * ADA_EVERY,
                speed_kimg=ada_speed_kimg,
            )
            control["ada/p"] = jnp.where(due, moved, control["ada/p"])
            control["ada/sign"] = jnp.where(due, jnp.zeros_like(sign), sign)
        if "lecam/real" in control:
            averages = (control["lecam/real"], control["lecam/fake"])
            averages = lecam_update(averages, metrics["logit/real"], metrics["logit/fake"])
            control["lecam/real"], control["lecam/fake"] = averages
        if "path_length/mean" in control:
            control["path_length/mean"] = metrics["gen/path_length_mean"]
        if "balance/accuracy" in control:
            accuracy = control["balance/accuracy"]
            accuracy = ACCURACY_DECAY * accuracy + (1 - ACCURACY_DECAY) * metrics["dis/accuracy"]
            control["balance/accuracy"] = accuracy
            control["rest/dis"] = (accuracy > balance[1]).astype(jnp.float32)
            control["rest/gen"] = (accuracy < balance[0]).astype(jnp.float32)
        return control

    return update_control


def make_average(*, images: int, half_life: float, rampup: float) -> Callable[[GanState], Tree]:
    """Returns the function state after the step → G's averaged variables (Karras et al. 2018; StyleGAN2's half-life).

    Parameters and batch statistics are averaged alike, so that they stay a pair; spectral vectors and StyleGAN2's mean
    style, which is an average already, are G's own, as in the authors' code.

    Args:
      images: the number of images that G makes in a step.
      half_life: the half-life in images; 0 averages nothing.
      rampup: the share of the images made that bounds the half-life; 0 is off.
    """

    @jax.named_scope("average")
    def average(state: GanState) -> Tree:
        now = state.gen.variables
        if not half_life:
            return now
        seen = state.step.astype(jnp.float32) * images
        life = jnp.minimum(half_life, rampup * seen) if rampup else jnp.asarray(half_life, jnp.float32)
        beta = jnp.exp2(-images / jnp.maximum(life, 1e-3))

        def blend(path: Any, old: jax.Array, new: jax.Array) -> jax.Array:
            return new if getattr(path[-1], "key", "") == "mean_style" else new + (old - new) * beta

        return {
            name: value
            if name == "spectral"
            else jax.tree_util.tree_map_with_path(blend, state.ema[name], value)
            for name, value in now.items()
        }

    return average
