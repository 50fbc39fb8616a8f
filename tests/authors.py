"""What the comparisons with the authors' code share: weights drawn by name, samples of arrays, relative errors.

`tests/oracles/FAMILY_authors.npz` hold what the authors' PyTorch code gave. Weights are not in them: theirs and ours
are both drawn by `draw`, from names and shapes of the authors' state dict, and go into our networks by the mapping of
the family. Each file has an entry `about`: which code, which commit, how it was called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from paths import ORACLE_FILES

from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import orthogonality
from ganjax.models.base import Spec
from ganjax.models.layers.spectral_norm import COLLECTION
from ganjax.models.mappings import Entry, export_weights, import_weights
from ganjax.models.mappings.layers import complete_vectors
from ganjax.training.optim import Optimizer, make_chain

SAMPLES, GRADIENTS = 1024, 96  # numbers kept of an image, and of a gradient by one parameter, at most
# Batch norm of four images makes more of rounding: the authors' own images differ from theirs in float64 by up to 2e-5.
TOLERANCES = {
    "images": 3e-5,
    "eval": 1e-5,
    "logits": 1e-5,
    "input gradients": 1e-4,
    "parameter gradients": 1e-4,
}
STORED = ("weight_u", "weight_v", "u0", "sn_u")  # vectors of spectral norms


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int = 24) -> dict[str, np.ndarray]:
    """Weights and statistics of a network for each name, from one stream in the order of the names.

    Kernels have a standard deviation of 1/√(inputs), offsets of .1, scales and variances are about 1, γ of attention
    about .5. Vectors of spectral norms are the singular ones.
    """
    rng = np.random.RandomState(seed)
    arrays = {}
    for name in sorted(shapes):
        kind, shape = name.rpartition(".")[-1], shapes[name]
        if kind in STORED:
            continue
        x = rng.standard_normal(shape)
        if kind == "gamma":
            x = 0.5 + 0.1 * x
        elif len(shape) > 1:
            x = x / np.prod(shape[1:]) ** 0.5
            x = (
                x + 1.0 * (np.arange(shape[1]) < shape[1] // 2)
                if name.endswith("embed.weight") and ".b" in name
                else x
            )
        elif kind in ("weight", "gain"):
            x = 1.0 + 0.1 * x
        elif "var" in kind:
            x = 1.0 + 0.1 * np.abs(x)
        else:
            x = 0.1 * x
        arrays[name] = np.asarray(x, np.float32)
    for name in shapes:
        layer, _, kind = name.rpartition(".")
        if kind in STORED:
            weight = arrays.get(f"{layer}.weight_orig", arrays.get(f"{layer}.weight"))
            u, _, v = np.linalg.svd(weight.reshape(len(weight), -1).astype(np.float64), full_matrices=False)
            vector = v[0] if kind == "weight_v" else u[:, 0]
            arrays[name] = vector.reshape(shapes[name]).astype(np.float32)
    return arrays


def sample(x: Any, limit: int = SAMPLES) -> np.ndarray:
    """At most `limit` numbers of an array, evenly spread."""
    flat = np.asarray(x, np.float32).ravel()
    return flat[:: max(1, -(-flat.size // limit))]


def error(found: Any, expected: Any) -> float:
    """max |found − expected| / max |expected|; the shapes are equal."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def images(n: int, side: int, channels: int = 3, seed: int = 7) -> np.ndarray:
    """Noise in [-1, 1], [n, side, side, channels] float32; theirs is its transpose."""
    return np.random.RandomState(seed).uniform(-1, 1, (n, side, side, channels)).astype(np.float32)


def latents(n: int, size: int, seed: int = 8) -> np.ndarray:
    """Normal, [n, size] float32."""
    return np.random.RandomState(seed).standard_normal((n, size)).astype(np.float32)


def slopes(*shape: int, seed: int = 9) -> np.ndarray:
    """What images or logits are multiplied by before their sum is differentiated."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def load(family: str) -> dict[str, np.ndarray]:
    with np.load(ORACLE_FILES / f"{family}_authors.npz") as file:
        return {name: file[name] for name in file.files}


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in arrays.items()}


def gradients(oracle: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The entries of `oracle` under `prefix`, without it."""
    return {name[len(prefix) :]: x for name, x in oracle.items() if name.startswith(prefix)}


