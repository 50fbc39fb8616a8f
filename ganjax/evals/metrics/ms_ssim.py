"""Multi-scale structural similarity (MS-SSIM), and the diversity of images by it; images are uint8 [N, H, W, C]."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = (
    0.0448,
    0.2856,
    0.3001,
    0.2363,
    0.1333,
)  # of the scales, finest first (Wang et al. 2003, section 3.2)
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BATCHES, BATCH = 5, 64  # of the protocol for diversity
PAIRS = 256  # compared in one call


def count_scales(side: int) -> int:
    """Returns the number of scales whose images hold the 11×11 window, from 1 to 5.

    All 5 need sides of 176 pixels or more.
    """
    return max(n for n in range(1, 6) if n == 1 or side >> (n - 1) >= WINDOW)


@functools.partial(jax.jit, static_argnames="scales")
def ms_ssim(x: jax.Array, y: jax.Array, *, scales: int) -> jax.Array:
    """Returns the structural similarity of pairs over scales, each half the size of the last (Wang et al. 2003, eq. 7).

    Windows lie within the image; a window is no larger than the image. Negative terms count as 0, channels are
    averaged. With fewer than five scales their weights are scaled to the sum of 1.

    Args:
      x, y: [N, H, W, C] float32 in [0, 255].
      scales: number of scales, see `count_scales`.

    Returns:
      The similarity, float32 [N], from 0 to 1; 1 for equal images.
    """
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    result = jnp.ones((x.shape[0], x.shape[3]), jnp.float32)
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halved(x), _halved(y)
        whole, contrast = _ssim(x, y)
        last = scale == scales - 1
        result = result * jnp.maximum(whole if last else contrast, 0.0) ** float(weight)
    return result.mean(axis=1)


def _ssim(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns luminance × contrast-structure, and contrast-structure alone, each the mean over windows: [N, C]."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (var_x + var_y + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * contrast).mean(axis=(1, 2)), contrast.mean(axis=(1, 2))


def _blurred(x: jax.Array) -> jax.Array:
    """Returns weighted sums over a Gaussian window, along one axis, then the other.

    Sums of shifted slices are exact.
    """
    for axis in (1, 2):
        size = min(WINDOW, x.shape[axis])
        offsets = np.arange(size) - (size - 1) / 2
        window = np.exp(-(offsets**2) / (2 * SIGMA**2))
        window /= window.sum()
        length = x.shape[axis] - size + 1
        parts = [jax.lax.slice_in_dim(x, i, i + length, axis=axis) * float(w) for i, w in enumerate(window)]
        x = functools.reduce(jnp.add, parts)
    return x


def _halved(x: jax.Array) -> jax.Array:
    """Returns the 2×2 average pooling of x; an odd last row or column is left out."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def diversity(images: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns the mean MS-SSIM over all pairs of images in each of 5 batches of 64.

    A higher value means less diversity.

    Args:
      images: uint8 [N, H, W, C], N ≥ 2.
      seed: seed of the draw of the batches, which are smaller where N < 320.

    Returns:
      The means, float64 [5]. They are meaningful only where the images are of one class (Odena et al. 2017,
      section 4.2), or beside the value of the real images.
    """
    size = max(2, min(BATCH, len(images) // BATCHES))
    rng = np.random.default_rng(seed)
    scales = count_scales(min(images.shape[1:3]))
    means = []
    for _ in range(BATCHES):
        batch = images[rng.choice(len(images), size, replace=False)].astype(np.float32)
        first, second = np.triu_indices(size, 1)
        pad = -len(first) % PAIRS  # one shape, one compilation
        i, j = np.pad(first, (0, pad)), np.pad(second, (0, pad))
        values = [
            np.asarray(ms_ssim(jax.device_put(batch[i[s]]), jax.device_put(batch[j[s]]), scales=scales))
            for s in (slice(k, k + PAIRS) for k in range(0, len(i), PAIRS))
        ]
        means.append(np.concatenate(values)[: len(first)].mean(dtype=np.float64))
    return np.array(means)
