"""Makes losses_torch.npz: the losses and their gradients by PyTorch's own functions (torch 2.13.0, float64).

python tests/oracles/losses_torch.py
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import hinge_embedding_loss, mse_loss, softplus


def ones(x, value=1.0):
    return torch.full_like(x, value)


def hinge(x, label):
    """relu(1 - label·x), from torch's hinge_embedding_loss with y = -1 and margin 1: relu(1 - input)."""
    return hinge_embedding_loss(label * x, ones(x, -1.0), margin=1.0, reduction="none")


def cross_entropy(r, f, target=1.0):
    return bce(r, ones(r, target), reduction="none") + bce(f, ones(f, 0.0), reduction="none")


def squares(r, f, target=1.0):
    return 0.5 * mse_loss(r, ones(r, target), reduction="none") + 0.5 * mse_loss(
        f, ones(f, 0.0), reduction="none"
    )


def ra_squares(r, f):
    return mse_loss(r, ones(r), reduction="none") + mse_loss(f, ones(f, -1.0), reduction="none")


def average(pair):
    return lambda r, f: 0.5 * pair(r - f.mean(), f - r.mean())


def hinges(r, f):
    return hinge(r, 1.0) + hinge(f, -1.0)


DIS = {
    "minimax": cross_entropy,
    "non_saturating": cross_entropy,
    "hinge": hinges,
    "least_squares": squares,
    "wasserstein": lambda r, f: f - r,
    "ra_non_saturating": average(cross_entropy),
    "ra_hinge": average(hinges),
    "ra_least_squares": average(ra_squares),
    "rp_non_saturating": lambda r, f: bce(r - f, ones(r), reduction="none"),
    "minimax/smooth": lambda r, f: cross_entropy(r, f, 0.9),
    "non_saturating/smooth": lambda r, f: cross_entropy(r, f, 0.9),
    "least_squares/smooth": lambda r, f: squares(r, f, 0.9),
}
GEN = {
    "minimax": lambda r, f: -bce(f, ones(f, 0.0), reduction="none"),
    "non_saturating": lambda r, f: bce(f, ones(f), reduction="none"),
    "hinge": lambda r, f: -f,
    "least_squares": lambda r, f: 0.5 * mse_loss(f, ones(f), reduction="none"),
    "wasserstein": lambda r, f: -f,
    "ra_non_saturating": lambda r, f: average(cross_entropy)(f, r),
    "ra_hinge": lambda r, f: average(hinges)(f, r),
    "ra_least_squares": lambda r, f: average(ra_squares)(f, r),
    "rp_non_saturating": lambda r, f: softplus(r - f),
}


def main():
    draws = np.random.RandomState(0)
    real, fake = draws.randn(12) * 2 + 0.5, draws.randn(12) * 2 - 0.5
    stored = {"real": real, "fake": fake, "torch": np.array(torch.__version__)}
    for player, losses in (("dis", DIS), ("gen", GEN)):
        for name, loss in losses.items():
            r, f = torch.tensor(real, requires_grad=True), torch.tensor(fake, requires_grad=True)
            values = loss(r, f)
            grads = torch.autograd.grad(values.mean(), (r, f), allow_unused=True)
            stored[f"{player}/{name}"] = values.detach().numpy()
            for side, x, grad in (("real", r, grads[0]), ("fake", f, grads[1])):
                stored[f"{player}/{name}/d_{side}"] = (
                    (torch.zeros_like(x) if grad is None else grad).detach().numpy()
                )
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **stored)


if __name__ == "__main__":
    main()
