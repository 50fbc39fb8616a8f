"""SNGAN, cGAN-PD, SAGAN and WGAN-GP beside torch-mimicry: `tests/oracles/resnet_authors.npz`, see its `about`."""

from __future__ import annotations

import authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import gradient_norms_squared, wgan_gp
from ganjax.models import MODELS
from ganjax.models.mappings import export_weights
from ganjax.models.mappings import resnet as mapping
from ganjax.models.resnet import XAVIER, ResNetDiscriminator, ResNetGenerator

ORACLE = authors.load("resnet")
LABELS = np.arange(4, dtype=np.int32) % 5
WIDTHS = {
    32: 8,
    48: 2,
    64: 2,
    128: 1,
}  # theirs are 8 (G at 48 pixels) and 16 times as large from 48 pixels on
ALPHAS = np.linspace(0.1, 0.9, 4, dtype=np.float32)


def cases(*names: str, slow: tuple[str, ...]):
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


def side(case: str) -> int:
    return int("".join(c for c in case if c.isdigit()))


def generator(case: str):
    """A net and the entries of its mapping."""
    classes, attention = 5 if case[:2] in ("cg", "sa") else 0, 16 if case.startswith("sagan") else 0
    net = ResNetGenerator(
        side(case),
        3,
        (side(case),),
        width=WIDTHS[side(case)],
        classes=classes,
        attention=attention,
        spectral=attention // 16,
    )
    return net, mapping.generator(
        side(case), classes=classes, attention_side=attention, spectral=attention > 0
    )


def discriminator(case: str):
    """A net and the entries of its mapping; torch-mimicry's SAGAN has its attention at 8 pixels here."""
    classes, attention = 5 if case[:2] in ("cg", "sa") else 0, 8 if case.startswith("sagan") else 0
    spectral = 0 if case.startswith("wgan") else 1
    net = ResNetDiscriminator(
        side(case),
        width=WIDTHS[side(case)],
        classes=classes,
        attention=attention,
        spectral=spectral,
        mean=not spectral,
    )
    return net, mapping.discriminator(
        side(case), classes=classes, attention_side=attention, spectral=spectral > 0
    )


def labels(case: str):
    return LABELS if case[:2] in ("cg", "sa") else None


@pytest.mark.parametrize(
    "case", cases("sngan32", "cgan32", "sagan32", slow=("sngan48", "sngan64", "sngan128"))
)
def test_generator(case: str) -> None:
    net, entries = generator(case)
    authors.hold(authors.compare_gen(ORACLE, f"{case}/gen", net, entries, 16, labels(case)))


@pytest.mark.parametrize(
    "case",
    cases("sngan32", "sngan64", "cgan32", "sagan32", "wgan_gp32", slow=("sngan48", "sngan128", "wgan_gp48")),
)
def test_discriminator(case: str) -> None:
    net, entries = discriminator(case)
    authors.hold(authors.compare_dis(ORACLE, f"{case}/dis", net, entries, side(case), labels(case)))


def test_losses() -> None:
    real, fake = authors.slopes(8, seed=1), authors.slopes(8, seed=2)
    hinge, wasserstein = LOSSES["hinge"], LOSSES["wasserstein"]
    terms = (
        hinge.dis(real, fake),
        hinge.gen(None, fake),
        wasserstein.dis(real, fake),
        wasserstein.gen(None, fake),
    )
    assert authors.error([np.mean(x) for x in terms], ORACLE["losses"]) < 1e-6


def exact_penalty(dis, reals, fakes):
    """10 (‖∇D‖ − 1)² [N], without the 1e-4 that ours adds inside the root for a finite gradient where D is flat."""
    # Their alpha is the share of the reals, ours that of the fakes.
    mixed = (ALPHAS[:, None, None, None] * (reals[0] - fakes[0]) + fakes[0],)
    return 10.0 * jnp.square(jnp.sqrt(gradient_norms_squared(dis, mixed)[0]) - 1)


def test_gradient_penalty() -> None:
    """Of gradients near 1."""
    net, entries = discriminator("wgan_gp32")
    variables = authors.fill(entries, authors.template(net, (authors.images(4, 32),), None), 25)
    variables["params"]["Dense_0"]["Dense_0"]["kernel"] *= 30
    reals, fakes = (authors.images(4, 32),), (authors.images(4, 32, seed=17),)

    def penalty(params):
        dis = lambda x: net.apply({"params": params}, x, train=True)
        ours = 10.0 * jnp.mean(wgan_gp(dis, reals, fakes, 1 - ALPHAS))
        return jnp.mean(exact_penalty(dis, reals, fakes)), ours

    (exact, ours), grads = jax.jit(jax.value_and_grad(penalty, has_aux=True))(variables["params"])
    assert authors.error(exact[None], ORACLE["wgan_gp32/penalty"]) < 1e-5
    assert authors.error(ours, exact) < 1e-3
    expected = {
        name: x for name, x in authors.gradients(ORACLE, "wgan_gp32/penalty_grad/").items() if np.any(x)
    }
    assert max(authors.parameter_errors(expected, entries, variables, grads).values()) < 1e-4


@pytest.mark.slow
def test_initial_weights() -> None:
    """Xavier's in each layer of SNGAN at 64 pixels, √2 times as large in 3×3 convolutions of blocks.

    Offsets are not compared: torch-mimicry's start as PyTorch's do, the authors' and ours at 0.
    """
    gen = ResNetGenerator(64, 3, (64,), width=32)
    dis = ResNetDiscriminator(64, width=32)
    z, x = authors.latents(4, 64), authors.images(4, 64)
    for name, net, entries, given in (
        ("gen", gen, mapping.generator(64), z),
        ("dis", dis, mapping.discriminator(64), (x,)),
    ):
        variables = authors.drawn(net, given, None)
        found = export_weights([entry for entry in entries if entry.ours[0] == "params"], variables)
        authors.hold_starts(found, authors.gradients(ORACLE, f"init/{name}/"), skip=(".bias",))


def test_sagan_starts_with_xavier_throughout() -> None:
    """brain-research/self-attention-gan, ops.py: every kernel by TensorFlow's `xavier_initializer`."""
    gen, dis = MODELS["resnet"].networks(authors.spec(32, classes=5, attention=16, width=64))
    assert gen.block_init is dis.block_init is dis.kernel_init is XAVIER
    assert dis.wide
    assert not dis.mean


@pytest.mark.parametrize("case", cases("sngan32", slow=("wgan_gp32",)))
def test_ten_steps(case: str) -> None:
    net, entries = generator(case)
    gen = net, authors.fill(entries, authors.template(net, authors.latents(4, 16), None), 24)
    net, entries = discriminator(case)
    dis = net, authors.fill(entries, authors.template(net, (authors.images(4, 32),), None), 25)
    penalised = case == "wgan_gp32"
    rules = authors.Rules("wasserstein", penalty=exact_penalty) if penalised else authors.Rules("hinge")
    losses, variables = authors.ten_steps(
        gen, dis, rules, size=16, side=32, labels=None, seeds=lambda i: (100 + i, 300 + i)
    )
    image = authors.image_of(gen[0], variables, authors.latents(4, 16), None)
    assert authors.error(losses, ORACLE[f"{case}/steps"]) < 2e-3
    assert authors.error(authors.sample(image), ORACLE[f"{case}/steps_images"]) < 2e-2
