"""The real step on networks so simple that NumPy can follow it: G makes one image, D is linear."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from small import points_config, small_config

from ganjax.data import Dataset
from ganjax.training.build import Build, build, make_hyper, make_initialiser
from ganjax.training.forward import GAN
from ganjax.training.step import train_step

# Compilation is most of what these tests take: XLA may leave out what only makes programs fast.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SGD = {"gen__optimizer__name": "sgd", "dis__optimizer__name": "sgd"}


class ToyGen(nn.Module):
    """The parameter `image`, whatever the latents."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, latents: jax.Array, labels: Any = None, *, train: bool) -> tuple[jax.Array]:
        image = self.param("image", nn.initializers.zeros, self.shape)
        return (jnp.broadcast_to(image, (latents.shape[0], *self.shape)),)


class ToyDis(nn.Module):
    """D(x) = weights·x; its features are x."""

    @nn.compact
    def __call__(self, images: tuple[jax.Array, ...], labels: Any = None, *, train: bool) -> jax.Array:
        x = images[-1].reshape(images[-1].shape[0], -1)
        self.sow("intermediates", "features", x)
        return x @ self.param("weights", nn.initializers.ones, (x.shape[1],))


class Toy:
    """A config's step for the networks above.

    Attributes:
      gan, build: of the config, with the toy networks in place of its own.
      first: the first state, with D's weights `weights` and G's image `fake`.
    """

    def __init__(self, reals: Any, fake: Any, weights: Any, **options: Any) -> None:
        """reals: [N, 2] points or [N, H, W, C] images, float; fake: one of them; options: as for `small_config`."""
        reals, fake = np.asarray(reals, np.float32), jnp.asarray(fake, jnp.float32)
        points = reals.ndim == 2
        config = (points_config if points else small_config)(
            **{
                "model__msg": "none",
                "gen__norm": "none",
                "dis__minibatch_stddev": False,
                "dis__spectral_norm": False,
                "train__batch_size": len(reals),
                "loss__name": "wasserstein",
                **SGD,
                **options,
            }
        )
        dataset = Dataset("ring" if points else "digits", reals, None, 0)
        self.build: Build = build(config, dataset, axis_name=None)
        self.gan: GAN = self.build.gan.with_nets(ToyGen(fake.shape), ToyDis())
        state = make_initialiser(config, self.gan, dataset, self.build.sides)(make_hyper(config))
        gen, dis = {"image": fake}, {"weights": jnp.asarray(weights, jnp.float32)}
        self.first = dataclasses.replace(
            state,
            gen=dataclasses.replace(state.gen, params=gen),
            dis=dataclasses.replace(state.dis, params=dis),
            ema={"params": gen},
        )
        data = (jnp.asarray(reals), None)
        index = jnp.arange(config.train.batch_size, dtype=jnp.int32)

        def step(state: Any) -> Any:
            return train_step(self.gan, state, self.build.make_batch(data, state.seed, state.step, index))

        self._step = jax.jit(step, compiler_options=QUICK)

    def run(self, steps: int, state: Any = None) -> tuple[list[Any], list[dict[str, Any]]]:
        """From `state` or the first: the states before, between and after `steps` steps, and each step's metrics."""
        states, rows = [self.first if state is None else state], []
        for _ in range(steps):
            state, metrics = self._step(states[-1])
            states.append(state)
            rows.append(metrics)
        return jax.device_get((states, rows))

    def controlled(self, **values: float) -> Any:
        """The first state with other control values; `__` for the slash."""
        new = {name.replace("__", "/"): jnp.float32(value) for name, value in values.items()}
        assert new.keys() <= self.first.control.keys()
        return dataclasses.replace(self.first, control={**self.first.control, **new})


def weights_of(state: Any) -> np.ndarray:
    """D's."""
    return np.asarray(state.dis.params["weights"])


def image_of(state: Any) -> np.ndarray:
    """G's."""
    return np.asarray(state.gen.params["image"])
