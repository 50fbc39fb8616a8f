"""MSG-ProGAN's layers beside BMSG-GAN (by the first author): `tests/oracles/progan_authors.npz`, see its `about`.

`ganjax.models.progan` is arranged as ProGAN's own code with the paper's φ simple, which BMSG-GAN is not
(docs/models.md). So the networks here are BMSG-GAN's arrangement of our layers: what they show is that the layers, the
resampling, the pixel norm, the deviation over the batch, the gains and the losses are theirs.
"""

from __future__ import annotations

from typing import Any

import authors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.losses.adversarial import LOSSES
from ganjax.models.base import levels
from ganjax.models.layers.convolution import UP, downsample
from ganjax.models.layers.equalized import EqualConv, EqualDense
from ganjax.models.layers.layers import minibatch_stddev, pixel_norm
from ganjax.models.mappings import Entry, conv, export_weights

ORACLE = authors.load("progan")
ROOT2 = 2.0**0.5
SIZE = 16  # of z and of the widest map


def channels(level: int) -> int:
    """Of G's map after `level` doublings, and of what D's block of that level gets."""
    return SIZE >> max(0, level - 3)


def act(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


class Generator(nn.Module):
    """z [N, Z] on the sphere → images of each side."""

    depth: int

    @nn.compact
    def __call__(self, z: jax.Array) -> tuple[jax.Array, ...]:
        x = EqualDense(16 * SIZE, gain=ROOT2, name="layers.0.conv_1")(z).reshape(-1, 4, 4, SIZE)
        images, x = [], act(x)
        for i in range(self.depth):
            conv = lambda name, i=i, **up: EqualConv(
                channels(i), 3, gain=ROOT2, name=f"layers.{i}.{name}", **up
            )
            if i:
                x = pixel_norm(act(conv("conv_1", resample=UP)(x)))
            x = pixel_norm(act(conv("conv_2")(x)))
            images.append(EqualConv(3, 1, gain=ROOT2, name=f"rgb_converters.{i}")(x))
        return tuple(images)


class Discriminator(nn.Module):
    """Images of each side → logits: half of what a block gets is a linear map of the image of its side."""

    depth: int

    @nn.compact
    def __call__(self, images: tuple[jax.Array, ...]) -> jax.Array:
        x = None
        for i in range(self.depth - 2, -1, -1):
            width = channels(i + 1)
            half = width if x is None else width // 2
            rgb = EqualConv(half, 1, gain=ROOT2, name=f"rgb_to_features.{i}")(images[i + 1])
            x = rgb if x is None else jnp.concatenate([rgb, x], axis=-1)
            x = act(EqualConv(width, 3, gain=ROOT2, name=f"layers.{i}.conv_1")(x))
            out = channels(i) // 2
            x = downsample(act(EqualConv(out, 3, gain=ROOT2, name=f"layers.{i}.conv_2")(x)))
        rgb = EqualConv(SIZE // 2, 1, gain=ROOT2, name="final_converter")(images[0])
        x = minibatch_stddev(jnp.concatenate([rgb, x], axis=-1))
        x = act(EqualConv(SIZE, 3, gain=ROOT2, name="final_block.conv_1")(x))
        x = act(EqualDense(SIZE, gain=ROOT2, name="final_block.conv_2")(x.reshape(x.shape[0], -1)))
        return EqualDense(1, gain=ROOT2, name="final_block.conv_3")(x)[:, 0]


def entries(variables: Any) -> list[Entry]:
    """Of either network, whose layers have the authors' names."""
    found = []
    for name, layer in variables["params"].items():
        kernel, theirs = ("params", name, "kernel"), f"{name}.weight"
        if layer["kernel"].ndim == 4:
            found.append(conv(kernel, theirs))
        elif name == "layers.0.conv_1":  # a transposed convolution of one pixel, with an offset a channel
            to_theirs = lambda x: x.reshape(len(x), 4, 4, -1).transpose(0, 3, 1, 2)
            found.append(
                Entry(kernel, theirs, lambda x: x.transpose(0, 2, 3, 1).reshape(len(x), -1), to_theirs)
            )
        else:  # a convolution without padding of all its pixels
            side = 4 if name.endswith("conv_2") else 1
            to_ours = lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x))
            to_theirs = lambda x, side=side: x.reshape(side, side, -1, x.shape[1]).transpose(3, 2, 0, 1)
            found.append(Entry(kernel, theirs, to_ours, to_theirs))
        tiled = layer["bias"].size == 16 * SIZE
        changes = (lambda x: np.tile(x, 16), lambda x: x[:SIZE]) if tiled else ()
        found.append(Entry(("params", name, "bias"), f"{name}.bias", *changes))
    return found


