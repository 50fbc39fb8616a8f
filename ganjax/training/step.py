"""The train step: a pure function `(state, batch) -> (state, metrics)` for one device.

Randomness belongs to images: every key is `fold_in(fold_in(fold_in(seed, step), purpose), image)`, with the
image's index in the global batch, so a run is the same on any number of devices, up to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from ganjax.losses.objective import Images, Objective, Round, concatenate, pack, unpack
from ganjax.runtime.keys import image_keys, purpose_keys
from ganjax.training.accumulate import accumulated, mean_over_devices
from ganjax.training.optim import Optimizer
from ganjax.training.state import GanState, NetState

Metrics = dict[str, jax.Array]
Tree = Any


@struct.dataclass
class Batch:
    """One step's share of one device.

    Attributes:
      reals: tuple of [U, n, ...] float32 in [-1, 1], lowest resolution first; U = batches of a step: one for
        each update of D, and with `fresh_reals` one for each of G.
      labels: [U, n] int32, or None; networks made for no classes ignore them.
      index: [n] int32, the images' places in the global batch.
    """

    reals: Images
    labels: jax.Array | None
    index: jax.Array


@dataclass(frozen=True)
class Game:
    """Everything static about a step, bound once by the factory.

    Attributes:
      gen, dis: the networks (`ganjax.models`).
      gen_optimizer, dis_optimizer: their optimisers.
      gen_objective, dis_objective: what they minimise.
      latents: keys [n] → latent vectors [n, Z].
      transform: (keys [n], images, state) → images: noise and augmentation of D's inputs.
      steer: (state, metrics) → the new `control` after a step.
      average: (state) → the new `ema`.
      dis_steps, gen_steps: updates of each network in a step.
      rolled: whether several updates of a network are a loop on the device, and so compiled but once.
      accumulate: parts in which an update's batch is computed.
      packing: samples that D judges together.
      joint: whether D may judge reals and fakes in one pass (not with batch statistics in D).
      group: neighbours that D compares; it judges in one pass only what are whole groups.
      fresh_reals: whether G's updates have reals of their own, else those of D's last.
      simultaneous: whether G's update takes the fakes, and D's judgement of them, of D's update.
      axis_name: of the devices; None for a single device without mapping.
    """

    gen: nn.Module
    dis: nn.Module
    gen_optimizer: Optimizer
    dis_optimizer: Optimizer
    gen_objective: Objective
    dis_objective: Objective
    latents: Callable[[jax.Array], jax.Array]
    transform: Callable[[jax.Array, Images, GanState], Images]
    steer: Callable[[GanState, Metrics], dict[str, jax.Array]]
    average: Callable[[GanState], Tree]
    dis_steps: int = 1
    gen_steps: int = 1
    rolled: bool = False
    accumulate: int = 1
    packing: int = 1
    joint: bool = True
    group: int = 1
    fresh_reals: bool = False
    simultaneous: bool = False
    axis_name: str | None = "devices"


def train_step(game: Game, state: GanState, batch: Batch) -> tuple[GanState, Metrics]:
    """`dis_steps` updates of D, then `gen_steps` of G, the control values and the average of G.

    Args:
      game: what is static.
      state: the same on every device.
      batch: this device's images.

    Returns:
      The state after the step, equal on every device, and metrics averaged over devices.
    """
    if game.simultaneous:
        first: Any = jax.tree.map(lambda x: x[0], (batch.reals, batch.labels))
        state, metrics = update_both(game, state, first[0], first[1], batch.index)
    else:
        state, metrics = update_often("dis", game, state, batch, game.dis_steps)
        state, metrics_gen = update_often("gen", game, state, batch, game.gen_steps)
        metrics |= metrics_gen
    state = dataclasses.replace(state, control=game.steer(state, metrics))
    state = dataclasses.replace(state, step=state.step + 1)
    return dataclasses.replace(state, ema=game.average(state)), metrics


def update_often(
    name: str, game: Game, state: GanState, batch: Batch, count: int
) -> tuple[GanState, Metrics]:
    """`count` updates of one network, the metrics of the last; each of D's has its own reals."""

    def once(state: GanState, i: Any) -> tuple[GanState, Metrics]:
        last = game.dis_steps + i if game.fresh_reals else game.dis_steps - 1
        place, purpose = (i, 2 * i) if name == "dis" else (last, 2 * i + 1)
        given: Any = jax.tree.map(lambda x: x[place], (batch.reals, batch.labels))
        return update_net(name, game, state, given[0], given[1], batch.index, purpose)

    if game.rolled and count > 1:
        state, stacked = jax.lax.scan(once, state, jnp.arange(count))
        return state, jax.tree.map(lambda x: x[-1], stacked)
    for i in range(count):
        state, metrics = once(state, i)
    return state, metrics


