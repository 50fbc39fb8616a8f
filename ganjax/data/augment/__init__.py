"""Transforms of D's inputs, the same for reals and fakes, in D's and in G's updates.

Images are float tuples of [N, H, W, C] in [-1, 1], lowest resolution first; the last is the finest. A transform acts
alike on every scale of a tuple, so that reals stay a pyramid and the scales of a fake stay comparable with it. Its
strength is drawn per image, from `keys`: [N] PRNG keys, one an image, never one for the batch, so that the result
does not depend on how the batch is spread over devices. All are differentiable in the images, as G's update needs.
"""

import jax

from ganjax.data.augment.ada import ada_augment, ada_update
from ganjax.data.augment.diffaugment import (
    POLICIES,
    brightness,
    color,
    contrast,
    cutout,
    diff_augment,
    saturation,
    translation,
)
from ganjax.data.augment.noise import NOISE_SCHEDULES, instance_noise
from ganjax.data.images import Images
from ganjax.runtime.keys import Stream, stream_keys

__all__ = [
    "NOISE_SCHEDULES",
    "POLICIES",
    "ada_augment",
    "ada_update",
    "brightness",
    "color",
    "contrast",
    "cutout",
    "diff_augment",
    "instance_noise",
    "saturation",
    "transform",
    "translation",
]


def transform(
    keys: jax.Array,
    images: Images,
    policy: tuple[str, ...],
    *,
    p: jax.Array | None = None,
    color_share: float = 1.0,
    noise_std: jax.Array | None = None,
) -> Images:
    """Augments images, then adds noise.

    Args:
      keys: the keys [N], one per image.
      images: a tuple of [N, ...] in [-1, 1].
      policy: parts of `augment.policy`: `ada` and perhaps `cutout`, or names of `POLICIES`; empty for none.
      p: ADA's probability, [] float32, where the policy has `ada`.
      color_share: ADA's share of color transforms.
      noise_std: the standard deviation of the noise, [] float32; None adds none.
    """
    if "ada" in policy:
        assert p is not None
        cut = "cutout" in policy
        images = ada_augment(
            stream_keys(keys, Stream.AUGMENT), images, p, color_share=color_share, cutout=cut
        )
    elif policy:
        images = diff_augment(stream_keys(keys, Stream.AUGMENT), images, policy)
    return images if noise_std is None else instance_noise(stream_keys(keys, Stream.NOISE), images, noise_std)
