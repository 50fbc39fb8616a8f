"""Mixtures of Gaussians in the plane, whose modes can be counted: the protocols of mode collapse."""

from __future__ import annotations

import numpy as np

from ganjax.data.dataset import Dataset, Request, check_split
from ganjax.runtime.errors import UserError

COUNT = 100_000


def ring(request: Request) -> Dataset:
    """Draws from 8 Gaussians of standard deviation .01 on the circle of radius 1; [100000, 2] float32.

    Source: Metz et al. 2017; Srivastava et al. 2017 (VEEGAN); Lin et al. 2018 (PacGAN), section 4.1.
    """
    # endpoint=False: linspace(0, 2π, 8) would put the last mode on the first and leave 7.
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return _mixture(request, np.stack([np.cos(angles), np.sin(angles)], axis=1), std=0.01, scale=1.0)


def grid(request: Request) -> Dataset:
    """Draws from 25 Gaussians of standard deviation .05 at {-4, -2, 0, 2, 4}²; [100000, 2] float32, scale 4.

    Source: as for `ring`.
    """
    ticks = np.arange(-4.0, 5.0, 2.0)
    return _mixture(request, np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2), std=0.05, scale=4.0)


def _mixture(request: Request, modes: np.ndarray, *, std: float, scale: float) -> Dataset:
    check_split(request, ("train",))
    if request.resolution:
        raise UserError(
            f"data.resolution: got {request.resolution}; {request.name} holds points in the plane, not images: "
            "leave it 0."
        )
    rng = np.random.default_rng(request.seed)
    labels = rng.integers(0, len(modes), size=COUNT)
    points = modes[labels] + std * rng.standard_normal((COUNT, 2))
    return Dataset(
        name=request.name,
        images=points.astype(np.float32),
        labels=labels.astype(np.int32),
        num_classes=len(modes),
        scale=scale,
        modes=modes.astype(np.float32),
        std=std,
    )
