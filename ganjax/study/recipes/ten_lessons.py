"""The ten lessons of GAN training put to the test: each as a comparison with a plain GAN, over seeds.

    ganjax ablate --config=ten_lessons:grid --workdir=runs/ten_lessons_grid

Argument: the data, `grid`, `stacked_digits`, `digits`, `fashion_mnist` (32×32, for a GPU) or `fashion_mnist_small`
(16×16). The base is a plain GAN: non-saturating loss, the same learning rate in G and D, one update each, no noise, no
smoothing, no spectral norm, one scale. Every variant changes one thing, and says what the lesson claims of it.
`docs/ten_lessons.md` has what came out. Images get fewer losses, one of each kind, and budgets that two CPU cores
finish in about an hour: what helps early, not what is best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ganjax.config import default_config
from ganjax.runtime.errors import UserError, nearest
from ganjax.study import Study, Variant

LOSSES = (
    "minimax",
    "hinge",
    "least_squares",
    "wasserstein",
    "ra_non_saturating",
    "ra_hinge",
    "ra_least_squares",
    "rp_non_saturating",
)
LOSSES_ON_IMAGES = ("minimax", "hinge", "least_squares", "wasserstein", "rp_non_saturating")
MAX_WIDTH = 128
SN_DIS = {"dis.spectral_norm": True}


@dataclass(frozen=True)
class Size:
    """What a data set gets: thousand images a run, rate of both networks, width, batch, and the numbers that count."""

    kimg: float
    rate: float
    width: int
    batch: int
    metrics: dict[str, str]
    samples: int
    seeds: int = 6
    resolution: int = 0  # the data set's own


MODES = {"modes": "higher", "kl": "lower"}
ON_FASHION = {"fid": "lower", "kl": "lower", "coverage": "higher"}
SIZES = {
    "grid": Size(1024, 1e-3, 128, 128, {"coverage": "higher", **MODES, "high_quality": "higher"}, 2500),
    "stacked_digits": Size(
        32, 1e-3, 16, 32, {"kl": "lower", "modes": "higher", "fid": "lower"}, 5000, seeds=5
    ),
    "digits": Size(24, 1e-3, 16, 32, {"fid": "lower", "kl": "lower", "coverage": "higher"}, 2000, seeds=5),
    "fashion_mnist": Size(48, 1e-3, 16, 64, ON_FASHION, 2000, resolution=32),
    "fashion_mnist_small": Size(12, 1e-3, 16, 16, ON_FASHION, 2000, seeds=5, resolution=16),
}


def base(data: str, size: Size):
    """The plain GAN."""
    config = default_config()
    config.data.name = data.removesuffix("_small")
    points = data == "grid"
    config.model.name = "mlp" if points else "dcgan"
    config.model.latent_dim = 2 if points else 32
    config.data.resolution = size.resolution
    for net in (config.gen, config.dis):
        net.width = size.width
        net.depth = 4 if points else 1
        net.max_width = MAX_WIDTH
        net.spectral_norm = False
        net.optimizer.learning_rate = size.rate
    config.gen.norm = "none" if points else "pixel"
    config.loss.name = "non_saturating"
    config.train.batch_size = size.batch
    config.ema.half_life_kimg = size.kimg / 50
    config.log.samples = 64
    return config


def rates(gen: float, dis: float) -> dict[str, float]:
    """Learning rates of G and D."""
    return {"gen.optimizer.learning_rate": gen, "dis.optimizer.learning_rate": dis}


def capacity(width: int) -> list[Variant]:
    """Lesson 1."""
    claim = "more capacity helps, and too little hurts"
    name = {"gen": "G", "dis": "D"}
    return [
        Variant(
            f"{name[net]} {sign}",
            {f"{net}.width": int(width * factor), f"{net}.max_width": int(MAX_WIDTH * factor)},
            "1 capacity",
            expected,
            claim,
        )
        for net in ("gen", "dis")
        for sign, factor, expected in (("×½", 0.5, "worse"), ("×2", 2, "better"))
    ]


def losses(names: Sequence[str]) -> list[Variant]:
    """Lesson 3: the losses, and each with spectral norm in D."""
    claim = "the loss matters"
    with_norm = "the loss matters less where D is Lipschitz"
    plain = [Variant(name, {"loss.name": name}, "3 loss", "", claim) for name in names]
    bounded = [
        Variant(f"{name} + SN", {"loss.name": name, **SN_DIS}, "3 loss", "better", with_norm)
        for name in names  # the base's own loss with spectral norm is in lesson 10
    ]
    return plain + bounded


def mechanics(rate: float) -> list[Variant]:
    """Lessons 4 to 7 and 9."""
    slow, fast = "lower rates against collapse", "high rates collapse"
    return [
        Variant("5 D : 1 G", {"train.dis_steps": 5}, "4 balance", "", "updates have to be balanced"),
        Variant("1 D : 3 G", {"train.gen_steps": 3}, "4 balance", "worse", "updates have to be balanced"),
        Variant("adaptive", {"train.balance": "adaptive"}, "4 balance", "better", "D should wait for G"),
        Variant("rates ×¼", rates(rate / 4, rate / 4), "5 learning rate", "better", slow),
        Variant("rates ×½", rates(rate / 2, rate / 2), "5 learning rate", "better", slow),
        Variant("rates ×4", rates(4 * rate, 4 * rate), "5 learning rate", "worse", fast),
        Variant("rates ×16", rates(16 * rate, 16 * rate), "5 learning rate", "worse", fast),
        Variant(
            "feature matching",
            {"loss.feature_matching": 1.0},
            "5 learning rate",
            "better",
            "helps against collapse",
        ),
        Variant(
            "minibatch discrimination",
            {"dis.minibatch_discrimination": 16},
            "5 learning rate",
            "better",
            "helps against collapse",
        ),
        Variant(
            "noise, constant",
            {"noise.std": 0.1, "noise.schedule": "constant"},
            "6 noise",
            "better",
            "noise on D's inputs steadies it",
        ),
        Variant(
            "noise, annealed", {"noise.std": 0.1}, "6 noise", "better", "noise on D's inputs steadies it"
        ),
        Variant(
            "smoothing .9", {"loss.label_smoothing": 0.1}, "7 smoothing", "better", "keeps D from certainty"
        ),
        Variant(
            "TTUR, D ×4", rates(rate / 2, rate * 2), "9 two rates", "better", "D should learn faster than G"
        ),
        Variant(
            "inverted, G ×4",
            rates(rate * 2, rate / 2),
            "9 two rates",
            "worse",
            "D should learn faster than G",
        ),
    ]


def spectral() -> list[Variant]:
    """Lesson 10; the base has none."""
    claim = "spectral norm steadies the game, in both networks"
    return [
        Variant("SN in D", SN_DIS, "10 spectral norm", "better", claim),
        Variant("SN in G", {"gen.spectral_norm": True}, "10 spectral norm", "better", claim),
        Variant("SN in both", {**SN_DIS, "gen.spectral_norm": True}, "10 spectral norm", "better", claim),
    ]


def get_study(arg: str = "grid") -> Study:
    if arg not in SIZES:
        raise UserError(
            f"There is no data {arg!r} for this study; choose one of {', '.join(SIZES)}.{nearest(arg, SIZES)}"
        )
    size = SIZES[arg]
    names = LOSSES if arg == "grid" else LOSSES_ON_IMAGES
    variants = [*capacity(size.width), *losses(names), *mechanics(size.rate)]
    if arg != "grid":  # points have no scales
        variants.append(
            Variant("MSG", {"model.msg": "simple"}, "8 MSG", "better", "all scales get gradients")
        )
    variants += spectral()
    return Study(
        title=f"The ten lessons on {arg}",
        base=base(arg, size),
        variants=sorted(variants, key=lambda variant: int(variant.group.split()[0])),
        metrics=size.metrics,
        seeds=tuple(range(size.seeds)),
        kimg=size.kimg,
        evaluations=4 if arg == "grid" else 3,
        samples=size.samples,
    )