def update_net(
    name: str,
    game: Game,
    state: GanState,
    reals: Images,
    labels: jax.Array | None,
    index: jax.Array,
    purpose: int | jax.Array,
) -> tuple[GanState, Metrics]:
    """One update of the network `name` (`gen` or `dis`), with gradients averaged over parts and devices."""
    net: NetState = getattr(state, name)
    objective: Objective = getattr(game, f"{name}_objective")
    play = {"gen": play_gen, "dis": play_dis}[name]
    keys = image_keys(state.hyper["seed"], state.step, purpose, index)

    def loss(params: Tree, stats: Tree, part: tuple[Any, ...], *, move: bool) -> tuple[jax.Array, Any]:
        round_, new_stats = play(game, objective, state, params, stats, *part, move=move)
        total, terms = objective(round_)
        return total, (new_stats, measure(name, total, terms, round_))

    with jax.named_scope(f"update_{name}"):
        grads, stats, metrics = accumulated(loss, net, (keys, reals, labels), game.accumulate)
    return apply_gradients(name, game, state, *mean_over_devices(grads, metrics, stats, game.axis_name))


def update_both(
    game: Game, state: GanState, reals: Images, labels: jax.Array | None, index: jax.Array
) -> tuple[GanState, Metrics]:
    """One update of D and one of G from the same fakes and D's one judgement of them.

    Both gradients are taken at the parameters before the step, where alternating updates show G the new D (and make
    fakes of their own). D judges reals and fakes apart: so G's gradient goes back through the fakes alone.
    """
    keys, gen, dis = image_keys(state.hyper["seed"], state.step, 0, index), state.gen, state.dis
    make = lambda params: generate(game, params, gen.stats, keys, labels, move=True)
    fakes, pull_gen, gen_stats = jax.vjp(make, gen.params, has_aux=True)
    apart = dataclasses.replace(game, joint=False)
    seen = game.dis_objective.needs_seen or game.gen_objective.needs_seen
    objective = dataclasses.replace(game.dis_objective, needs_seen=seen)

    def losses(params: Tree, fakes: Images) -> tuple[tuple[jax.Array, jax.Array], Any]:
        round_, stats = play_round(
            apart, objective, state, params, dis.stats, keys, reals, fakes, labels, move=True
        )
        total, terms = game.dis_objective(round_)
        gen_total, gen_terms = game.gen_objective(round_)
        told = (measure("dis", total, terms, round_), measure("gen", gen_total, gen_terms, round_))
        return (total, gen_total), (stats, *told)

    totals, pull, (dis_stats, *told) = jax.vjp(losses, dis.params, fakes, has_aux=True)
    one, zero = jnp.ones_like(totals[0]), jnp.zeros_like(totals[0])
    grads = {"dis": pull((one, zero))[0], "gen": pull_gen(pull((zero, one))[1])[0]}
    stats = {"dis": dis_stats, "gen": gen_stats}
    metrics: Metrics = {}
    for name, numbers in zip(("dis", "gen"), told, strict=True):
        means = mean_over_devices(grads[name], numbers, stats[name], game.axis_name)
        state, moved = apply_gradients(name, game, state, *means)
        metrics |= moved
    return state, metrics


