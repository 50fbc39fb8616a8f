"""Parameters of the paper's networks, equal to the published or publicly readable counts."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

from ganjax.models import MODELS
from ganjax.models.base import Spec


def counts(
    name,
    resolution,
    *,
    latent=128,
    classes=0,
    attention=0,
    msg="none",
    separate=False,
    width=(64, 64),
    **options,
):
    """Parameters of G and D; `options` for both, with `gen_` or `dis_` in front for one."""
    common = {
        "max_width": 1 << 20,
        "depth": 2,
        "spectral_norm": True,
        "spectral_iterations": 1,
        "minibatch_stddev": False,
        "stddev_group": 4,
        "label_layers": 0,
        "minibatch_discrimination": 0,
        "style_dim": 512,
        "mapping_layers": 8,
        "mapping_rate": 0.01,
        "style_mixing": 0.9,
        **{key: value for key, value in options.items() if key[:4] not in ("gen_", "dis_")},
    }
    nets = []
    for i, (net, norm) in enumerate((("gen", "batch"), ("dis", "none"))):
        own = {key[4:]: value for key, value in options.items() if key.startswith(f"{net}_")}
        nets.append({"norm": norm, **common, "width": width[i], **own})
    family = MODELS[name]
    sides = family.sides(resolution) if msg != "none" else (resolution,)
    spec = Spec(
        resolution, 3, sides, classes, False, msg, attention, *nets, None, jnp.float32, separate=separate
    )
    gen, dis = family.networks(spec)
    key = jax.eval_shape(lambda: jax.random.key(0))
    latents, labels = jax.ShapeDtypeStruct((4, latent), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    init = lambda net: lambda k, x, y: net.init_with_output(k, x, y, train=True)
    images, gen_vars = jax.eval_shape(init(gen), key, latents, labels)
    _, dis_vars = jax.eval_shape(init(dis), key, images, labels)
    return tuple(sum(x.size for x in jax.tree.leaves(v["params"])) for v in (gen_vars, dis_vars))


def conv(i, o, k):
    return i * o * k * k + o


def test_sngan_32():
    """G: 4,276,739, as torch-mimicry (kwotsin/mimicry, sngan_32) has it; D by Miyato et al. 2018, table 4."""
    gen, dis = counts("resnet", 32, width=(256, 128))
    assert gen == 4_276_739
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    halving = 2 * conv(128, 128, 3) + conv(128, 128, 1)
    assert dis == first + halving + 2 * 2 * conv(128, 128, 3) + 128 + 1 == 1_053_825


def sngan_dis(widths):
    """D of SNGAN: between its convolutions a block has the channels of what it gets."""
    first = conv(3, widths[0], 3) + conv(widths[0], widths[0], 3) + conv(3, widths[0], 1)
    blocks = sum(
        conv(i, i, 3) + conv(i, o, 3) + (conv(i, o, 1) if i != o else 0)
        for i, o in itertools.pairwise(widths)
    )
    return first + blocks + widths[-1] + 1


@pytest.mark.parametrize(
    ("resolution", "gen", "dis", "widths"),
    [
        (48, 4_878_083, 10_141_441, (64, 128, 256, 512, 1024)),
        (64, 12_220_675, 10_141_441, (64, 128, 256, 512, 1024)),
        (128, 32_150_787, 29_017_857, (64, 128, 256, 512, 1024, 1024)),
    ],
)
def test_sngan_48_to_128(resolution, gen, dis, widths):
    """As torch-mimicry's sngan_48, sngan_64 and sngan_128 count their parameters."""
    assert counts("resnet", resolution) == (gen, dis)
    assert dis == sngan_dis(widths)


