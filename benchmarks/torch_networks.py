"""The networks of `torch_twins.py`: DCGAN with and without scales, SNGAN's ResNet, StyleGAN2, in PyTorch (NCHW)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
ROOT2 = 2.0**0.5


# Whether a 3×3 convolution and the doubling before it, or the mean of 2×2 after it, are joined in one of stride 2.
JOINED = False
# StyleGAN2's filter [1, 3, 3, 1] along both axes.
FILTER = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def widened(weight: Tensor) -> Tensor:
    """The 4×4 kernel that a 3×3 one makes with doubled pixels or with sums over 2×2: each place sums its neighbours."""
    return sum(F.pad(weight, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1))  # type: ignore[return-value]


def unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x).clamp_min(1e-12)


class Layer(nn.Module):
    """A convolution or (size 0) a dense layer, with spectral norm where `spectral`; He-like start."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, spectral: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        shape = (outputs, inputs, size, size) if size else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(inputs * max(size, 1) ** 2))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.spectral = spectral
        if spectral:
            self.register_buffer("u", unit(torch.randn(outputs)))
            self.register_buffer("v", unit(torch.randn(self.weight[0].numel())))

    def scaled(self, move: bool) -> Tensor:
        """The weight over its largest singular value; `move` makes one power iteration."""
        if not self.spectral:
            return self.weight
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            if move:
                with torch.no_grad():
                    v = unit(matrix.mT @ self.u)
                    u = unit(matrix @ v)
                    self.u.copy_(u)
                    self.v.copy_(v)
            return self.weight / torch.dot(self.u.clone(), matrix @ self.v.clone())

    def forward(self, x: Tensor, move: bool = False, resample: str = "") -> Tensor:
        """`resample`: "up" doubles images first, "down" halves them afterwards."""
        weight = self.scaled(move)
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        if JOINED and resample == "up":
            wide = widened(weight.flip(2, 3)).transpose(0, 1)
            return F.conv_transpose2d(x, wide, self.bias, stride=2, padding=1)
        if JOINED and resample == "down":
            return F.conv2d(x, widened(weight) / 4, self.bias, stride=2, padding=1)
        x = upsample(x) if resample == "up" else x
        y = F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
        return F.avg_pool2d(y, 2) if resample == "down" else y


