"""Makes penalties_torch.npz: gradient penalties through a small two-scale convolutional D, by PyTorch's double
backward (torch 2.13.0, float64): the penalty of each image and the gradient of its mean to D's parameters.

    python tests/oracles/penalties_torch.py
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d, softplus


def dis(params, images):
    """Two 3×3 convolutions (the second of stride 2) on the 8×8 image, joined by a 1×1 of the 4×4, then a sum."""
    coarse, fine = images
    x = softplus(conv2d(fine, params["first"], padding=1))
    x = conv2d(x, params["second"], stride=2, padding=1) + conv2d(coarse, params["join"])
    return (softplus(x).sum(dim=(2, 3)) * params["last"]).sum(dim=1)


def norms_squared(params, images):
    images = [x.detach().requires_grad_() for x in images]
    grads = torch.autograd.grad(dis(params, images).sum(), images, create_graph=True)
    return [g.square().sum(dim=(1, 2, 3)) for g in grads]


def mean(values):
    return sum(values) / len(values)


def penalties(params, reals, fakes, alphas, noise):
    alphas = alphas.view(-1, 1, 1, 1)
    mixed = norms_squared(params, [r + alphas * (f - r) for r, f in zip(reals, fakes, strict=True)])
    around = norms_squared(
        params, [r + 0.5 * r.std(correction=0) * n for r, n in zip(reals, noise, strict=True)]
    )
    return {
        "r1": 0.5 * mean(norms_squared(params, reals)),
        "r2": 0.5 * mean(norms_squared(params, fakes)),
        "wgan_gp": mean([((n + 1e-4).sqrt() - 1).square() for n in mixed]),
        "wgan_gp_one_sided": mean([((n + 1e-4).sqrt() - 1).relu().square() for n in mixed]),
        "dragan": mean([((n + 1e-4).sqrt() - 1).square() for n in around]),
    }


def main():
    draws = np.random.RandomState(0)
    shapes = {"first": (4, 3, 3, 3), "second": (5, 4, 3, 3), "join": (5, 3, 1, 1), "last": (5,)}
    params = {name: draws.randn(*shape) * 0.3 for name, shape in shapes.items()}
    images = {
        f"{name}{size}": draws.randn(3, 3, size, size)
        for name in ("real", "fake", "noise")
        for size in (4, 8)
    }
    alphas = draws.rand(3)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    pair = lambda name: [torch.tensor(images[f"{name}{size}"]) for size in (4, 8)]
    values = penalties(tensors, pair("real"), pair("fake"), torch.tensor(alphas), pair("noise"))

    def channels_last(x):
        return np.moveaxis(x, 1, -1)

    def kernel(x):
        """OIHW → HWIO"""
        return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x

    stored = {"alphas": alphas, "torch": np.array(torch.__version__)}
    stored |= {name: channels_last(x) for name, x in images.items()}
    stored |= {f"params/{name}": kernel(x) for name, x in params.items()}
    for name, value in values.items():
        grads = torch.autograd.grad(value.mean(), list(tensors.values()), retain_graph=True)
        stored[name] = value.detach().numpy()
        stored |= {f"{name}/d_{key}": kernel(g.numpy()) for key, g in zip(tensors, grads, strict=True)}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **stored)


if __name__ == "__main__":
    main()
