"""Makes inception_torch.npz: FID's Inception network by torchvision's layers, with random weights (torch 2.15.0).

    python tests/oracles/inception_torch.py

The blocks are torchvision 0.29.2's own; what differs in FID's network is replaced here: means without the border in
the A, C and first E blocks, maxima in the last, 1,008 classes. Weights are drawn from NumPy by name, so that the test
can draw them too and only the outputs are stored. The small files that PyTorch saved itself, in both of its formats,
are stored as bytes.
"""

import io
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import inception

MEAN = functional.avg_pool2d


def draw(name, shape):
    """Weights that keep activations near 1: fixed by the name alone."""
    rng = np.random.RandomState(sum(name.encode()) * 1009 % 2**31)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return (rng.randn(*shape) * 0.1 + (1.0 if name.endswith("bn.weight") else 0.0)).astype(np.float32)
    return (rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def images():
    return np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def network():
    net = inception.inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    net.fc = nn.Linear(2048, 1008)
    state = net.state_dict()
    return {name: draw(name, tuple(v.shape)) for name, v in state.items() if v.dim()}, net.eval()


def run(net, x):
    pooled = []
    net.avgpool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    functional.avg_pool2d = lambda t, **k: MEAN(t, count_include_pad=False, **k)
    net.Mixed_7c.register_forward_pre_hook(
        lambda *_: setattr(functional, "avg_pool2d", lambda t, **k: functional.max_pool2d(t, **k))
    )
    with torch.no_grad():
        logits = net(x) - net.fc.bias
    functional.avg_pool2d = MEAN
    return pooled[-1].numpy(), logits.numpy()


def tf1_resize(x):
    """Bilinear without the half-pixel shift, by grid_sample: place i of the output is place i·32/299 of the input."""
    places = torch.clamp(torch.arange(299) * (32 / 299), max=31.0) * 2 / 31 - 1
    grid = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1)[None].expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grid, mode="bilinear", align_corners=True)


def saved(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def main():
    weights, net = network()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    x = torch.from_numpy(np.moveaxis(images(), -1, 1)).float()
    resized = {
        "tf1": (tf1_resize(x) - 128) / 128,
        "pytorch": functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False) / 127.5 - 1,
    }
    out = {}
    for name, y in resized.items():
        out[f"features/{name}"], out[f"logits/{name}"] = run(net, y)
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        layer[0].weight.copy_(torch.arange(108).reshape(4, 3, 3, 3))
    state = layer.state_dict()
    state["half"] = torch.arange(6).half().reshape(2, 3).t()  # a view with strides of its own
    out["zip"] = saved(state)
    out["old"] = saved(state, _use_new_zipfile_serialization=False)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