def pixel_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def stddev(x: Tensor, group: int = 4) -> Tensor:
    """One more channel: the standard deviation over neighbours in the batch, averaged over everything."""
    n, _, h, w = x.shape
    groups = x.reshape(n // group, group, -1)
    mean = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean(1)
    return torch.cat([x, mean.repeat_interleave(group).view(n, 1, 1, 1).expand(n, 1, h, w)], 1)


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def channels(resolution: int, side: int, width: int, most: int) -> int:
    return min(width * (resolution // side), most)


def levels(resolution: int) -> list[int]:
    return [4 << i for i in range(int(math.log2(resolution)) - 1)]


class DCGANGenerator(nn.Module):
    """z → images of every level with `msg`, else the sample: tanh of running sums of RGB."""

    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        width = lambda side: channels(o["resolution"], side, o["gen_width"], o["gen_max"])
        self.first = Layer(o["latent"], 16 * width(4), 0)
        sides = levels(o["resolution"])
        self.convs = nn.ModuleList(Layer(width(a), width(b)) for a, b in itertools.pairwise(sides))
        self.msg = o["msg"]
        self.rgb = nn.ModuleList(Layer(width(side), 3) for side in (sides if o["msg"] else sides[-1:]))

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        x = self.first(z)
        x = x.view(len(z), 4, 4, -1).permute(0, 3, 1, 2)  # channels-last in memory
        x = F.relu(pixel_norm(x))
        sums = [self.rgb[0](x)] if self.msg else []
        for i, conv in enumerate(self.convs):
            x = F.relu(pixel_norm(conv(x, resample="up")))
            if self.msg:
                sums.append(upsample(sums[-1]) + self.rgb[i + 1](x))
        return tuple(torch.tanh(image) for image in sums or [self.rgb[0](x)])


class DCGANDiscriminator(nn.Module):
    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        width = lambda side: channels(o["resolution"], side, o["dis_width"], o["dis_max"])
        self.msg = o["msg"]
        self.first = Layer(3, width(o["resolution"]), 1, spectral=True)
        self.sides = levels(o["resolution"])[::-1]
        more = lambda side: (
            (3 if self.msg and side < o["resolution"] else 0) + (1 if self.msg or side == 4 else 0)
        )
        self.convs = nn.ModuleList(
            Layer(width(side) + more(side), width(max(side // 2, 4)), spectral=True) for side in self.sides
        )
        self.last = Layer(16 * width(4), 1, 0, spectral=True)

    def forward(self, images: Sequence[Tensor], move: bool) -> Tensor:
        scales = {x.shape[-1]: x for x in images[:-1]}
        x = F.leaky_relu(self.first(images[-1], move), 0.2)
        for side, conv in zip(self.sides, self.convs, strict=True):
            if side in scales:
                x = torch.cat([scales[side], x], 1)
            if self.msg or side == 4:
                x = stddev(x)
            x = F.leaky_relu(conv(x, move), 0.2)
            x = F.avg_pool2d(x, 2) if side > 4 else x
        return self.last(x.permute(0, 2, 3, 1).flatten(1), move)[:, 0]


class ResNetGenerator(nn.Module):
    """SNGAN's: three blocks that double, batch norm."""

    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        c = o["gen_width"]
        blocks = int(math.log2(o["resolution"])) - 2
        self.first = Layer(o["latent"], 16 * c, 0)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(2 * blocks + 1))
        self.convs = nn.ModuleList(Layer(c, c) for _ in range(2 * blocks))
        self.skips = nn.ModuleList(Layer(c, c, 1) for _ in range(blocks))
        self.rgb = Layer(c, 3)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        x = self.first(z).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        for i, skip in enumerate(self.skips):
            y = self.convs[2 * i](F.relu(self.norms[2 * i](x)), resample="up")
            y = self.convs[2 * i + 1](F.relu(self.norms[2 * i + 1](y)))
            x = y + upsample(skip(x))
        return (torch.tanh(self.rgb(F.relu(self.norms[-1](x)))),)


class ResNetDiscriminator(nn.Module):
    """Four blocks, of which the first two halve; spectral norm."""

    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        c = o["dis_width"]
        self.convs = nn.ModuleList(Layer(3 if i == 0 else c, c, spectral=True) for i in range(8))
        self.skips = nn.ModuleList(Layer(3 if i == 0 else c, c, 1, spectral=True) for i in range(2))
        self.last = Layer(c, 1, 0, spectral=True)

    def forward(self, images: Sequence[Tensor], move: bool) -> Tensor:
        x = images[-1]
        for i in range(4):
            y = self.convs[2 * i](x if i == 0 else F.relu(x), move)
            y = self.convs[2 * i + 1](F.relu(y), move, "down" if i < 2 else "")
            x = y + (self.skips[i](F.avg_pool2d(x, 2), move) if i < 2 else x)
        return self.last(F.relu(x).sum((2, 3)), move)[:, 0]


class Equal(nn.Module):
    """A dense (size 0) or convolutional layer with equalised learning rate; kernels are scaled when used."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, start: float = 0.0, rate: float = 1.0, bias=True
    ) -> None:
        super().__init__()
        shape = (outputs, inputs, size, size) if size else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(shape) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate)) if bias else None
        self.rate, self.gain = rate, rate / math.sqrt(inputs * max(size, 1) ** 2)

    def forward(self, x: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
        bias = None if self.bias is None else self.bias * self.rate
        weight = self.weight * self.gain
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        pad = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, bias, stride=stride, padding=pad)


def smooth(x: Tensor, pad: tuple[int, int], *, stride: int = 1, gain: float = 1.0) -> Tensor:
    """StyleGAN2's filter [1, 3, 3, 1] along both axes, as depthwise convolutions."""
    kernel = (FILTER.to(x.dtype) * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, stride=stride, groups=x.shape[1])


def smooth_up(x: Tensor) -> Tensor:
    """×2 by zeros between the pixels and the filter."""
    kernel = (FILTER.to(x.dtype) * 4).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Modulated(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, style: int, size: int = 3, *, up=False, demodulate=True
    ) -> None:
        super().__init__()
        self.affine = Equal(style, inputs, 0, start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.gain, self.up, self.demodulate = 1 / math.sqrt(inputs * size * size), up, demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales = self.affine(style)
        weight = self.weight * self.gain
        x = x * scales[:, :, None, None]
        if self.up:
            spread = weight.transpose(0, 1).flip(2, 3)
            y = smooth(F.conv_transpose2d(x, spread, stride=2), (1, 1), gain=4.0)
        else:
            y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            lengths = scales.square() @ weight.square().sum((2, 3)).mT
            y = y * torch.rsqrt(lengths + 1e-8)[:, :, None, None]
        return y


class Styled(nn.Module):
    def __init__(self, inputs: int, outputs: int, style: int, *, up: bool) -> None:
        super().__init__()
        self.conv = Modulated(inputs, outputs, style, up=up)
        self.noise = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y = self.conv(x, style)
        y = y + self.noise * torch.randn(y.shape[0], 1, *y.shape[2:], device=y.device)
        return F.leaky_relu(y + self.bias[None, :, None, None], 0.2) * ROOT2


class StyleGAN2Generator(nn.Module):
    """z → the sample, with style mixing; `styles` and `synthesis` apart for path lengths."""

    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        width = lambda side: channels(o["resolution"], side, o["gen_width"], o["gen_max"])
        dim, self.sides, self.latent, self.mixing = (
            o["style"],
            levels(o["resolution"]),
            o["latent"],
            o["mixing"],
        )
        self.mapping = nn.ModuleList(
            Equal(o["latent"] if i == 0 else dim, dim, 0, rate=o["mapping_rate"]) for i in range(o["mapping"])
        )
        self.constant = nn.Parameter(torch.randn(1, width(4), 4, 4))
        self.layers = nn.ModuleList([Styled(width(4), width(4), dim, up=False)])
        self.rgb = nn.ModuleList([self._to_rgb(width(4), dim)])
        for side in self.sides[1:]:
            self.layers.append(Styled(width(side // 2), width(side), dim, up=True))
            self.layers.append(Styled(width(side), width(side), dim, up=False))
            self.rgb.append(self._to_rgb(width(side), dim))
        self.rgb_bias = nn.ParameterList(torch.zeros(3) for _ in self.sides)

    def _to_rgb(self, inputs: int, dim: int) -> Modulated:
        return Modulated(inputs, 3, dim, 1, demodulate=False)

    def map(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2) * ROOT2
        return x

    def styles(self, z: Tensor) -> Tensor:
        """[N, layers, dim]; some images change to a second style half-way."""
        layers, n = 2 * len(self.sides), len(z)
        w, other = self.map(torch.cat([z, torch.randn_like(z)])).chunk(2)
        mixed = torch.rand(n, 1, device=z.device) < self.mixing
        change = torch.randint(1, layers, (n, 1), device=z.device)
        second = mixed & (torch.arange(layers, device=z.device)[None] >= change)
        return torch.where(second[:, :, None], other[:, None], w[:, None])

    def synthesis(self, styles: Tensor) -> tuple[Tensor]:
        """styles → the sample."""
        x = self.constant.expand(len(styles), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        image, layer = None, 0
        for level in range(len(self.sides)):
            for _ in range(2 if level else 1):
                x = self.layers[layer](x, styles[:, layer])
                layer += 1
            rgb = self.rgb[level](x, styles[:, layer]) + self.rgb_bias[level][None, :, None, None]
            image = rgb if image is None else smooth_up(image) + rgb
        assert image is not None
        return (image,)

    def forward(self, z: Tensor) -> tuple[Tensor]:
        return self.synthesis(self.styles(z))


class StyleGAN2Discriminator(nn.Module):
    def __init__(self, o: dict[str, Any]) -> None:
        super().__init__()
        width = lambda side: channels(o["resolution"], side, o["dis_width"], o["dis_max"])
        self.first = Equal(3, width(o["resolution"]), 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    Equal(width(side), width(side)),
                    Equal(width(side), width(side // 2)),
                    Equal(width(side), width(side // 2), 1, bias=False),
                ]
            )
            for side in levels(o["resolution"])[:0:-1]
        )
        self.conv = Equal(width(4) + 1, width(4))
        self.hidden = Equal(16 * width(4), width(4), 0)
        self.last = Equal(width(4), 1, 0)

    def forward(self, images: Sequence[Tensor], move: bool) -> Tensor:
        act = lambda x: F.leaky_relu(x, 0.2) * ROOT2
        x = act(self.first(images[-1]))
        for one, two, skip in self.blocks:
            y = act(one(x))
            y = act(two(smooth(y, (2, 2)), stride=2, padding=0))
            x = (y + skip(smooth(x, (1, 1), stride=2))) / ROOT2
        x = act(self.conv(stddev(x)))
        x = act(self.hidden(x.permute(0, 2, 3, 1).flatten(1)))
        return self.last(x)[:, 0]


NETWORKS: dict[str, tuple[Any, Any]] = {
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
    "resnet": (ResNetGenerator, ResNetDiscriminator),
    "stylegan2": (StyleGAN2Generator, StyleGAN2Discriminator),
}


def make(options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """G and D of the family `options["model"]`, on torch's default device."""
    global FILTER
    FILTER = FILTER.to(torch.get_default_device())
    gen, dis = NETWORKS[options["model"]]
    return gen(options), dis(options)
