"""`dcgan`, which is our own, beside its definition in NumPy and float64.

G: a dense layer to 4×4, then at each doubling nearest neighbours and a 3×3 convolution; batch norm and ReLU after each;
a last 3×3 convolution and tanh. D: a 1×1 convolution of the image, then at each level a 3×3 convolution and 2×2 means,
leaky ReLU (.2) after each convolution; the image of a scale joins the map of its side before the convolution of that
level, then the deviation over the batch; the map of 4×4 goes through one more 3×3 convolution and a dense layer.
Weights of D are divided by their largest singular values. Gradients are compared along random directions with the
definition's differences.
"""

from __future__ import annotations

from typing import Any

import authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.models.dcgan import DCGANDiscriminator, DCGANGenerator

RESOLUTION, WIDTH, LATENTS = 16, 4, 6
STEP = 1e-6


def conv(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    """A convolution of stride 1 with zeros around, as a sum over the places of its kernel."""
    kernel = layer["kernel"]
    pad = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = x.shape[1:3]
    places = [(i, j) for i in range(len(kernel)) for j in range(len(kernel))]
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in places) + layer["bias"]


def batch_norm(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * layer["scale"] + layer["bias"]


def deviation(x: np.ndarray) -> np.ndarray:
    """One more channel; the batch of four is one group."""
    value = np.sqrt(x.var(0) + 1e-8).mean()
    return np.concatenate([x, np.full((*x.shape[:3], 1), value)], axis=-1)


def halved(x: np.ndarray) -> np.ndarray:
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def normalised(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kernel = layer["kernel"]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return {**layer, "kernel": kernel / np.linalg.svd(matrix, compute_uv=False)[0]}


def gen_of(params: Any, z: np.ndarray) -> np.ndarray:
    dense = params["Dense_0"]["Dense_0"]
    x = (z @ dense["kernel"] + dense["bias"]).reshape(len(z), 4, 4, -1)
    x = np.maximum(batch_norm(x, params["Norm_0"]["BatchNorm_0"]), 0)
    for i in range(2):
        x = conv(x.repeat(2, axis=1).repeat(2, axis=2), params[f"Conv_{i}"]["Conv_0"])
        x = np.maximum(batch_norm(x, params[f"Norm_{i + 1}"]["BatchNorm_0"]), 0)
    return np.tanh(conv(x, params["Conv_2"]["Conv_0"]))


def dis_of(params: Any, images: tuple[np.ndarray, ...], msg: str) -> np.ndarray:
    layers = iter(normalised(params[f"Conv_{i}"]["Conv_0"]) for i in range(len(params) - 1))
    scales = {x.shape[1]: x for x in images[:-1]}
    x = leaky(conv(images[-1], next(layers)))
    for side in (16, 8, 4):
        if side in scales:
            image = conv(scales[side], next(layers)) if msg == "lin_cat" else scales[side]
            x = np.concatenate([image, x], axis=-1)
            x = conv(x, next(layers)) if msg == "cat_lin" else x
        x = deviation(x) if scales or side == 4 else x
        x = leaky(conv(x, next(layers)))
        x = halved(x) if side > 4 else x
    dense = normalised(params["Dense_0"]["Dense_0"])
    return (x.reshape(len(x), -1) @ dense["kernel"] + dense["bias"])[:, 0]


def weights(variables: Any, seed: int) -> Any:
    """Parameters at random, float64 that float32 holds exactly."""
    rng = np.random.RandomState(seed)

    def fill(path: Any, x: Any) -> np.ndarray:
        draw = rng.standard_normal(x.shape)
        name = path[-1].key
        scaled = draw / np.prod(x.shape[:-1]) ** 0.5 if name == "kernel" else 0.1 * draw + (name == "scale")
        return scaled.astype(np.float32).astype(np.float64)

    return jax.tree_util.tree_map_with_path(fill, variables["params"])


def singular(params: Any, norms: Any) -> Any:
    """The vectors of D's spectral norms at their limit."""
    result = {}
    for name, layer in norms.items():
        (kernel,) = (inner["kernel"] for inner in params[name].values())
        u, _, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        values = {"kernel/u": u[:, 0].astype(np.float32), "kernel/v": v[0].astype(np.float32)}
        result[name] = {inner: values for inner in layer}
    return result


def hold_gradients(function: Any, at: Any, grads: Any, seed: int) -> None:
    """`function`: trees of float64 → a number; `grads` are ours at `at`."""
    rng = np.random.RandomState(seed)
    for _ in range(3):
        way = jax.tree.map(lambda x: rng.standard_normal(x.shape), at)
        ends = [function(jax.tree.map(lambda x, d, h=h: x + h * d, at, way)) for h in (STEP, -STEP)]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        products = jax.tree.leaves(
            jax.tree.map(lambda g, d: np.sum(np.asarray(g, np.float64) * d), grads, way)
        )
        scale = np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in jax.tree.leaves(grads)))
        assert abs(sum(products) - slope) < 1e-4 * scale


def single(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def test_generator() -> None:
    net = DCGANGenerator(RESOLUTION, 3, (RESOLUTION,), width=WIDTH)
    z = authors.latents(4, LATENTS)
    variables = authors.template(net, z, None)
    params, slopes = weights(variables, 1), authors.slopes(4, RESOLUTION, RESOLUTION, 3)

    def run(params, z):
        image = net.apply({**variables, "params": params}, z, train=True, mutable=["batch_stats"])[0][-1]
        return jnp.sum(image * slopes), image

    grads, image = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(single(params), z)
    assert authors.error(image, gen_of(params, z.astype(np.float64))) < 1e-5
    total = lambda at: float(np.sum(gen_of(*at) * slopes))
    hold_gradients(total, (params, z.astype(np.float64)), grads, 2)


@pytest.mark.parametrize("msg", ["none", "simple", "lin_cat", "cat_lin"])
def test_discriminator(msg: str) -> None:
    net = DCGANDiscriminator(RESOLUTION, width=WIDTH, msg=msg, minibatch_stddev=True)
    sides = (RESOLUTION,) if msg == "none" else (4, 8, RESOLUTION)
    images = tuple(authors.images(4, side, seed=side) for side in sides)
    variables = authors.template(net, images, None)
    params, slopes = weights(variables, 3), authors.slopes(4)
    norms = singular(params, variables["spectral"])

    def run(params, images):
        logits = net.apply({"params": params, "spectral": norms}, images, train=False)
        return jnp.sum(logits * slopes), logits

    grads, logits = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(single(params), images)
    wide = tuple(x.astype(np.float64) for x in images)
    assert authors.error(logits, dis_of(params, wide, msg)) < 1e-5
    total = lambda at: float(np.sum(dis_of(at[0], at[1], msg) * slopes))
    hold_gradients(total, (params, wide), grads, 4)