def test_labels_and_attention_add_the_parameters_they_should():
    base = counts("resnet", 32, width=(256, 128))
    labelled = counts("resnet", 32, width=(256, 128), classes=10)
    # Six norms of 256 channels get a scale and an offset for ten classes instead of one; D gets a row a class.
    assert labelled[0] - base[0] == 6 * 2 * 256 * 9
    assert labelled[1] - base[1] == 10 * 128
    looking = counts("resnet", 32, width=(256, 128), attention=16)
    for got, had, c in zip(looking, base, (256, 128), strict=True):
        assert got - had == 2 * c * (c // 8) + 2 * c * (c // 2) + 1


def test_sagan_128():
    """The comment in google/compare_gan's BigGAN (architectures/resnet_biggan.py) on the networks "ch 64, no tricks".

    Together 81.5 M, the first row of table 1 of Brock et al. 2019: SAGAN's with attention at 64 pixels.
    """
    assert counts("resnet", 128, classes=1000, attention=64) == (42_017_412, 39_448_258)


def test_biggan_128():
    """google/compare_gan, architectures/resnet_biggan_test.py asserts these; without the class embedding of G, which
    is 1000·128, they are the 158.3 M of table 1 of Brock et al. 2019."""
    gen, dis = counts("biggan", 128, latent=120, classes=1000, attention=64, width=(96, 96))
    assert (gen, dis) == (70_433_988, 87_982_370)
    assert round((gen - 128_000 + dis) / 1e6, 1) == 158.3


def bottleneck(i, o, *, condition=0):
    """A block of BigGAN-deep: four convolutions, and in G four norms of them whose scale and offset see `condition`."""
    h = (i if condition else o) // 4
    norms = 2 * condition * (i + 3 * h)
    return conv(i, h, 1) + 2 * conv(h, h, 3) + conv(h, o, 1) + norms


def test_biggan_deep_128():
    """Brock et al. 2019, tables 7 and 8, block by block."""
    gen, dis = counts("biggan_deep", 128, classes=1000, attention=64, width=(128, 128))
    ch, z = 128, 256
    widths = [16 * ch, 16 * ch, 8 * ch, 4 * ch, 2 * ch, ch]
    attention = lambda c: 2 * c * (c // 8) + 2 * c * (c // 2) + 1
    blocks = sum(
        bottleneck(i, i, condition=z) + bottleneck(i, o, condition=z) for i, o in itertools.pairwise(widths)
    )
    first = z * 16 * widths[0] + 16 * widths[0]
    last = 2 * ch + conv(ch, 3, 3)
    assert gen == 1000 * 128 + first + blocks + attention(2 * ch) + last
    down = widths[::-1]
    blocks = sum(
        bottleneck(i, o) + (conv(i, o - i, 1) if o > i else 0) + bottleneck(o, o)
        for i, o in itertools.pairwise(down)
    )
    assert dis == conv(3, ch, 3) + blocks + attention(2 * ch) + 16 * ch + 1 + 1000 * 16 * ch


@pytest.mark.parametrize(
    ("resolution", "width", "expected"),
    [(1024, 32, (30_370_060, 29_012_513)), (256, 64, (24_767_458, 24_001_089))],
)
def test_stylegan2(resolution, width, expected):
    """The tables that stylegan2-ada-pytorch (NVlabs) prints as it starts.

    A log of it at 1024 pixels has G 28,794,124 with 2 of the 8 mapping layers of 262,656, and D 29,012,513.
    Configuration paper256 has half the channels: the sums of that table's rows of 512 to 64 channels, whose sizes
    depend on nothing but channels.
    """
    options = {"max_width": 512, "minibatch_stddev": True, "spectral_norm": False}
    found = counts("stylegan2", resolution, latent=512, width=(width, width), gen_norm="none", **options)
    assert found == expected
    if resolution == 1024:
        assert found[0] - 6 * 262_656 == 28_794_124
    else:
        gen = 8 * 262_656 + 8_192 + 7 * 2_622_465 + 4 * 264_195 + 1_442_561 + 721_409 + 132_099
        assert gen + 426_369 + 213_249 + 66_051 + 139_457 + 69_761 + 33_027 == found[0]


def test_r3gan_cifar10():
    """The published network (brownvc/R3GAN: 768 channels in four stages of two blocks, 96 groups, z of 64) by layers.

    No count is published for CIFAR-10. A block is 1×1 to 1536, 3×3 in 96 groups, 1×1 back, and two biases of 1536.
    """
    gen, dis = counts("r3gan", 32, latent=64, width=(768, 768), max_width=768, spectral_norm=False)
    block = 2 * 768 * 1536 + 9 * 1536 * 16 + 2 * 1536
    assert gen == 8 * block + 64 * 768 + 16 * 768 + 3 * 768 == 20_732_160
    assert dis == 8 * block + 3 * 768 + 16 * 768 + 768 == 20_683_776


def test_progan_1024():
    """Karras et al. 2018, table 2: 23.1 M parameters each; MSG adds G's RGB layers and D's wider convolutions."""
    options = {"max_width": 512, "minibatch_stddev": True, "spectral_norm": False, "gen_norm": "pixel"}
    gen, dis = counts("progan", 1024, latent=512, width=(16, 16), **options)
    assert round(gen / 1e6, 1) == round(dis / 1e6, 1) == 23.1
    msg = counts("progan", 1024, latent=512, width=(16, 16), msg="simple", separate=True, **options)
    widths = (512, 512, 512, 512, 256, 128, 64, 32)
    assert msg[0] - gen == sum(3 * width + 3 for width in widths)
    # Every block but the first gets three channels of RGB and, but for the last, which had it, one of deviation.
    assert msg[1] - dis == sum(9 * width * 4 for width in (16, *widths[1:])) - 9 * 16 * 3 + 9 * 512 * 3
