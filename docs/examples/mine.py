"""A loss, a network, a data set, a feature network and a metric of one's own, and a recipe that uses them, in one file.

ganjax train --config=docs/examples/mine.py --workdir=runs/mine
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from scipy.stats import wasserstein_distance

import ganjax
from ganjax.config import default_config
from ganjax.data import Dataset, fit_images
from ganjax.data.dataset import check_split
from ganjax.evals.features import FeatureNetwork
from ganjax.evals.metrics.measures import bootstrapped


@ganjax.register_loss("pearson")
class Pearson:
    """Pearson χ² (Mao et al. 2017, equation 8): D wants 1 for reals and −1 for fakes, G wants 0."""

    def dis(real_logits, fake_logits):
        return 0.5 * jnp.square(real_logits - 1.0) + 0.5 * jnp.square(fake_logits + 1.0)

    def gen(real_logits, fake_logits):
        return 0.5 * jnp.square(fake_logits)


class Generator(nn.Module):
    spec: object

    @nn.compact
    def __call__(self, latents, labels=None, *, train):
        shape = (self.spec.resolution, self.spec.resolution, self.spec.image_channels)
        x = nn.relu(nn.Dense(self.spec.gen["width"])(latents))
        x = nn.Dense(shape[0] * shape[1] * shape[2])(x)
        return (nn.tanh(x).reshape(-1, *shape),)


class Discriminator(nn.Module):
    spec: object

    @nn.compact
    def __call__(self, images, labels=None, *, train):
        x = images[-1].reshape(images[-1].shape[0], -1)
        x = nn.leaky_relu(nn.Dense(self.spec.dis["width"])(x), 0.2)
        self.sow("intermediates", "features", x)
        return nn.Dense(1)(x)[:, 0]


@ganjax.register_model("dense", resolutions=(8, 16))
def networks(spec):
    return Generator(spec), Discriminator(spec)


@ganjax.register_dataset("stripes", in_memory=True, heldout={"train": "test"})
def stripes(request):
    """2,000 pictures of 8×8 pixels with a bright stripe, across (class 0) or down (class 1)."""
    check_split(request, ("train", "test"))
    rng = np.random.default_rng(int(request.split == "test"))
    images = rng.integers(0, 64, (2000, 8, 8, 1), dtype=np.uint8)
    labels, at = rng.integers(0, 2, 2000), rng.integers(0, 8, 2000)
    across, down = labels == 0, labels == 1
    images[across, at[across]] = 255
    images[down, :, at[down]] = 255
    return Dataset(
        "stripes", fit_images(images, request.resolution), labels.astype(np.int32), 2, ("across", "down")
    )


@ganjax.register_feature_network("stripes")  # the name of a data set makes it that set's own
def pixels(dataset):
    flat = lambda images: images.reshape(len(images), -1).astype(np.float32) / 255
    return FeatureNetwork("pixels", "", "none", lambda images: (flat(images), None))


@ganjax.register_metric("brightness", higher_is_better={"brightness": False})
def brightness(case):
    """Wasserstein-1 distance between the mean brightness of samples and that of reals, of 255."""
    reals, fakes = (kind.images.mean(axis=(1, 2, 3)) for kind in (case.reals, case.fakes))

    def again(counts):
        return float(wasserstein_distance(reals, fakes, v_weights=counts))

    return {"brightness": bootstrapped(case, again, len(fakes), again(np.ones(len(fakes))))}


def get_config(arg: str = ""):
    config = default_config()
    config.data.name = "stripes"
    config.model.name = "dense"
    config.model.latent_dim = 16
    config.gen.width = config.dis.width = 128
    config.gen.norm = "none"
    config.dis.spectral_norm = False
    config.loss.name = "pearson"
    config.train.batch_size = 32
    config.train.steps = 2000
    config.eval.metrics = "fid,brightness"
    config.eval.best = "brightness"
    config.eval.every_kimg = 16.0
    return config
