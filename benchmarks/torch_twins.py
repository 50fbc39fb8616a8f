"""The benchmarks' games in PyTorch: the same networks, losses, penalties and batches as ganjax's, written anew.

A worker of `train_speed.py`, run by a Python that has torch; it answers requests on its input:

    python benchmarks/torch_twins.py '{"options": {…}, "compile": true, "channels_last": true}'

Chosen for speed: channels-last kernels and images, fused Adam, `_foreach` averages, no gradient into the network that
rests, spectral norm by hand (one iteration in D's update and none in G's, as ganjax has it). `torch.compile` covers
losses with their backward pass; R1 and path lengths, whose second derivative it does not support, run eagerly. On a
GPU, where there is one, products may take TF32 as JAX's do, cuDNN chooses its kernels by trial, and with `graphs` what
is compiled is replayed as CUDA graphs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_networks as networks
from measure import random_images, serve
from torch.nn import functional as F

Tensor = torch.Tensor


class Game:
    """Two networks, their optimisers and G's average; `step` is one step of ganjax."""

    def __init__(
        self, options: dict[str, Any], *, compiled: bool, channels_last: bool, amp: bool, graphs: bool = False
    ) -> None:
        self.options = options
        torch.manual_seed(0)
        self.gen, self.dis = networks.make(options)
        if channels_last:
            self.gen.to(memory_format=torch.channels_last)
            self.dis.to(memory_format=torch.channels_last)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.average = [p.detach().clone() for p in self.gen.parameters()]
        self.optimizers = {
            name: torch.optim.Adam(
                net.parameters(), lr=options[f"{name}_rate"], betas=(0.0, options["beta2"]), fused=True
            )
            for name, net in (("gen", self.gen), ("dis", self.dis))
        }
        self.amp = amp
        self.device = next(self.gen.parameters()).device.type
        self.data = torch.from_numpy(random_images(options["resolution"])).to(self.device)
        self.steps = 0
        self.path_mean = torch.zeros(())
        mode = "reduce-overhead" if graphs else "default"
        wrap: Callable[[Any], Any] = (lambda f: torch.compile(f, mode=mode)) if compiled else lambda f: f
        self.dis_loss, self.gen_loss = wrap(self._dis_loss), wrap(self._gen_loss)
        self.fakes = wrap(self._fakes)

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)

    def latents(self) -> Tensor:
        return torch.randn(self.options["batch"], self.options["latent"])

    def reals(self) -> tuple[Tensor, ...]:
        """The pyramid of a batch, [N, C, r, r] in [-1, 1], lowest resolution first."""
        chosen = self.data[torch.randint(len(self.data), (self.options["batch"],))]
        x = chosen.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.format).div_(127.5).sub_(1.0)
        scales = [x]
        while self.options["msg"] and scales[0].shape[-1] > 4:
            scales.insert(0, F.avg_pool2d(scales[0], 2))
        return tuple(scales)

    def _fakes(self, z: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), self.autocast():
            return tuple(x.float() for x in self.gen(z))

    def _dis_loss(self, reals: tuple[Tensor, ...], fakes: tuple[Tensor, ...]) -> Tensor:
        """Hinge, or non-saturating, on reals and fakes in one pass; spectral vectors move."""
        both = tuple(torch.cat(pair) for pair in zip(reals, fakes, strict=True))
        with self.autocast():
            real, fake = self.dis(both, move=True).float().chunk(2)
        if self.options["loss"] == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def _gen_loss(self, z: Tensor) -> Tensor:
        with self.autocast():
            fake = self.dis(self.gen(z), move=False).float()
        return -fake.mean() if self.options["loss"] == "hinge" else F.softplus(-fake).mean()

    def r1(self, reals: tuple[Tensor, ...]) -> Tensor:
        """½‖∇D‖², weighted, times the steps that it skips."""
        images = reals[-1].detach().requires_grad_()
        with self.autocast():
            answers = self.dis((images,), move=False).float()
        (slope,) = torch.autograd.grad(answers.sum(), images, create_graph=True)
        return self.options["r1"] * self.options["r1_every"] * 0.5 * slope.square().sum((1, 2, 3)).mean()

    def path_length(self) -> Tensor:
        """(‖Jᵀy‖ − a)² of half a batch, weighted, times the steps that it skips."""
        z = self.latents()[: self.options["batch"] // 2]
        with self.autocast():
            styles = self.gen.styles(z)
        offsets = torch.zeros_like(styles, requires_grad=True)
        with self.autocast():
            image = self.gen.synthesis(styles + offsets)[-1].float()
        noise = torch.randn_like(image) / (image.shape[2] * image.shape[3]) ** 0.5
        (slope,) = torch.autograd.grad((image * noise).sum(), offsets, create_graph=True)
        lengths = (slope.square().sum(2).mean(1) + 1e-8).sqrt()
        self.path_mean = self.path_mean + 0.01 * (lengths.detach().mean() - self.path_mean)
        return self.options["path"] * self.options["path_every"] * (lengths - self.path_mean).square().mean()

    def step(self) -> None:
        """`dis_steps` updates of D, one of G, and the average."""
        options = self.options
        for p in self.dis.parameters():
            p.requires_grad_(True)
        for _ in range(options["dis_steps"]):
            torch.compiler.cudagraph_mark_step_begin()
            reals = self.reals()
            loss = self.dis_loss(reals, self.fakes(self.latents()))
            if options["r1"] and self.steps % options["r1_every"] == 0:
                loss = loss + self.r1(reals)
            loss.backward()
            self.update("dis")
        for p in self.dis.parameters():
            p.requires_grad_(False)
        torch.compiler.cudagraph_mark_step_begin()
        loss = self.gen_loss(self.latents())
        if options["path"] and self.steps % options["path_every"] == 0:
            loss = loss + self.path_length()
        loss.backward()
        self.update("gen")
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.gen.parameters()), 1 - options["ema"])
        self.steps += 1

    def update(self, name: str) -> None:
        self.optimizers[name].step()
        self.optimizers[name].zero_grad(set_to_none=True)

    def advance(self, steps: int) -> None:
        """So many steps, and waits for them."""
        for _ in range(steps):
            self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    request = json.loads(sys.argv[1])
    networks.JOINED = request.get("joined", False)
    torch.set_num_threads(request.get("threads", 2))
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    game = Game(
        request["options"],
        compiled=request["compile"],
        channels_last=request["channels_last"],
        amp=request.get("amp", False),
        graphs=request.get("graphs", False),
    )
    count = lambda net: sum(p.numel() for p in net.parameters())
    game.advance(request.get("warm_up", 2))
    serve(
        game.advance, gen=count(game.gen), dis=count(game.dis), version=torch.__version__, device=game.device
    )


if __name__ == "__main__":
    main()
