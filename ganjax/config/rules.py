"""Rules for which options go together.

From this one table the checks, their messages and `docs/techniques.md` are made.

A rule has a test on the flat config, true where the combination is refused, and the reason in one sentence; what no
rule refuses combines. The names of the registries are looked up at each use, since plugins add to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganjax.config.names import DATASETS, FAMILIES, LOSSES, POLICIES, Names, having
from ganjax.runtime.errors import UserError

Flat = Mapping[str, Any]

TARGET_LOSSES = having(LOSSES, "has_targets")
WHOLE_BATCH_LOSSES = having(LOSSES, "whole_batch")
MIXTURES = having(DATASETS, "points")
IN_MEMORY = having(DATASETS, "in_memory")
ATTENTIVE = having(FAMILIES, "attention")
NO_DIS_NORM = Names(lambda: (name for name, facts in FAMILIES.items() if facts.get("dis_norm") is False))
# Families that make points: those of plugins have no resolutions.
OF_POINTS = Names(
    lambda: ("mlp", *(name for name, facts in FAMILIES.items() if facts.get("resolutions") == ()))
)


def own_norm(family: str) -> str | None:
    """Returns the normalisation, a value of `gen.norm`, that G of a family is made for; None for any."""
    return FAMILIES[family].get("gen_norm")


@dataclass(frozen=True)
class Rule:
    """Rule that refuses a combination.

    Attributes:
      keys: the keys that it is about.
      refused: flat config → True if it is refused.
      why: the reason; `{}` stands for `names`.
      names: names that the reason lists.
    """

    keys: tuple[str, ...]
    refused: Callable[[Flat], bool]
    why: str
    names: Sequence[str] = ()

    @property
    def reason(self) -> str:
        """The reason, in one sentence."""
        return self.why.format(", ".join(self.names))


def _of_each(one: str, other: str, refused: Callable[[Any, Any], bool], reason: str) -> list[Rule]:
    """Returns the rule about two options of an optimiser, for G's optimiser and for D's."""

    def rule(net: str) -> Rule:
        keys = (f"{net}.optimizer.{one}", f"{net}.optimizer.{other}")
        return Rule(keys, lambda c: refused(c[keys[0]], c[keys[1]]), reason)

    return [rule("gen"), rule("dis")]


RULES: tuple[Rule, ...] = (
    Rule(
        ("loss.label_smoothing", "loss.name"),
        lambda c: c["loss.label_smoothing"] > 0 and c["loss.name"] not in TARGET_LOSSES,
        "label smoothing moves the real target, which only {} have",
        TARGET_LOSSES,
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
        lambda c: (c["model.name"] in OF_POINTS) != (c["data.name"] in MIXTURES),
        "mlp makes 2-D points and is for {}; images need another family",
        MIXTURES,
    ),
    Rule(
        ("data.delivery", "data.name"),
        lambda c: c["data.delivery"] == "streaming" and c["data.name"] in IN_MEMORY,
        "these data are made in memory; what streams is a folder or a dataset of TFDS",
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
        ("model.name", "model.attention"),
        lambda c: c["model.attention"] > 0 and c["model.name"] not in ATTENTIVE,
        "self-attention is for {}; the other families have none",
        ATTENTIVE,
    ),
    Rule(
        ("gen.norm", "model.name"),
        lambda c: own_norm(c["model.name"]) not in (None, c["gen.norm"]),
        "these networks are made for one normalisation: {}",
        Names(lambda: (f"{own_norm(name)} for {name}" for name in FAMILIES if own_norm(name))),
    ),
    Rule(
        ("model.name", "dis.norm"),
        lambda c: c["model.name"] in NO_DIS_NORM and c["dis.norm"] != "none",
        "D of {} has no normalisation layers",
        NO_DIS_NORM,
    ),
    Rule(
        ("model.name", "gen.spectral_norm"),
        lambda c: c["model.name"] == "stylegan2" and c["gen.spectral_norm"],
        "demodulation divides the scale of every kernel of stylegan2's G out, so its spectral norm would do nothing",
    ),
    Rule(
        ("model.msg_scales", "model.msg"),
        lambda c: c["model.msg_scales"] != "all" and c["model.msg"] == "none",
        "the choice of scales needs multi-scale gradients",
    ),
    Rule(
        ("model.msg_images", "model.name", "model.msg"),
        lambda c: (
            c["model.msg_images"] == "separate"
            and (c["model.name"], c["model.msg"] != "none") != ("progan", True)
        ),
        "separate images of the scales are MSG-ProGAN's; the other families add them up",
    ),
    Rule(
        ("loss.path_length", "model.name"),
        lambda c: c["loss.path_length"] > 0 and c["model.name"] != "stylegan2",
        "path lengths are those of the styles, which only stylegan2 has",
    ),
    Rule(
        ("loss.auxiliary_classifier", "model.conditional"),
        lambda c: c["loss.auxiliary_classifier"] > 0 and not c["model.conditional"],
        "D's classifier learns from labels",
    ),
    Rule(
        ("penalty.final_scale", "dis.optimizer.schedule"),
        lambda c: c["penalty.final_scale"] != 1 and c["dis.optimizer.schedule"] == "constant",
        "the penalty's weight follows the schedule of D's learning rate, which is constant",
    ),
    Rule(
        ("augment.final_p", "augment.policy"),
        lambda c: c["augment.final_p"] > 0 and not _ada(c["augment.policy"]),
        "a strength is for augment.policy=ada",
    ),
    Rule(
        ("augment.color_share", "augment.policy"),
        lambda c: c["augment.color_share"] != 1 and not _ada(c["augment.policy"]),
        "a share of ADA's p is for augment.policy=ada",
    ),
    Rule(
        ("augment.final_p", "dis.optimizer.schedule"),
        lambda c: c["augment.final_p"] > 0 and c["dis.optimizer.schedule"] == "constant",
        "ADA's strength follows the schedule of D's learning rate, which is constant",
    ),
    *_of_each(
        "final_beta2",
        "schedule",
        lambda beta2, schedule: beta2 > 0 and schedule == "constant",
        "beta2 follows the schedule of the learning rate, which is constant",
    ),
    *_of_each("final_beta2", "name", lambda beta2, name: beta2 > 0 and name == "sgd", "sgd has no beta2"),
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
        "it takes ada, with cutout or alone, or parts of DiffAugment joined by commas: {}",
        Names(lambda: POLICIES),
    ),
    Rule(
        ("loss.name", "train.accumulate"),
        lambda c: c["train.accumulate"] > 1 and c["loss.name"] in WHOLE_BATCH_LOSSES,
        "relativistic average losses compare with the mean over the whole batch, which no part of it knows",
    ),
    Rule(
        ("loss.feature_matching", "train.accumulate"),
        lambda c: c["train.accumulate"] > 1 and c["loss.feature_matching"] > 0,
        "feature matching compares means over the whole batch, which no part of it knows",
    ),
    Rule(
        ("noise.schedule", "augment.policy"),
        lambda c: c["noise.std"] > 0 and c["noise.schedule"] == "ada" and not _ada(c["augment.policy"]),
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
        ("train.shared_forward", "train.dis_steps", "train.gen_steps"),
        lambda c: c["train.shared_forward"] and (c["train.dis_steps"], c["train.gen_steps"]) != (1, 1),
        "sharing the forward passes needs one update of each network a step",
    ),
    Rule(
        ("train.shared_forward", "train.accumulate"),
        lambda c: c["train.shared_forward"] and c["train.accumulate"] > 1,
        "the shared passes are over the whole batch at once",
    ),
    Rule(
        ("train.shared_forward", "train.fresh_reals"),
        lambda c: c["train.shared_forward"] and c["train.fresh_reals"],
        "one judgement serves both updates, so that both have the same reals",
    ),
    Rule(
        ("train.shared_forward", "loss.path_length"),
        lambda c: c["train.shared_forward"] and c["loss.path_length"] > 0,
        "path lengths need a pass through G of their own",
    ),
    Rule(
        ("train.shared_forward", "penalty.orthogonal"),
        lambda c: c["train.shared_forward"] and c["penalty.orthogonal"] > 0,
        "the shared pass gives G its gradient through the fakes alone",
    ),
    Rule(
        ("train.remat", "model.name"),
        lambda c: c["train.remat"] and c["model.name"] == "mlp",
        "only the networks for images have blocks to compute anew",
    ),
    Rule(
        ("train.balance_low", "train.balance_high"),
        lambda c: c["train.balance"] == "adaptive" and c["train.balance_low"] >= c["train.balance_high"],
        "the band of D's accuracy must have its low end below its high end",
    ),
)


def _parts(policy: str) -> list[str]:
    return [part.strip() for part in policy.split(",")] if policy else []


def _ada(policy: str) -> bool:
    return "ada" in _parts(policy)


def _known_policy(policy: str) -> bool:
    parts = _parts(policy)
    return parts in (["ada"], ["ada", "cutout"]) or all(part in POLICIES for part in parts)


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
