"""Narrow networks of each family, their inputs and first variables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.config import recipe as configs
from ganjax.config.rules import own_norm
from ganjax.data import Dataset
from ganjax.data.images import at_sides
from ganjax.models import MODELS
from ganjax.training.build import image_sides, make_networks

FAMILIES = [name for name in MODELS if name != "mlp"]


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def config_of(name, msg="none", **options):
    """Narrow networks of a family."""
    config = configs.default_config()
    settings = {
        "model.name": name,
        "model.msg": msg,
        "model.latent_dim": 16,
        "gen.norm": own_norm(name) or ("pixel" if name == "progan" else "batch"),
        "gen.style_dim": 8,
        "gen.mapping_layers": 2,
        "dis.minibatch_stddev": True,
        **{
            f"{net}.{key}": value
            for net in ("gen", "dis")
            for key, value in (("width", 8), ("max_width", 16))
        },
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    for key, value in settings.items():
        configs.set_option(config, key, value)
    configs.check(config)
    return config


def data_of(resolution, classes=0, n=1):
    labels = np.arange(n, dtype=np.int32) % max(classes, 1)
    images = np.broadcast_to(np.zeros((), np.uint8), (n, resolution, resolution, 3))
    return Dataset("digits", images, labels if classes else None, classes)


def scales_of(name):
    """Returns `model.msg` for 8 pixels: residual families have one scale there, since none comes before a block."""
    return "simple" if len(MODELS[name].sides(8)) > 1 else "none"


def pair(name, resolution, msg="none", classes=0, **options):
    """The config, G and D of a family, and the sides of G's images."""
    config = config_of(name, msg, model__conditional=classes > 0, **options)
    data = data_of(resolution, classes)
    return config, *make_networks(config, data, None), image_sides(config, data)


def inputs_of(config, sides, batch=4, classes=0):
    latents = jax.random.normal(jax.random.key(0), (batch, config.model.latent_dim))
    images = at_sides(jax.random.normal(jax.random.key(3), (batch, sides[-1], sides[-1], 3)), sides)
    return latents, images, jnp.arange(batch) % max(classes, 1)


def initialise(gen, dis, latents, images, labels):
    def init(key):
        dis_vars = dis.init(jax.random.fold_in(key, 1), images, labels, train=True)
        dis_vars.pop("intermediates", None)
        with jax.numpy_dtype_promotion("standard"):
            return gen.init(key, latents, labels, train=True), dis_vars

    return jax.jit(init, compiler_options=QUICK)(jax.random.key(1))


def awake(variables):
    """What starts at zero (attention's γ, last convolutions, noise) moved away, since it hides what is before it."""
    keys = iter(jax.random.split(jax.random.key(9), 10_000))
    move = lambda x: x if jnp.any(x != 0) else 0.1 + 0.3 * jax.random.normal(next(keys), x.shape)
    return {**variables, "params": jax.tree.map(move, variables["params"])}
