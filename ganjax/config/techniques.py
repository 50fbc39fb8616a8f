"""Techniques of the ten lessons: their options, sources and effects, for `docs/techniques.md` and the recipes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Technique:
    """Technique that a config can switch on.

    Attributes:
      name: the NAME in `configs/technique.py:name=NAME`.
      lesson: the lesson, of ten, that it belongs to.
      keys: the keys of its options; the first one switches it on.
      source: the paper, and the section or equation.
      effect: a sentence that says what it does.
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
        "the adversarial loss of both networks",
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
        "labels",
        5,
        ("model.conditional",),
        "Mirza & Osindero 2014; D projects: Miyato & Koyama 2018; G's norms by class: Dumoulin et al. 2017",
        "both networks are told the class",
    ),
    Technique(
        "auxiliary_classifier",
        5,
        ("loss.auxiliary_classifier",),
        "Odena et al. 2017 (AC-GAN)",
        "D also names the class of reals and fakes, and G wants to be named rightly",
    ),
    Technique(
        "schedule",
        5,
        _rates("schedule", "final_scale", "schedule_end", "warmup_steps", "final_beta2"),
        "Gulrajani et al. 2017 (linear to 0); Goyal et al. 2017 (warm-up); Huang et al. 2024 (β₂ with the rate)",
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
        "remat",
        1,
        ("train.remat",),
        "Chen et al. 2016, section 3",
        "networks larger than memory: only what goes into each block is kept for its backward pass; same gradients",
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
        ("dis.minibatch_stddev", "dis.stddev_group"),
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
        ("augment.policy", "augment.target", "augment.speed_kimg", "augment.final_p", "augment.color_share"),
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
        ("model.msg", "model.msg_scales", "model.msg_images"),
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
        ("penalty.name", "penalty.weight", "penalty.final_scale"),
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
        "orthogonal",
        10,
        ("penalty.orthogonal",),
        "Brock et al. 2019, equation 3",
        "the columns of G's kernels are kept apart, but not their lengths",
    ),
    Technique(
        "path_length",
        10,
        ("loss.path_length", "loss.path_length_every"),
        "Karras et al. 2020a, section 3.2",
        "a step of the style changes the image by a fixed length (stylegan2)",
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
