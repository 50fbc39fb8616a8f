"""Forward passes of an update: fakes, D's outputs on them and on reals, and the inputs of the losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ganjax.data.images import Images, concatenate, pack, unpack
from ganjax.losses.objective import LossInputs, Objective, Plain
from ganjax.runtime.keys import Stream, stream_keys
from ganjax.training.optim import Optimizer
from ganjax.training.state import GanState

Metrics = dict[str, jax.Array]
Tree = Any


@struct.dataclass
class Inputs:
    """Data of one update. Gradient accumulation cuts each array into equal parts.

    Attributes:
      keys: the keys [n], one per image of the batch.
      reals: a tuple of [n, ...] float32 in [-1, 1], lowest resolution first.
      labels: the labels [n] int32, or None.
    """

    keys: jax.Array
    reals: Images
    labels: jax.Array | None


@struct.dataclass
class Variables:
    """Parameters and every other collection of one network."""

    params: Tree
    stats: Tree


@dataclass(frozen=True)
class DisOutput:
    """Output of D: its logits [N] float32, and by name its sown arrays (`features`, `class_logits`), if asked for."""

    logits: jax.Array
    sown: dict[str, jax.Array]


class Forward(Protocol):
    """Type of a forward pass: (gan, state, the updated network's variables, inputs) → (its loss's inputs, statistics).

    The statistics are the new ones. With `update_stats` spectral vectors and batch statistics move; without it batch
    statistics alone do.
    """

    def __call__(
        self, gan: GAN, state: GanState, own: Variables, inputs: Inputs, *, update_stats: bool
    ) -> tuple[LossInputs, Tree]: ...


@dataclass(frozen=True)
class Player:
    """One of the two networks and what updates it.

    Attributes:
      name: one of `gen` and `dis`.
      net: the network (`ganjax.models`).
      optimizer: its optimiser.
      objective: the sum that it minimises.
      forward: one of `gen_forward` and `dis_forward`.
      steps: the number of its updates in a step.
    """

    name: str
    net: nn.Module
    optimizer: Optimizer
    objective: Objective
    forward: Forward
    steps: int = 1


@dataclass(frozen=True)
class GAN:
    """Static values of a step, bound once by `training.build`.

    Attributes:
      gen, dis: the two networks, each with its optimiser and objective.
      latents: the function from keys [n] to latent vectors [n, Z].
      transform: the function (keys [n], images, state) → images: augmentation and noise of D's inputs.
      update_control: the function (state, metrics) → the new control values after a step.
      average: the function (state) → the new `ema`.
      rolled: True if several updates of a network are a loop on the device, and so compiled but once.
      accumulate: the number of parts in which the batch of an update is computed.
      packing: the number of samples that D judges together.
      joint: True if D may judge reals and fakes in one pass (not with batch statistics in D).
      group: the number of neighbours that D compares; it judges only whole groups in one pass.
      fresh_reals: True if G's updates have reals of their own, else they take those of D's last update.
      shared_forward: True if G's update takes the fakes, and D's outputs on them, of D's update.
      axis_name: the name of the devices' axis; None for a single device without mapping.
    """

    gen: Player
    dis: Player
    latents: Callable[[jax.Array], jax.Array]
    transform: Callable[[jax.Array, Images, GanState], Images]
    update_control: Callable[[GanState, Metrics], dict[str, jax.Array]]
    average: Callable[[GanState], Tree]
    rolled: bool = False
    accumulate: int = 1
    packing: int = 1
    joint: bool = True
    group: int = 1
    fresh_reals: bool = False
    shared_forward: bool = False
    axis_name: str | None = "devices"

    def with_nets(self, gen: nn.Module, dis: nn.Module) -> GAN:
        """Returns the same with other networks."""
        return dataclasses.replace(
            self, gen=dataclasses.replace(self.gen, net=gen), dis=dataclasses.replace(self.dis, net=dis)
        )


def dis_forward(
    gan: GAN, state: GanState, own: Variables, inputs: Inputs, *, update_stats: bool
) -> tuple[LossInputs, Tree]:
    """Gives D's loss fresh fakes, without a gradient into G. D's statistics move."""
    fakes, _ = generate(gan, state.gen, inputs.keys, inputs.labels, update_stats=False)
    fakes = jax.lax.stop_gradient(fakes)
    return compare(gan, gan.dis.objective, state, own, inputs, fakes, update_stats=update_stats)


def gen_forward(
    gan: GAN, state: GanState, own: Variables, inputs: Inputs, *, update_stats: bool
) -> tuple[LossInputs, Tree]:
    """Gives G's loss fakes with their gradient, judged by a D that stays as it is. G's statistics move."""
    fakes, stats = generate(gan, own, inputs.keys, inputs.labels, update_stats=update_stats)
    found, _ = compare(gan, gan.gen.objective, state, state.dis, inputs, fakes, update_stats=False)

    def restyle(offsets: jax.Array) -> Images:
        n = offsets.shape[0]
        labels = None if inputs.labels is None else inputs.labels[:n]
        return generate(gan, own, inputs.keys[:n], labels, update_stats=False, style_offsets=offsets)[0]

    return dataclasses.replace(found, params=own.params, restyle=restyle), stats


def generate(
    gan: GAN, gen: Any, keys: jax.Array, labels: jax.Array | None, *, update_stats: bool, **options: Any
) -> tuple[Images, Tree]:
    """Returns G's images for the keys [n], in training mode, and its statistics after that.

    Args:
      gan: the static values of the step.
      gen: an object with `params` and `stats` of G.
      keys: the keys [n], of which the latent vectors are drawn.
      labels: the labels [n] int32, or None.
      update_stats: True if spectral vectors move too.
      **options: further arguments of G.
    """
    latents = gan.latents(stream_keys(keys, Stream.LATENTS))
    images, moved = gan.gen.net.apply(
        {"params": gen.params, **gen.stats},
        latents,
        labels,
        train=True,
        mutable=mutable_collections(gen.stats, update_stats),
        **options,
    )
    return images, {**gen.stats, **moved}


def compare(
    gan: GAN,
    objective: Objective,
    state: GanState,
    dis: Any,
    inputs: Inputs,
    fakes: Images,
    *,
    update_stats: bool,
) -> tuple[LossInputs, Tree]:
    """Runs D on reals and fakes after the same transforms. Returns the inputs of a loss, and D's new statistics.

    Args:
      gan: the static values of the step.
      objective: the objective, which says if the reals, and D's sown arrays, are needed.
      state: the state of the run.
      dis: an object with `params` and `stats` of D.
      inputs: the inputs of the update.
      fakes: G's images, a tuple of [n, ...].
      update_stats: True if D's spectral vectors move.
    """
    plain_reals, plain_fakes = pack(inputs.reals, gan.packing), pack(fakes, gan.packing)

    def transformed(images: Images, stream: Stream) -> Images:
        with jax.named_scope("augment"):
            keys = stream_keys(inputs.keys, stream)
            return pack(gan.transform(keys, unpack(images, gan.packing), state), gan.packing)

    reals, fakes = transformed(plain_reals, Stream.REALS), transformed(plain_fakes, Stream.FAKES)
    batches = [reals, fakes] if objective.needs_reals else [fakes]
    outputs, stats = discriminate(
        gan, dis, batches, inputs.labels, update_stats=update_stats, sow=objective.needs_sown
    )
    of_reals, of_fakes = (outputs[0] if objective.needs_reals else None), outputs[-1]
    judge = lambda images: logits_of(gan, dis, images, inputs.labels)
    found = LossInputs(
        reals=reals,
        fakes=fakes,
        real_logits=of_reals.logits if of_reals else None,
        fake_logits=of_fakes.logits,
        real_sown=of_reals.sown if of_reals else {},
        fake_sown=of_fakes.sown,
        labels=inputs.labels,
        params=dis.params,
        restyle=None,
        style_shape=getattr(gan.gen.net, "style_shape", None),
        dis=judge,
        plain_reals=Plain(plain_reals, lambda images: judge(transformed(images, Stream.REALS))),
        plain_fakes=Plain(plain_fakes, lambda images: judge(transformed(images, Stream.FAKES))),
        keys=stream_keys(inputs.keys, Stream.TERMS)[:: gan.packing],
        step=state.step,
        control=state.control,
        hyper=state.hyper,
        axis_name=gan.axis_name,
    )
    return found, stats


def logits_of(gan: GAN, dis: Any, images: Images, labels: jax.Array | None) -> jax.Array:
    """Returns D's logits [N] float32 of one batch; its spectral vectors stay."""
    (output,), _ = discriminate(gan, dis, [images], labels, update_stats=False)
    return output.logits


