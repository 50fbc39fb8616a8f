"""A family of networks with labels and multi-scale gradients in 40 lines, and a recipe that trains it on 8×8 digits.

ganjax train --config=docs/examples/shallow.py --workdir=runs/shallow
"""

import flax.linen as nn
import jax.numpy as jnp

import ganjax
from ganjax.config import default_config
from ganjax.models.blocks import add_scale, by_side, join, logits_of, with_labels
from ganjax.models.layers.convolution import downsample, upsample
from ganjax.models.layers.layers import Conv, Dense


class Generator(nn.Module):
    spec: object

    @nn.compact
    def __call__(self, latents, labels=None, *, train):
        side, width = self.spec.resolution // 2, self.spec.gen["width"]
        z = with_labels(latents, labels, self.spec.classes, self.spec.dtype)
        x = nn.relu(Dense(side * side * width)(z)).reshape(-1, side, side, width)
        small, x = Conv(self.spec.image_channels)(x), nn.relu(Conv(width)(upsample(x)))
        images = {side: small, 2 * side: add_scale(small, Conv(self.spec.image_channels)(x))}
        return tuple(nn.tanh(images[side]).astype(jnp.float32) for side in self.spec.sides)


class Discriminator(nn.Module):
    spec: object
    classes = property(lambda self: self.spec.classes)
    auxiliary, spectral, minibatch_discrimination, dtype = False, 1, 0, jnp.float32

    @nn.compact
    def __call__(self, images, labels=None, *, train):
        x = downsample(nn.relu(Conv(self.spec.dis["width"], 3, self.spectral)(images[-1])))
        for image in by_side(images, self.spec.msg, self.dtype).values():
            x = join(self.spec.msg, x, image, lambda features: Conv(features, 1, self.spectral))
        x = nn.relu(Conv(self.spec.dis["width"], 3, self.spectral)(x)).reshape(x.shape[0], -1)
        self.sow("intermediates", "features", x)
        return logits_of(self, x, labels, lambda features: Dense(features, self.spectral))


@ganjax.register_model(
    "shallow", resolutions=(8, 16, 32), sides=lambda resolution: (resolution // 2, resolution)
)
def networks(spec):
    return Generator(spec), Discriminator(spec)


def get_config(arg: str = ""):
    config = default_config()
    config.data.name = "digits"
    config.model.name = "shallow"
    config.model.conditional = True
    config.model.msg = "simple"
    config.gen.width = 64
    config.dis.width = 64
    config.train.steps = 1000
    return config