def filled(net: nn.Module, given: Any, seed: int) -> tuple[Any, list[Entry]]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(net.init, key, given)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    found = entries(variables)
    return authors.fill(found, variables, seed), found


def on_sphere(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True) * SIZE**0.5


def of_sides(depth: int, make: Any) -> tuple[np.ndarray, ...]:
    return tuple(make(side) for side in levels(2 << depth))


def hold_parameters(case: str, found: list[Entry], variables: Any, grads: Any) -> None:
    expected = authors.gradients(ORACLE, f"{case}/grad/")
    if case.endswith("gen"):  # an offset a channel there, one a pixel and channel here
        first = np.asarray(grads["layers.0.conv_1"]["bias"]).reshape(16, -1).sum(axis=0)
        assert authors.error(first, expected.pop("layers.0.conv_1.bias")) < 1e-4
    errors = authors.parameter_errors(expected, found, variables, grads)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("depth", [4, 5])
def test_generator(depth: int) -> None:
    net, z = Generator(depth), on_sphere(authors.latents(4, SIZE))
    variables, found = filled(net, z, 24)
    slopes = of_sides(depth, lambda side: authors.slopes(4, side, side, 3, seed=side))

    def run(params, z):
        images = net.apply({"params": params}, z)
        return sum(jnp.sum(x * s) for x, s in zip(images, slopes, strict=True)), images

    grads, images = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(variables["params"], z)
    case = f"bmsg{2 << depth}/gen"
    for side, image in zip(levels(2 << depth), images, strict=True):
        assert authors.error(authors.sample(image), ORACLE[f"{case}/images{side}"]) < 1e-5, side
    assert authors.error(authors.sample(grads[1]), ORACLE[f"{case}/d_latents"]) < 1e-4
    hold_parameters(case, found, variables, grads[0])


@pytest.mark.parametrize("depth", [4, 5])
def test_discriminator(depth: int) -> None:
    net, images = Discriminator(depth), of_sides(depth, lambda side: authors.images(4, side, seed=side))
    variables, found = filled(net, images, 25)

    def run(params, images):
        logits = net.apply({"params": params}, images)
        return jnp.sum(logits * authors.slopes(4)), logits

    grads, logits = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(variables["params"], images)
    case = f"bmsg{2 << depth}/dis"
    assert authors.error(logits, ORACLE[f"{case}/logits"]) < 1e-5
    for side, slope in zip(levels(2 << depth), grads[1], strict=True):
        assert authors.error(authors.sample(slope), ORACLE[f"{case}/d_images{side}"]) < 1e-4, side
    hold_parameters(case, found, variables, grads[0])


def test_losses() -> None:
    """The relativistic average hinge is theirs halved; the drift of .001 is theirs too."""
    real, fake = authors.slopes(8, seed=1), authors.slopes(8, seed=2)
    hinge, wasserstein = LOSSES["ra_hinge"], LOSSES["wasserstein"]
    drift = 1e-3 * np.mean(np.square(real))
    terms = [2 * np.mean(hinge.dis(real, fake)), 2 * np.mean(hinge.gen(real, fake))]
    terms += [np.mean(wasserstein.dis(real, fake)) + drift, np.mean(wasserstein.gen(None, fake))]
    assert authors.error(terms, ORACLE["losses"]) < 1e-6


def test_initial_weights() -> None:
    """Normal of unit variance in each layer, as theirs; offsets are 0."""
    starts = {**authors.gradients(ORACLE, "init/gen/"), **authors.gradients(ORACLE, "init/dis/")}
    for name, (deviation, mean, _) in starts.items():
        assert (deviation, mean) == (0, 0) if name.endswith("bias") else abs(deviation - 1) < 0.3
    net, z = Generator(5), authors.latents(4, SIZE)
    variables = jax.device_get(jax.jit(net.init)(jax.random.key(1, impl="rbg"), z))
    for name, x in export_weights(entries(variables), variables).items():
        size = x.size
        assert np.all(x == 0) if name.endswith("bias") else abs(np.std(x) - 1) < 5 / size**0.5, name