def discriminate(
    gan: GAN,
    dis: Any,
    batches: list[Images],
    labels: jax.Array | None,
    *,
    update_stats: bool,
    sow: bool = False,
) -> tuple[list[DisOutput], Tree]:
    """Returns D's output for each batch, from one pass where D allows it, and D's new statistics.

    Args:
      gan: the static values of the step.
      dis: an object with `params` and `stats` of D.
      batches: the one or two batches, each a tuple of [N, ...].
      labels: the labels [N] of each batch: a fake has the class of the real in its place; None without classes.
      update_stats: True if spectral vectors move.
      sow: True to keep D's sown arrays.
    """
    sizes = [batch[-1].shape[0] for batch in batches]
    joint = len(batches) > 1 and gan.joint and all(size % gan.group == 0 for size in sizes)
    if joint and labels is not None:
        labels = jnp.concatenate([labels] * len(batches))
    stats, outputs = dis.stats, []
    for images in [concatenate(batches)] if joint else batches:
        logits, new = gan.dis.net.apply(
            {"params": dis.params, **stats},
            images,
            labels,
            train=True,
            mutable=[*mutable_collections(stats, update_stats), *(["intermediates"] if sow else [])],
        )
        update_stats = update_stats and not gan.shared_forward  # then once for both passes
        sown = {name: values[0] for name, values in new.get("intermediates", {}).items()}
        stats = {**stats, **{name: value for name, value in new.items() if name != "intermediates"}}
        outputs.append(DisOutput(logits, sown))
    if joint:
        (both,), split = outputs, sizes[0]
        outputs = [
            DisOutput(both.logits[part], {name: x[part] for name, x in both.sown.items()})
            for part in (slice(None, split), slice(split, None))
        ]
    return outputs, stats


def mutable_collections(stats: Tree, update_stats: bool) -> list[str]:
    """Names the collections that a pass may change. In training batch statistics must change, spectral vectors may."""
    return [name for name in stats if update_stats or name == "batch_stats"]
