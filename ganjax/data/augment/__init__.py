"""Transforms of D's inputs, the same for reals and fakes, in D's and in G's updates.

Images are float tuples of [N, H, W, C] in [-1, 1], lowest resolution first; the last is the finest. A transform acts
alike on every scale of a tuple, so that reals stay a pyramid and the scales of a fake stay comparable with it. Its
strength is drawn per image, from `keys`: [N] PRNG keys, one an image, never one for the batch, so that the result
does not depend on how the batch is spread over devices. All are differentiable in the images, as G's update needs.
"""

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
    "translation",
]