def template(net: Any, *inputs: Any) -> Any:
    """Variables of `net` filled with zeros, as nested dicts of NumPy arrays; nothing is compiled."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda k, *inputs: net.init(k, *inputs, train=True), key, *inputs)
    return jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        {name: x for name, x in shapes.items() if name != "intermediates"},
    )


def fill(entries: list[Entry], variables: Any, seed: int) -> Any:
    """Our variables with the weights that `draw` gives for the authors' names, through `entries`, and back."""
    theirs = draw(shapes_of(export_weights(entries, variables)), seed)
    ours = import_weights(entries, theirs, variables)
    back = export_weights(entries, ours)
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)
    mapped = {entry.ours for entry in entries}
    paths = [tuple(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    assert not [path for path in paths if path[0] != COLLECTION and path not in mapped]
    return complete_vectors(entries, ours)


def compare_gen(
    oracle: Mapping[str, np.ndarray], case: str, net: Any, entries: list[Entry], size: int, labels: Any
) -> dict[str, float]:
    """Errors of our G against `oracle`: images in training and evaluation, gradients by latents and by parameters."""
    z = latents(4, size)
    variables = fill(entries, template(net, z, labels), 24)

    def run(params: Any, z: Any) -> Any:
        bound = {**variables, "params": params}
        image = net.apply(bound, z, labels, train=True, mutable=["batch_stats"])[0][-1]
        return jnp.sum(image * slopes(*image.shape)), (image, net.apply(bound, z, labels, train=False)[-1])

    grads, (image, still) = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(variables["params"], z)
    found = {
        "images": error(sample(image), oracle[f"{case}/images"]),
        "eval": error(sample(still), oracle[f"{case}/eval"]),
        "input gradients": error(sample(grads[1]), oracle[f"{case}/d_latents"]),
    }
    return found | {"parameter gradients": _parameter_error(oracle, case, entries, variables, grads[0])}


def compare_dis(
    oracle: Mapping[str, np.ndarray], case: str, net: Any, entries: list[Entry], side: int, labels: Any
) -> dict[str, float]:
    """Errors of our D against `oracle`: logits, and their gradients by the images and by the parameters."""
    x = images(4, side)
    variables = fill(entries, template(net, (x,), labels), 25)

    def run(params: Any, x: Any) -> Any:
        logits = net.apply({**variables, "params": params}, (x,), labels, train=False)
        return jnp.sum(logits * slopes(4)), logits

    grads, logits = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(variables["params"], x)
    found = {
        "logits": error(logits, oracle[f"{case}/logits"]),
        "input gradients": error(sample(grads[1]), oracle[f"{case}/d_images"]),
    }
    return found | {"parameter gradients": _parameter_error(oracle, case, entries, variables, grads[0])}


def parameter_errors(
    expected: Mapping[str, np.ndarray], entries: list[Entry], variables: Any, grads: Any
) -> dict[str, float]:
    """Errors of gradients by the authors' names, each relative to the largest of its array.

    Biases before a batch norm have no gradient but rounding: no array counts as less than 5 % of the largest.
    """
    trained = [entry for entry in entries if entry.ours[0] == "params"]
    found = export_weights(trained, {**variables, "params": grads})
    largest = max(np.abs(x).max() for x in expected.values())
    errors = {}
    for name, x in expected.items():
        scale = max(np.abs(x).max(), 0.05 * largest)
        errors[name] = float(np.abs(sample(found[name], GRADIENTS) - x).max() / scale)
    return errors


def _parameter_error(
    oracle: Mapping[str, np.ndarray], case: str, entries: list[Entry], variables: Any, grads: Any
) -> float:
    return max(parameter_errors(gradients(oracle, f"{case}/grad/"), entries, variables, grads).values())


@dataclass(frozen=True)
class Rules:
    """How a run of ten steps is optimised: both networks by Adam(β₁ = 0)."""

    loss: str
    rate: float = 2e-4
    beta2: float = 0.9
    eps: float = 1e-8
    orthogonal: float = 0.0
    penalty: Callable[..., Any] | None = None  # D as a closure, reals and fakes as tuples → [N]


def _objectives(gen: Any, dis: Any, rules: Rules, labels: Any) -> tuple[Any, Any, Any]:
    """How a network is applied in training, and the losses of D and of G, each with what it is reported as."""
    loss = LOSSES[rules.loss]

    def apply(net: Any, params: Any, others: Any, x: Any) -> tuple[Any, Any]:
        n = x[0].shape[0] if isinstance(x, tuple) else x.shape[0]
        own = labels if labels is None else jnp.tile(labels, n // 4)
        return net.apply({**others, "params": params}, x, own, train=True, mutable=list(others))

    def dis_loss(params: Any, others: Any, reals: Any, fakes: Any) -> Any:
        logits, moved = apply(dis, params, others, (jnp.concatenate([reals, fakes]),))
        real, fake = jnp.split(logits, 2)
        adversarial = jnp.mean(loss.dis(real, fake))
        extra = 0.0
        if rules.penalty is not None:
            still = lambda x: apply(dis, params, moved, x)[0]
            extra = jnp.mean(rules.penalty(still, (reals,), (fakes,)))
        return adversarial + extra, (adversarial, moved)

    def gen_loss(params: Any, others: Any, dis_params: Any, dis_others: Any, z: Any) -> Any:
        image, moved = apply(gen, params, others, z)
        fake = dis.apply({**dis_others, "params": dis_params}, image, labels, train=True)
        adversarial = jnp.mean(loss.gen(None, fake))
        return adversarial + rules.orthogonal * orthogonality(params), (adversarial, moved)

    return apply, dis_loss, gen_loss


def ten_steps(
    gen: tuple[Any, Any],
    dis: tuple[Any, Any],
    rules: Rules,
    *,
    size: int,
    side: int,
    labels: Any,
    seeds: Callable[[int], tuple[int, int]],
) -> tuple[np.ndarray, Any]:
    """Ten updates of D and of G on the latents and reals of the oracles: D's and G's losses, and G's variables.

    D's loss is given without the penalty. Vectors of spectral norms move once in each update of their network; in the
    authors' code they move at each call.

    Args:
      gen, dis: each a network and its variables.
      rules: of the optimisation.
      size: of the latents.
      side: of the images.
      labels: [4] or None.
      seeds: step → those of D's and of G's latents; reals are of 200 + step.
    """
    chain = make_chain("adam", beta1=0.0, beta2=rules.beta2, eps=rules.eps, weight_decay=0.0, clip_norm=0.0)
    optimizer = Optimizer(chain, lambda step: jnp.float32(1.0))
    apply, dis_loss, gen_loss = _objectives(gen[0], dis[0], rules, labels)

    @jax.jit
    def step(state: Any, z_dis: Any, z_gen: Any, reals: Any) -> Any:
        (g, g_others, g_opt), (d, d_others, d_opt) = state
        fakes, g_others = apply(gen[0], g, g_others, z_dis)
        slope, (d_loss, d_others) = jax.grad(dis_loss, has_aux=True)(d, d_others, reals, fakes[-1])
        d, d_opt, _ = optimizer.update(slope, d_opt, d, step=jnp.int32(0), peak=jnp.float32(rules.rate))
        slope, (g_loss, g_others) = jax.grad(gen_loss, has_aux=True)(g, g_others, d, d_others, z_gen)
        g, g_opt, _ = optimizer.update(slope, g_opt, g, step=jnp.int32(0), peak=jnp.float32(rules.rate))
        return ((g, g_others, g_opt), (d, d_others, d_opt)), jnp.stack([d_loss, g_loss])

    def first(variables: Any) -> Any:
        others = {name: x for name, x in variables.items() if name != "params"}
        return variables["params"], others, chain.init(variables["params"])

    state, rows = (first(gen[1]), first(dis[1])), []
    for i in range(10):
        z_dis, z_gen = (latents(4, size, seed) for seed in seeds(i))
        state, row = step(state, z_dis, z_gen, images(4, side, seed=200 + i))
        rows.append(row)
    return np.asarray(rows), {**state[0][1], "params": state[0][0]}


def hold(errors: Mapping[str, float], **looser: float) -> None:
    """Asserts that each error is rounding's: below TOLERANCES, or below the value that `looser` names."""
    limits = {**TOLERANCES, **looser}
    wrong = {name: value for name, value in errors.items() if not value < limits[name]}
    assert not wrong, f"{errors}, of which too large: {wrong}"


def drawn(net: Any, given: Any, labels: Any) -> Any:
    """The parameters of `net` as it starts. Without the rest, XLA has only draws to compile."""
    start = jax.jit(lambda key: net.init(key, given, labels, train=True)["params"])
    return {"params": jax.device_get(start(jax.random.key(1, impl="rbg")))}


def hold_starts(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], skip: tuple[str, ...] = ()
) -> None:
    """Asserts that weights start with the authors' mean, standard deviation and largest value, as far as chance allows.

    Args:
      found: by their names.
      expected: for each name the three numbers.
      skip: ends of names that are not compared.
    """
    assert set(found) == set(expected)
    for name, (deviation, mean, largest) in expected.items():
        x = found[name]
        if name.endswith(skip):
            continue
        if deviation == 0.0:
            assert np.all(x == mean), name
            continue
        near = 5.0 / x.size**0.5  # standard errors: two draws of at most 1/√(2n) each
        assert abs(np.std(x) / deviation - 1) < near, (name, np.std(x), deviation)
        assert abs(np.mean(x) - mean) < 2 * near * deviation, (name, np.mean(x), mean)
        assert largest / 1.6 < np.abs(x).max() < 1.6 * largest, (name, np.abs(x).max(), largest)


def spec(resolution: int, *, classes: int, attention: int, width: int) -> Spec:
    """What the factory asks a family for, with spectral norm in both networks."""
    common = {
        "width": width,
        "max_width": 1 << 20,
        "depth": 2,
        "spectral_norm": True,
        "spectral_iterations": 1,
        "minibatch_stddev": False,
        "stddev_group": 4,
        "minibatch_discrimination": 0,
    }
    nets = ({**common, "norm": "batch"}, {**common, "norm": "none"})
    return Spec(resolution, 3, (resolution,), classes, False, "none", attention, *nets, None, jnp.float32)


def count(variables: Any) -> int:
    """The number of parameters."""
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def image_of(gen: Any, variables: Any, z: Any, labels: Any) -> Any:
    """G's sample with the statistics of the batch."""
    run = jax.jit(lambda v, z: gen.apply(v, z, labels, train=True, mutable=["batch_stats"])[0][-1])
    return run(variables, z)
