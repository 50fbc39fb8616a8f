"""The train step: a pure function `(state, batch) -> (state, metrics)` for one device.

Randomness belongs to images (`runtime/keys.py`), so a run is the same on any number of devices, up to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ganjax.data.delivery import Batch
from ganjax.data.images import Images
from ganjax.losses.objective import LossInputs
from ganjax.runtime.keys import image_keys, update_number
from ganjax.training.divergence import update_fault
from ganjax.training.forward import GAN, Inputs, Metrics, Player, Variables, compare, generate
from ganjax.training.state import GanState, NetState

Tree = Any


def train_step(gan: GAN, state: GanState, batch: Batch) -> tuple[GanState, Metrics]:
    """Updates D, then G, each as often as its `steps` say, then the control values and the average of G.

    Args:
      gan: the static values of the step.
      state: the state of the run, the same on every device.
      batch: this device's images.

    Returns:
      The state after the step, equal on every device, and metrics averaged over devices.
    """
    if gan.shared_forward:
        state, metrics = update_both(gan, state, inputs_of(state, batch, 0, update_number("dis", 0)))
    else:
        state, dis_metrics = repeat(gan, gan.dis, state, batch)
        state, gen_metrics = repeat(gan, gan.gen, state, batch)
        metrics = {**dis_metrics, **gen_metrics}
    state = dataclasses.replace(state, control=gan.update_control(state, metrics))
    state = dataclasses.replace(state, step=state.step + 1)
    return dataclasses.replace(state, ema=gan.average(state)), metrics


def repeat(gan: GAN, player: Player, state: GanState, batch: Batch) -> tuple[GanState, Metrics]:
    """Makes the player's updates of one step.

    The metrics are those of the last. Each of D's updates has its own reals.
    """

    def once(state: GanState, i: Any) -> tuple[GanState, Metrics]:
        last = gan.dis.steps + i if gan.fresh_reals else gan.dis.steps - 1
        place = i if player.name == "dis" else last
        return update(gan, player, state, inputs_of(state, batch, place, update_number(player.name, i)))

    if gan.rolled and player.steps > 1:
        state, stacked = jax.lax.scan(once, state, jnp.arange(player.steps))
        return state, jax.tree.map(lambda x: x[-1], stacked)
    for i in range(player.steps):
        state, metrics = once(state, i)
    return state, metrics


def inputs_of(state: GanState, batch: Batch, place: Any, number: Any) -> Inputs:
    """Returns the batch at `place` among those of the step, with a key for each of its images."""
    reals, labels = jax.tree.map(lambda x: x[place], (batch.reals, batch.labels))
    return Inputs(image_keys(state.seed, state.step, number, batch.index), reals, labels)


def update(gan: GAN, player: Player, state: GanState, inputs: Inputs) -> tuple[GanState, Metrics]:
    """Makes one update of one network: forward pass, objective, gradient, exchange over devices, optimiser."""

    def loss(params: Tree, stats: Tree, part: Inputs, *, update_stats: bool) -> tuple[jax.Array, Any]:
        own = Variables(params, stats)
        loss_inputs, stats = player.forward(gan, state, own, part, update_stats=update_stats)
        total, terms = player.objective(loss_inputs)
        return total, (stats, metrics_of(player, total, terms, loss_inputs))

    with jax.named_scope(f"update_{player.name}"):
        grads, stats, metrics = accumulate(loss, state.net(player.name), inputs, gan.accumulate)
    return apply_gradients(player, state, *mean_over_devices(grads, metrics, stats, gan.axis_name))


def update_both(gan: GAN, state: GanState, inputs: Inputs) -> tuple[GanState, Metrics]:
    """Makes one update of D and one of G from the same fakes and D's one output on them.

    Both gradients are taken at the parameters before the step, where alternating updates give G the new D (and make
    fakes of their own). D takes reals and fakes apart: so G's gradient goes back through the fakes alone.
    """
    make = lambda params: generate(
        gan, Variables(params, state.gen.stats), inputs.keys, inputs.labels, update_stats=True
    )
    fakes, pull_gen, gen_stats = jax.vjp(make, state.gen.params, has_aux=True)
    apart = dataclasses.replace(gan, joint=False)
    needs_sown = gan.dis.objective.needs_sown or gan.gen.objective.needs_sown
    objective = dataclasses.replace(gan.dis.objective, needs_sown=needs_sown)

    def losses(params: Tree, fakes: Images) -> tuple[tuple[jax.Array, jax.Array], Any]:
        dis = Variables(params, state.dis.stats)
        loss_inputs, stats = compare(apart, objective, state, dis, inputs, fakes, update_stats=True)
        dis_total, dis_terms = gan.dis.objective(loss_inputs)
        gen_total, gen_terms = gan.gen.objective(loss_inputs)
        dis_metrics = metrics_of(gan.dis, dis_total, dis_terms, loss_inputs)
        return (dis_total, gen_total), (
            stats,
            dis_metrics,
            metrics_of(gan.gen, gen_total, gen_terms, loss_inputs),
        )

    totals, pull, (dis_stats, dis_metrics, gen_metrics) = jax.vjp(
        losses, state.dis.params, fakes, has_aux=True
    )
    one, zero = jnp.ones_like(totals[0]), jnp.zeros_like(totals[0])
    dis_grads, gen_grads = pull((one, zero))[0], pull_gen(pull((zero, one))[1])[0]
    dis_means = mean_over_devices(dis_grads, dis_metrics, dis_stats, gan.axis_name)
    gen_means = mean_over_devices(gen_grads, gen_metrics, gen_stats, gan.axis_name)
    state, dis_metrics = apply_gradients(gan.dis, state, *dis_means)
    state, gen_metrics = apply_gradients(gan.gen, state, *gen_means)
    return state, {**dis_metrics, **gen_metrics}


def accumulate(
    loss: Callable[..., Any], net: NetState, inputs: Tree, parts: int
) -> tuple[Any, Tree, Metrics]:
    """Returns gradients, statistics and metrics of `loss`, the mean over `parts` equal parts of the batch.

    Spectral vectors move with the first part only, as they would in one pass over the whole batch.
    """
    gradient = jax.grad(loss, has_aux=True)
    stats: Tree = net.stats
    sums: Any = None
    for i in range(parts):
        grads, (stats, metrics) = gradient(net.params, stats, part_of(inputs, i, parts), update_stats=i == 0)
        sums = (grads, metrics) if sums is None else jax.tree.map(jnp.add, sums, (grads, metrics))
    grads, metrics = sums if parts == 1 else jax.tree.map(lambda x: x / parts, sums)
    return grads, stats, metrics


def part_of(inputs: Tree, i: int, parts: int) -> Tree:
    """Returns the `i`-th of `parts` equal parts of every array of `inputs`."""

    def cut(x: jax.Array) -> jax.Array:
        size = x.shape[0] // parts
        return x[i * size : (i + 1) * size]

    return inputs if parts == 1 else jax.tree.map(cut, inputs)


def mean_over_devices(
    grads: Tree, metrics: Metrics, stats: Tree, axis_name: str | None
) -> tuple[Tree, Metrics, Tree]:
    """Averages gradients, metrics and batch statistics over devices in one exchange.

    Without an axis they stay as they are.

    They travel as one vector: left to itself, XLA joins them by what waits for them, in two or three all-reduces.
    Spectral vectors are not sent, since they depend on the weights alone.
    """
    if axis_name is None:
        return grads, metrics, stats
    batch_stats = {name: value for name, value in stats.items() if name == "batch_stats"}
    vector, unravel = ravel_pytree((grads, metrics, batch_stats))
    grads, metrics, batch_stats = unravel(jax.lax.pmean(vector, axis_name))
    return grads, metrics, {**stats, **batch_stats}


def apply_gradients(
    player: Player, state: GanState, grads: Tree, metrics: Metrics, stats: Tree
) -> tuple[GanState, Metrics]:
    """Moves one network by its optimiser; adds learning rate and gradient norm to the metrics."""
    name, net = player.name, state.net(player.name)
    with jax.named_scope("optimizer"):
        params, opt_state, rate = player.optimizer.update(
            grads, net.opt_state, net.params, step=state.step, peak=state.hyper[f"{name}/learning_rate"]
        )
    metrics = {**metrics, f"lr/{name}": rate, f"grad_norm/{name}": optax.tree.norm(grads)}
    moved = NetState(params=params, stats=stats, opt_state=opt_state)
    resting = state.control.get(f"rest/{name}")
    if resting is not None:  # the adaptive balance: a resting network keeps everything as it was
        moved = jax.tree.map(lambda new, old: jnp.where(resting > 0, old, new), moved, net)
    state = dataclasses.replace(state, control=update_fault(state, name, metrics))
    return state.with_net(name, moved), metrics


def metrics_of(player: Player, total: jax.Array, terms: Metrics, loss_inputs: LossInputs) -> Metrics:
    """Returns the numbers of one update that are logged."""
    name = player.name
    metrics = {f"loss/{name}": total, **{f"{name}/{term}": value for term, value in terms.items()}}
    if name == "dis":
        real, fake = loss_inputs.real_logits, loss_inputs.fake_logits
        metrics |= {"logit/real": jnp.mean(real), "logit/fake": jnp.mean(fake)}
        right = jnp.concatenate([real > 0, fake < 0]).astype(jnp.float32)
        metrics |= {"dis/accuracy": jnp.mean(right), "dis/sign_real": jnp.mean(jnp.sign(real))}
    return jax.lax.stop_gradient(metrics)