def apply_gradients(
    name: str, game: Game, state: GanState, grads: Tree, metrics: Metrics, stats: Tree
) -> tuple[GanState, Metrics]:
    """The state with the network `name` moved by its optimiser, and its metrics with rate and gradient norm."""
    net: NetState = getattr(state, name)
    optimizer: Optimizer = getattr(game, f"{name}_optimizer")
    with jax.named_scope("optimizer"):
        params, opt_state, rate = optimizer.update(
            grads, net.opt_state, net.params, step=state.step, peak=state.hyper[f"{name}/learning_rate"]
        )
    metrics |= {f"lr/{name}": rate, f"grad_norm/{name}": optax.tree.norm(grads)}
    state = dataclasses.replace(state, control=note_fault(state, name, metrics))
    moved = NetState(params=params, stats=stats, opt_state=opt_state)
    resting = state.control.get(f"rest/{name}")
    if resting is not None:  # the adaptive balance: a resting network keeps everything as it was
        moved = jax.tree.map(lambda new, old: jnp.where(resting > 0, old, new), moved, net)
    state = dataclasses.replace(state, gen=moved) if name == "gen" else dataclasses.replace(state, dis=moved)
    return state, metrics


def play_dis(
    game: Game,
    objective: Objective,
    state: GanState,
    params: Tree,
    stats: Tree,
    keys: jax.Array,
    reals: Images,
    labels: jax.Array | None,
    *,
    move: bool,
) -> tuple[Round, Tree]:
    """The round in which D is updated: fresh fakes, no gradient into G; D's statistics move."""
    fakes, _ = generate(game, state.gen.params, state.gen.stats, keys, labels, move=False)
    fakes = jax.lax.stop_gradient(fakes)
    round_, stats = play_round(game, objective, state, params, stats, keys, reals, fakes, labels, move=move)
    return dataclasses.replace(round_, params=params), stats


def play_gen(
    game: Game,
    objective: Objective,
    state: GanState,
    params: Tree,
    stats: Tree,
    keys: jax.Array,
    reals: Images,
    labels: jax.Array | None,
    *,
    move: bool,
) -> tuple[Round, Tree]:
    """The round in which G is updated: G's statistics move, D's stay as they are."""
    fakes, gen_stats = generate(game, params, stats, keys, labels, move=move)
    dis = state.dis
    round_, _ = play_round(
        game, objective, state, dis.params, dis.stats, keys, reals, fakes, labels, move=False
    )

    def restyle(offsets: jax.Array) -> Images:
        n = offsets.shape[0]
        told = None if labels is None else labels[:n]
        return generate(game, params, stats, keys[:n], told, move=False, style_offsets=offsets)[0]

    return dataclasses.replace(round_, params=params, restyle=restyle), gen_stats


def generate(
    game: Game,
    params: Tree,
    stats: Tree,
    keys: jax.Array,
    labels: jax.Array | None,
    *,
    move: bool,
    **options: Any,
) -> tuple[Images, Tree]:
    """G's images for the keys [n], in training mode, and its statistics after that; `options` go to G."""
    latents = game.latents(purpose_keys(keys, 0))
    variables = {"params": params, **stats}
    images, moved = game.gen.apply(
        variables, latents, labels, train=True, mutable=movable(stats, move), **options
    )
    return images, {**stats, **moved}


