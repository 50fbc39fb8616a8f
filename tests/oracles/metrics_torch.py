"""Makes metrics_torch.npz: measures of fixed features by the packages that the field compares with.

torch-fidelity 0.4.0 (FID, KID, IS), prdc 0.2 (precision, recall, density, coverage) and pytorch-msssim 1.0.0, with
torch 2.15.0:

    python tests/oracles/metrics_torch.py
"""

from pathlib import Path

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_msssim import ms_ssim, ssim
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

SUBSETS, SIZE, SEED = 20, 100, 2020


def features():
    """Two clouds of 400 and 300 points in 24 dimensions, of unlike shapes, not centred; float32."""
    rng = np.random.RandomState(0)
    x = rng.randn(400, 24) @ rng.randn(24, 24) / 5 + 3.0
    y = rng.randn(300, 24) @ rng.randn(24, 24) / 5 + 3.1
    return x.astype(np.float32), y.astype(np.float32)


def images():
    """Two of 192×208 in three colours, the second a noisy version of the first."""
    rng = np.random.RandomState(1)
    coarse = rng.rand(2, 12, 13, 3).repeat(16, axis=1).repeat(16, axis=2) * 255
    noisy = np.clip(coarse + rng.randn(*coarse.shape) * np.array([8.0, 40.0])[:, None, None, None], 0, 255)
    return coarse.astype(np.uint8), noisy.astype(np.uint8)


def main():
    x, y = features()
    logits = np.random.RandomState(2).randn(305, 10).astype(np.float32) * 2
    rng = np.random.RandomState(SEED)  # draws as torch-fidelity does
    subsets = [
        (rng.choice(400, SIZE, replace=False), rng.choice(300, SIZE, replace=False)) for _ in range(SUBSETS)
    ]
    tx, ty = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    stats = [fid_features_to_statistics(t) for t in (tx, ty)]
    kid = kid_features_to_metric(
        tx, ty, kid_subsets=SUBSETS, kid_subset_size=SIZE, rng_seed=SEED, verbose=False
    )
    score = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    a, b = images()
    planes = [torch.from_numpy(np.moveaxis(i, -1, 1)).float() for i in (a, b)]
    small = [p[:, :, :32, :32] for p in planes]
    out = {
        "x": x,
        "y": y,
        "logits": logits,
        "subsets_x": np.array([s[0] for s in subsets]),
        "subsets_y": np.array([s[1] for s in subsets]),
        "fid": fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is": score["inception_score_mean"],
        "is_std": score["inception_score_std"],
        "ms_ssim": ms_ssim(*planes, data_range=255, size_average=False).numpy(),
        "ssim": ssim(*small, data_range=255, size_average=False).numpy(),
    }
    for k in (3, 5):
        out |= {
            f"{name}/{k}": value for name, value in compute_prdc(x.astype(float), y.astype(float), k).items()
        }
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
