"""Trains a classifier of any labelled data set of `ganjax.data`, for judging samples.

    python -m ganjax.evals.features.train_classifier --data=digits --out=digits.npz
    python -m ganjax.evals.features.train_classifier --data=fashion_mnist --resolution=32 --jitter=0.3 \
        --out=fashion_mnist.npz

These made the shipped files, on 2 CPU cores in 25 s and in 9 minutes. The same seed on the same machine gives the
same file. The accuracy is that of the weights as written, on images that were not trained on.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ganjax.data import Dataset, load, to_float
from ganjax.data.augment.ada import Affine, Draws, warp
from ganjax.evals.features.classifiers import Net, pack, unpack
from ganjax.runtime.errors import UserError
from ganjax.runtime.version import __version__
from ganjax.training.optim import Optimizer, make_chain, make_schedule

Tree = Any
SHIFT = 1 / 16  # of the height and width, at most
TURN = math.radians(8)  # at most
STRETCH = math.log(1.1)  # at most, along each axis
WEIGHT_DECAY = 1e-3


def jittered(keys: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Turns, stretches and shifts each image a little, in proportion to `strength`; float [N, H, W, C], N keys."""
    height, width = images.shape[1:3]
    draws = Draws(keys, 5)

    def draw(most: float) -> jax.Array:
        return draws.uniform(-strength * most, strength * most)

    one = jnp.ones(len(images), jnp.float32)
    theta = draw(TURN)
    affine = (
        Affine(one, 0 * one, 0 * one, one, 0 * one, 0 * one)
        .turned(jnp.cos(theta), jnp.sin(theta))
        .stretched(jnp.exp(draw(STRETCH)), jnp.exp(draw(STRETCH)))
        .moved(width * draw(SHIFT), height * draw(SHIFT))
    )
    return warp(images, affine, height, width)


def make_update(net: Net, optimizer: Optimizer, learning_rate: float, strength: float) -> Any:
    """Makes a training step.

    It takes (variables, optimiser state, key, step, images uint8, labels) and returns the first two one step on, and
    the loss.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        variables: Tree, memory: Tree, key: jax.Array, step: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[Tree, Tree, jax.Array]:
        jitter_key, dropout_key = jax.random.split(jax.random.fold_in(key, step))
        inputs = jittered(jax.random.split(jitter_key, len(images)), to_float(images), strength)

        def loss_of(params: Tree) -> tuple[jax.Array, Tree]:
            (_, logits), stats = net.apply(
                {**variables, "params": params},
                inputs,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), stats

        params = variables["params"]
        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        peak = jnp.float32(learning_rate)
        params, memory, _ = optimizer.update(gradient, memory, params, step=step, peak=peak)
        return {"params": params, **stats}, memory, loss

    return update


def train(
    net: Net, data: Dataset, *, epochs: int, batch_size: int, learning_rate: float, jitter: float, seed: int
) -> Tree:
    """Trains `net` by Adam with decoupled weight decay, a short warm-up and a cosine to zero; returns its variables."""
    assert data.labels is not None
    steps_per_epoch = max(1, len(data) // batch_size)
    steps = epochs * steps_per_epoch
    chain = make_chain("adamw", beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=WEIGHT_DECAY, clip_norm=0.0)
    schedule = make_schedule("cosine", steps=steps, warmup_steps=steps // 20, final_scale=0.0)
    optimizer = Optimizer(chain, schedule)
    update = make_update(net, optimizer, learning_rate, jitter)
    key = jax.random.key(seed)
    init = jax.jit(functools.partial(net.init, train=False))
    variables = init(key, jnp.zeros((1, *data.images.shape[1:]), jnp.float32))
    memory = optimizer.tx.init(variables["params"])
    start = time.perf_counter()
    for epoch in range(epochs):
        # Each epoch's order is drawn anew; what is left over of a whole number of batches waits for another.
        order = np.random.default_rng((seed, epoch)).permutation(len(data))
        losses = []
        for i in range(steps_per_epoch):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            step = np.int32(epoch * steps_per_epoch + i)
            variables, memory, loss = update(
                variables, memory, key, step, data.images[chosen], data.labels[chosen]
            )
            losses.append(loss)
        if (epoch + 1) % max(1, epochs // 10) == 0:
            mean, seconds = float(np.mean(jax.device_get(losses))), time.perf_counter() - start
            print(f"epoch {epoch + 1} of {epochs}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
    return jax.device_get(variables)


def load_splits(arguments: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Loads the images to fit and those to test on.

    Raises:
      UserError: the data cannot be had or has no labels.
    """
    parts = [
        load(
            arguments.data,
            path=arguments.path,
            manual_dir=arguments.manual_dir,
            split=split,
            resolution=arguments.resolution,
        )
        for split in (arguments.fit_split, arguments.test_split)
    ]
    for part in parts:
        if part.labels is None or part.images.ndim != 4:
            raise UserError(f"--data takes a data set of images with labels, and {arguments.data} is none.")
    return parts[0], parts[1]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ganjax.evals.features.train_classifier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="digits, fashion_mnist, or a labelled data set of TFDS")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--path", default="", help="as data.path of a recipe")
    parser.add_argument("--manual_dir", default="", help="as data.manual_dir of a recipe")
    parser.add_argument("--fit_split", help="to train on (default: train, of digits fit)")
    parser.add_argument("--test_split", default="test", help="to measure the accuracy on (default: test)")
    parser.add_argument("--resolution", type=int, default=0, help="in pixels (default: the data's own)")
    parser.add_argument("--epochs", type=int, default=0, help="default: 480,000 images, 8 to 100 epochs")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--jitter", type=float, default=1.0, help="strength of the augmentation (default: 1)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains the classifier, writes `arguments.out` and prints the accuracy."""
    if arguments.out.suffix != ".npz":
        raise UserError(f"--out takes a file ending in .npz, and got {arguments.out.name!r}.")
    if not arguments.fit_split:
        arguments.fit_split = "fit" if arguments.data == "digits" else "train"
    fit, test = load_splits(arguments)
    arguments.epochs = arguments.epochs or min(100, max(8, round(480_000 / len(fit))))
    started = time.perf_counter()
    names = ("epochs", "batch_size", "learning_rate", "jitter", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    net = Net(fit.num_classes, arguments.width)
    variables = train(net, fit, **settings)
    metadata = {
        "data": arguments.data,
        "shape": fit.images.shape[1:],
        "label_names": fit.label_names,
        "fit_split": arguments.fit_split,
        "fit_images": len(fit),
        "fit_sha256": fit.fingerprint,
        "test_split": arguments.test_split,
        "test_images": len(test),
        "test_sha256": test.fingerprint,
        **settings,
        "resolution": arguments.resolution,
        "versions": {"ganjax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "platform": jax.default_backend(),
    }
    # What the rounded weights reach is what counts.
    rounded = unpack(pack(net, variables, metadata), "what was trained")
    accuracy = float(np.mean(rounded.predict(test.images[:]) == test.labels))
    content = pack(net, variables, {**metadata, "accuracy": accuracy})
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_bytes(content)
    except OSError as error:
        raise UserError(f"{arguments.out} cannot be written: {error.strerror or error}.") from error
    seconds = time.perf_counter() - started
    print(
        f"{accuracy:.2%} of {len(test)} held-out images in {seconds:.0f} s; {arguments.out} has "
        f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 for success, 2 for bad input."""
    try:
        run(make_parser().parse_args(argv))
    except UserError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