def play_round(
    game: Game,
    objective: Objective,
    state: GanState,
    params: Tree,
    stats: Tree,
    keys: jax.Array,
    reals: Images,
    fakes: Images,
    labels: jax.Array | None,
    *,
    move: bool,
) -> tuple[Round, Tree]:
    """D's judgement of reals and fakes after the same transforms; `move` lets its spectral vectors move."""
    sources = (pack(reals, game.packing), pack(fakes, game.packing))

    def shown(images: Images, purpose: int) -> Images:
        with jax.named_scope("augment"):
            plain = unpack(images, game.packing)
            return pack(game.transform(purpose_keys(keys, purpose), plain, state), game.packing)

    reals, fakes = shown(sources[0], 1), shown(sources[1], 2)
    batches = ([reals] if objective.needs_reals else []) + [fakes]
    judged, stats = judge(game, params, stats, batches, labels, move=move, see=objective.needs_seen)
    (fake_logits, fake_seen), (real_logits, real_seen) = (
        judged[-1],
        (judged[0] if objective.needs_reals else (None, {})),
    )

    def dis(images: Images) -> jax.Array:
        return judge(game, params, stats, [images], labels, move=False)[0][0][0]

    round_ = Round(
        reals=reals,
        fakes=fakes,
        real_logits=real_logits,
        fake_logits=fake_logits,
        real_seen=real_seen,
        fake_seen=fake_seen,
        labels=labels,
        params=params,
        restyle=None,
        style_shape=getattr(game.gen, "style_shape", None),
        dis=dis,
        before=(
            (sources[0], lambda images: dis(shown(images, 1))),
            (sources[1], lambda images: dis(shown(images, 2))),
        ),
        keys=purpose_keys(keys, 3)[:: game.packing],
        step=state.step,
        control=state.control,
        hyper=state.hyper,
        axis_name=game.axis_name,
    )
    return round_, stats


def judge(
    game: Game,
    params: Tree,
    stats: Tree,
    batches: list[Images],
    labels: jax.Array | None,
    *,
    move: bool,
    see: bool = False,
) -> tuple[list[tuple[jax.Array, Tree]], Tree]:
    """Logits of D, and with `see` what it sows, for each batch, in one pass where D allows it; and D's new statistics.

    `labels` are those of each batch: a fake is made for the class of the real in its place.
    """
    sizes = [batch[-1].shape[0] for batch in batches]
    joint = game.joint and all(size % game.group == 0 for size in sizes)
    passes = [concatenate(batches)] if joint else batches
    results: list[tuple[jax.Array, Tree]] = []
    told = labels if labels is None or not joint else jnp.concatenate([labels] * len(batches))
    for images in passes:
        logits, new = game.dis.apply(
            {"params": params, **stats},
            images,
            told,
            train=True,
            mutable=[*movable(stats, move), *(["intermediates"] if see else [])],
        )
        move = move and not game.simultaneous  # then once for both passes
        seen = {name: values[0] for name, values in new.get("intermediates", {}).items()}
        stats = {**stats, **{name: value for name, value in new.items() if name != "intermediates"}}
        results.append((logits, seen))
    if joint and len(batches) > 1:
        logits, seen = results[0]
        split = sizes[0]
        parts = [slice(None, split), slice(split, None)]
        results = [(logits[part], {name: x[part] for name, x in seen.items()}) for part in parts]
    return results, stats


def movable(stats: Tree, move: bool) -> list[str]:
    """Collections that an application may change: in training batch statistics must be, spectral vectors may."""
    return [name for name in stats if move or name == "batch_stats"]


def measure(name: str, total: jax.Array, terms: Metrics, round_: Round) -> Metrics:
    """The numbers of one update that are logged."""
    metrics = {f"loss/{name}": total, **{f"{name}/{term}": value for term, value in terms.items()}}
    if name == "dis":
        real, fake = round_.real_logits, round_.fake_logits
        metrics |= {"logit/real": jnp.mean(real), "logit/fake": jnp.mean(fake)}
        right = jnp.concatenate([real > 0, fake < 0]).astype(jnp.float32)
        metrics |= {"dis/accuracy": jnp.mean(right), "dis/sign_real": jnp.mean(jnp.sign(real))}
    return jax.lax.stop_gradient(metrics)


def note_fault(state: GanState, name: str, metrics: Metrics) -> dict[str, jax.Array]:
    """`control` with the first step at which this network's loss or gradient was not finite."""
    fine = jnp.isfinite(metrics[f"loss/{name}"]) & jnp.isfinite(metrics[f"grad_norm/{name}"])
    before = state.control[f"fault/{name}"]
    fault = jnp.where(fine | (before >= 0), before, state.step)
    return {**state.control, f"fault/{name}": fault}
