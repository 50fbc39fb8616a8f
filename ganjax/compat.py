"""The techniques, their options and sources, and which go together.

One table from which the checks, their messages and `docs/techniques.md` are made. A rule has a test on the flat
config, true where the combination is refused, and the reason in one sentence; what no rule refuses combines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ganjax.errors import UserError

Flat = Mapping[str, Any]

TARGET_LOSSES = ("minimax", "non_saturating", "least_squares")
MIXTURES = ("ring", "grid")
UNLABELLED = ("mlp", "dcgan")  # families without labels and attention
DIFF_AUGMENT = ("color", "translation", "cutout", "brightness", "saturation", "contrast")


@dataclass(frozen=True)
class Rule:
    """A refused combination: the keys it is about, when it holds, and why it is refused."""

    keys: tuple[str, ...]
    refused: Callable[[Flat], bool]
    reason: str


@dataclass(frozen=True)
class Technique:
    """A technique that a config can switch on.

    Attributes:
      name: as in `configs/technique.py:name=NAME`.
      lesson: which of the ten it belongs to.
      keys: its options; the first one switches it.
      source: paper, and section or equation.
      effect: what it does, in one sentence.
    """

    name: str
    lesson: int
    keys: tuple[str, ...]
    source: str
    effect: str


LESSONS: dict[int, str] = {
    1: "Network capacity",
    2: "Do not stop at a loss: watch the images",
    3: "The choice of loss",
    4: "The balance of D's and G's updates",
    5: "Learning rates and the other means against mode collapse",
    6: "Noise and augmentation on D's inputs",
    7: "Label smoothing",
    8: "Multi-scale gradients (MSG-GAN)",
    9: "Two learning rates (TTUR)",
    10: "Spectral normalisation and gradient penalties",
}


def _rates(*names: str) -> tuple[str, ...]:
    return tuple(f"{net}.optimizer.{name}" for name in names for net in ("gen", "dis"))


TECHNIQUES: tuple[Technique, ...] = (
    Technique(
        "capacity",
        1,
        ("gen.width", "dis.width", "gen.max_width", "dis.max_width", "gen.depth", "dis.depth"),
        "Radford et al. 2016; Brock et al. 2019, section 3.1",
        "wider and deeper networks; `--dry-run` shows what each costs and warns of a lopsided pair",
    ),
    Technique(
        "ema",
        2,
        ("ema.half_life_kimg", "ema.rampup"),
        "Karras et al. 2018; Yazıcı et al. 2019; half-life and ramp-up as in Karras et al. 2020b",
        "samples come from an average of G's weights and batch statistics over time",
    ),
    Technique(
        "loss",
        3,
        ("loss.name",),
        "Goodfellow et al. 2014; Mao et al. 2017; Lim & Ye 2017; Arjovsky et al. 2017; Jolicoeur-Martineau 2018",
        "nine adversarial losses",
    ),
    Technique(
        "loss_scale",
        3,
        ("loss.scale",),
        "Qin, Mitra & Wonka 2020",
        "the loss at α times the logits, over α: how much of its curve a Lipschitz D reaches",
    ),
    Technique(
        "updates",
        4,
        ("train.dis_steps", "train.gen_steps"),
        "Goodfellow et al. 2014, algorithm 1 (k steps); Arjovsky et al. 2017, algorithm 1 (5 steps)",
        "updates of each network in a step",
    ),
    Technique(
        "adaptive_balance",
        4,
        ("train.balance", "train.balance_high", "train.balance_low"),
        "folklore (Chintala et al. 2016, tip 14, advise against it)",
        "the network that is ahead, by D's running accuracy, rests",
    ),
    Technique(
        "schedule",
        5,
        _rates("schedule", "final_scale", "warmup_steps"),
        "Gulrajani et al. 2017 (linear to 0); Goyal et al. 2017 (warm-up)",
        "learning rates that warm up and fall",
    ),
    Technique(
        "optimizer",
        5,
        _rates("name", "beta1", "beta2", "eps", "weight_decay"),
        "Kingma & Ba 2015; Loshchilov & Hutter 2019; Tieleman & Hinton 2012; Chen et al. 2023",
        "adam, adamw, rmsprop, sgd or lion, for each network",
    ),
    Technique(
        "clip_norm",
        5,
        _rates("clip_norm"),
        "Pascanu et al. 2013",
        "the gradient of a network is shortened to this global norm",
    ),
    Technique(
        "accumulate",
        5,
        ("train.accumulate",),
        "Brock et al. 2019, section 3 (large batches)",
        "a batch larger than memory, in parts; gradients and losses are those of the whole",
    ),
    Technique(
        "feature_matching",
        5,
        ("loss.feature_matching",),
        "Salimans et al. 2016, section 3.1",
        "G also brings the mean of D's last features on fakes to that on reals",
    ),
    Technique(
        "minibatch_discrimination",
        5,
        ("dis.minibatch_discrimination",),
        "Salimans et al. 2016, section 3.2",
        "D sees how close a sample is to its neighbours in the batch, in a learned projection",
    ),
    Technique(
        "minibatch_stddev",
        5,
        ("dis.minibatch_stddev",),
        "Karras et al. 2018, section 3",
        "D sees the standard deviation over groups of four samples",
    ),
    Technique(
        "packing",
        5,
        ("dis.packing",),
        "Lin et al. 2018 (PacGAN)",
        "D judges m samples together",
    ),
    Technique(
        "noise",
        6,
        ("noise.std", "noise.schedule", "noise.end"),
        "Arjovsky & Bottou 2017; Sønderby et al. 2017",
        "Gaussian noise on reals and fakes, falling to zero",
    ),
    Technique(
        "diff_augment",
        6,
        ("augment.policy",),
        "Zhao et al. 2020 (DiffAugment)",
        "colour, translation and cutout on reals and fakes, in D's and in G's updates",
    ),
    Technique(
        "ada",
        6,
        ("augment.policy", "augment.target", "augment.speed_kimg"),
        "Karras et al. 2020b (ADA), appendix B",
        "augmentation whose strength follows how much D overfits",
    ),
    Technique(
        "label_smoothing",
        7,
        ("loss.label_smoothing",),
        "Salimans et al. 2016, section 3.4",
        "one-sided: the target of reals is 1 minus this",
    ),
    Technique(
        "label_flip",
        7,
        ("loss.label_flip",),
        "Chintala et al. 2016, tip 6",
        "for this share of pairs D is told the opposite",
    ),
    Technique(
        "msg",
        8,
        ("model.msg",),
        "Karnewar & Wang 2019, section 3",
        "G gives an image after every block, and D reads all of them",
    ),
    Technique(
        "ttur",
        9,
        _rates("learning_rate"),
        "Heusel et al. 2017",
        "a learning rate for each network",
    ),
    Technique(
        "spectral_norm",
        10,
        ("dis.spectral_norm", "gen.spectral_norm", "dis.spectral_iterations", "gen.spectral_iterations"),
        "Miyato et al. 2018; in G too: Zhang et al. 2019",
        "every kernel is divided by its largest singular value",
    ),
    Technique(
        "penalty",
        10,
        ("penalty.name", "penalty.weight"),
        "Gulrajani et al. 2017; Petzka et al. 2018; Kodali et al. 2017; Mescheder et al. 2018; Huang et al. 2024",
        "R1, R2, both, WGAN-GP (two- or one-sided) or DRAGAN; averaged over scales with MSG",
    ),
    Technique(
        "lazy_penalty",
        10,
        ("penalty.every",),
        "Karras et al. 2020a, appendix B",
        "the penalty at every k-th step, k times as strong",
    ),
    Technique(
        "drift",
        10,
        ("penalty.drift",),
        "Karras et al. 2018, appendix A",
        "keeps the critic of a Wasserstein loss near zero",
    ),
    Technique(
        "weight_clipping",
        10,
        ("penalty.clip_weights",),
        "Arjovsky et al. 2017, algorithm 1",
        "D's weights are cut to a box after each update",
    ),
    Technique(
        "lecam",
        10,
        ("penalty.lecam", "penalty.lecam_start"),
        "Tseng et al. 2021, equation 4",
        "D's logits stay near their running means on the other kind",
    ),
    Technique(
        "consistency",
        10,
        ("penalty.consistency", "penalty.consistency_fakes"),
        "Zhang et al. 2020 (CR-GAN); on fakes too: Zhao et al. 2021 (bCR)",
        "D's logit should not change under a small shift",
    ),
)

RULES: tuple[Rule, ...] = (
    Rule(
        ("loss.label_smoothing", "loss.name"),
        lambda c: c["loss.label_smoothing"] > 0 and c["loss.name"] not in TARGET_LOSSES,
        "label smoothing moves the real target, which only " + ", ".join(TARGET_LOSSES) + " have",
    ),
    Rule(
        ("dis.norm", "penalty.name"),
        lambda c: c["dis.norm"] == "batch" and c["penalty.name"] != "none",
        "a gradient penalty is per example, and batch normalisation in D ties the examples together",
    ),
    Rule(
        ("dis.norm", "dis.packing"),
        lambda c: c["dis.norm"] == "batch" and c["dis.packing"] > 1,
        "packing judges groups of samples, and batch normalisation in D would mix the groups",
    ),
    Rule(
        ("penalty.clip_weights", "dis.spectral_norm"),
        lambda c: c["penalty.clip_weights"] > 0 and c["dis.spectral_norm"],
        "spectral normalisation divides the scale of the weights out again, so clipping them does nothing",
    ),
    Rule(
        ("train.batch_size", "train.accumulate"),
        lambda c: c["train.batch_size"] % c["train.accumulate"] != 0,
        "accumulation needs parts of equal size, so train.accumulate must divide train.batch_size",
    ),
    Rule(
        ("train.batch_size", "dis.packing"),
        lambda c: c["train.batch_size"] % c["dis.packing"] != 0,
        "packing needs whole groups, so dis.packing must divide train.batch_size",
    ),
    Rule(
        ("model.name", "data.name"),
        lambda c: (c["model.name"] == "mlp") != (c["data.name"] in MIXTURES),
        "mlp makes 2-D points and is for ring and grid; images need another family",
    ),
    Rule(
        ("model.name", "model.msg"),
        lambda c: c["model.name"] == "mlp" and c["model.msg"] != "none",
        "multi-scale gradients need images of several resolutions, and mlp makes points",
    ),
    Rule(
        ("model.name", "gen.norm"),
        lambda c: c["model.name"] == "mlp" and c["gen.norm"] == "group",
        "group normalisation is for feature maps; mlp takes none, batch or pixel",
    ),
    Rule(
        ("model.name", "dis.minibatch_stddev"),
        lambda c: c["model.name"] == "mlp" and c["dis.minibatch_stddev"],
        "minibatch standard deviation is a feature map; mlp takes minibatch discrimination or packing",
    ),
    Rule(
        ("model.name", "model.conditional"),
        lambda c: c["model.conditional"] and c["model.name"] in UNLABELLED,
        "labels are for resnet; the other families take none",
    ),
    Rule(
        ("model.name", "model.attention"),
        lambda c: c["model.attention"] > 0 and c["model.name"] in UNLABELLED,
        "self-attention is for resnet; the other families have none",
    ),
    Rule(
        ("model.conditional", "dis.packing"),
        lambda c: c["model.conditional"] and c["dis.packing"] > 1,
        "D is told one label, and a group of samples may have several",
    ),
    Rule(
        ("data.name", "penalty.consistency"),
        lambda c: c["data.name"] in MIXTURES and c["penalty.consistency"] > 0,
        "consistency compares images with their augmented versions, and points have none",
    ),
    Rule(
        ("data.name", "data.flip"),
        lambda c: c["data.name"] in MIXTURES and c["data.flip"],
        "points have no mirror image",
    ),
    Rule(
        ("data.name", "augment.policy"),
        lambda c: c["data.name"] in MIXTURES and c["augment.policy"] != "",
        "image augmentation does not apply to points; instance noise does",
    ),
    Rule(
        ("augment.policy",),
        lambda c: not _known_policy(c["augment.policy"]),
        "it takes ada alone, or parts of DiffAugment joined by commas: " + ", ".join(DIFF_AUGMENT),
    ),
    Rule(
        ("loss.name", "train.accumulate"),
        lambda c: c["train.accumulate"] > 1 and c["loss.name"].startswith("ra_"),
        "relativistic average losses compare with the mean over the whole batch, which no part of it knows",
    ),
    Rule(
        ("loss.feature_matching", "train.accumulate"),
        lambda c: c["train.accumulate"] > 1 and c["loss.feature_matching"] > 0,
        "feature matching compares means over the whole batch, which no part of it knows",
    ),
    Rule(
        ("noise.schedule", "augment.policy"),
        lambda c: c["noise.std"] > 0 and c["noise.schedule"] == "ada" and c["augment.policy"] != "ada",
        "noise steered by ADA's p needs augment.policy=ada",
    ),
    Rule(
        ("gen.optimizer.warmup_steps", "train.steps"),
        lambda c: _ends_early(c, "gen"),
        "the schedule would end before it starts: warm-up must be shorter than the run",
    ),
    Rule(
        ("dis.optimizer.warmup_steps", "train.steps"),
        lambda c: _ends_early(c, "dis"),
        "the schedule would end before it starts: warm-up must be shorter than the run",
    ),
    Rule(
        ("train.balance_low", "train.balance_high"),
        lambda c: c["train.balance"] == "adaptive" and c["train.balance_low"] >= c["train.balance_high"],
        "the band of D's accuracy must have its low end below its high end",
    ),
)


def _known_policy(policy: str) -> bool:
    parts = [part.strip() for part in policy.split(",")] if policy else []
    return parts == ["ada"] or all(part in DIFF_AUGMENT for part in parts)


def _ends_early(c: Flat, net: str) -> bool:
    warmup = c[f"{net}.optimizer.warmup_steps"]
    return warmup > 0 and warmup >= c["train.steps"]


def check_combinations(flat: Flat) -> None:
    """Raises UserError for the first rule of `RULES` that refuses the flat config."""
    for rule in RULES:
        if rule.refused(flat):
            values = ", ".join(f"{key}={flat[key]!r}" for key in rule.keys)
            raise UserError(
                f"{values} do not go together: {rule.reason}."
                if len(rule.keys) > 1
                else f"{values}: {rule.reason}."
            )
