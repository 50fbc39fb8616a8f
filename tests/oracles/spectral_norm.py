"""Makes spectral_norm.npz with PyTorch 2.13.0: five SGD updates under its spectral-norm parametrisation.

PyTorch's weight is [out, in]; its u lies on `out`, its v on `in`. Our matrix is the transpose, so u and v swap.
PyTorch updates u first and then v, ours v first and then u, as in the paper: with the roles swapped these agree.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

torch.manual_seed(0)
layer = nn.Linear(7, 5, bias=False)
parametrizations.spectral_norm(layer)
hidden = layer.parametrizations.weight[0]
raw = layer.parametrizations.weight.original
out = {
    "x": torch.randn(6, 7),
    "target": torch.randn(6, 5),
    "kernel": raw.detach().T.clone(),
    "u": hidden._v.clone(),
    "v": hidden._u.clone(),
}
kernels = []
for _ in range(5):
    loss = 0.5 * (layer(out["x"]) - out["target"]).square().mean()
    (grad,) = torch.autograd.grad(loss, raw)
    with torch.no_grad():
        raw -= 0.5 * grad
    kernels.append(raw.detach().T.clone())
out["kernels"] = torch.stack(kernels)
path = Path(__file__).with_name("spectral_norm.npz")
np.savez_compressed(path, **{name: value.numpy() for name, value in out.items()})
