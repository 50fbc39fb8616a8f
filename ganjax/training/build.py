"""The only code that turns a config into networks, optimisers, objectives and a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ganjax.config.recipe import flatten
from ganjax.data import Dataset
from ganjax.data.delivery import MakeBatch, make_delivery
from ganjax.data.images import at_sides
from ganjax.losses import penalties, terms
from ganjax.losses.adversarial import LOSSES
from ganjax.losses.objective import Objective, Term
from ganjax.losses.penalties import PENALTIES
from ganjax.models import MODELS
from ganjax.models.base import Spec
from ganjax.models.latents import make_latents
from ganjax.models.layers import native
from ganjax.models.layers.layers import DISCRIMINATION_GROUP
from ganjax.runtime.errors import UserError
from ganjax.runtime.keys import Stream, fold_each, stream_key
from ganjax.runtime.programs import Programs
from ganjax.training.control import initial_control, make_average, make_control_update, make_transform
from ganjax.training.forward import GAN, Player, dis_forward, gen_forward
from ganjax.training.optim import Optimizer, make_chain, make_progress, make_schedule
from ganjax.training.state import GanState, NetState, copy_tree

Tree = Any
# Sides in pixels that each choice connects, named as StyleGAN names its styles; the last side always is.
MSG_SCALES = {"all": (4, math.inf), "coarse": (4, 8), "middle": (16, 32), "fine": (64, math.inf)}


@dataclass(frozen=True)
class Build:
    """Config made ready to run.

    Attributes:
      gan: the static part of the step.
      init: the function () → the first state.
      initialise: the function from `make_hyper` of a config that shares this program to its first state.
      shapes: the function () → the same as `jax.ShapeDtypeStruct`s, without computing anything.
      make_batch: (data, seed, step, index [n]) → one device's batch from resident data, or from its part of a stream.
      sides: the sides of the images of a pyramid in pixels, ascending; a tuple of one 0 for points.
      images_per_step: the number of real images that D gets in a step.
      classes: the number of classes of the networks' labels; 0 for none.
      truncates: True if G itself truncates (its styles); else the latent vectors are truncated.
      latent: size and distribution of the latent vectors, as `make_latents` takes them.
      programs: compiled functions besides the step; runs of one program share them.
    """

    gan: GAN
    init: Callable[[], GanState]
    initialise: Callable[[dict[str, jax.Array]], GanState]
    shapes: Callable[[], GanState]
    make_batch: MakeBatch
    sides: tuple[int, ...]
    images_per_step: int
    classes: int
    truncates: bool
    latent: tuple[int, str]
    programs: Programs = field(default_factory=Programs)

    def for_config(self, config: ConfigDict) -> Build:
        """Returns the same program with the traced values of `config` (`make_hyper`), in which alone it may differ."""
        return replace(self, init=lambda: self.initialise(make_hyper(config)))


def build(config: ConfigDict, dataset: Dataset, *, axis_name: str | None = "devices") -> Build:
    """Builds everything that `config` describes, for images or points like those of `dataset`.

    Raises:
      UserError: a resolution that the networks cannot make.
    """
    sides = image_sides(config, dataset)
    gan = make_gan(config, *make_networks(config, dataset, axis_name), axis_name)
    initialise = make_initialiser(config, gan, dataset, sides)
    return Build(
        gan=gan,
        init=lambda: initialise(make_hyper(config)),
        initialise=initialise,
        shapes=lambda: jax.eval_shape(
            lambda: make_initialiser(config, gan, dataset, sides, abstract=True)(make_hyper(config))
        ),
        make_batch=make_delivery(
            dataset,
            sides,
            batch_size=config.train.batch_size,
            updates=batches_per_step(config),
            flip=config.data.flip,
        ),
        sides=sides,
        images_per_step=config.train.batch_size * config.train.dis_steps,
        classes=count_classes(config, dataset),
        truncates=MODELS[config.model.name].truncates,
        latent=(config.model.latent_dim, config.model.latent_distribution),
    )


def make_gan(config: ConfigDict, gen: nn.Module, dis: nn.Module, axis_name: str | None) -> GAN:
    """Returns the static part of the step, with these networks."""
    gen_steps, dis_steps = config.train.gen_steps, config.train.dis_steps
    progress, final_p = progress_of(config, "dis"), config.augment.final_p
    return GAN(
        gen=Player("gen", gen, make_optimizer(config, "gen"), gen_objective(config), gen_forward, gen_steps),
        dis=Player("dis", dis, make_optimizer(config, "dis"), dis_objective(config), dis_forward, dis_steps),
        latents=make_latents(config.model.latent_dim, config.model.latent_distribution),
        transform=make_transform(
            policy_of(config),
            color_share=config.augment.color_share,
            noise=config.noise.schedule if config.noise.std > 0 else None,
            noise_steps=config.noise.end * config.train.steps,
        ),
        update_control=make_control_update(
            ada_target=config.augment.target,
            ada_images=config.train.batch_size * dis_steps,
            ada_speed_kimg=config.augment.speed_kimg,
            planned_p=(lambda step: final_p * progress(step)) if final_p else None,
            balance=(config.train.balance_low, config.train.balance_high),
        ),
        average=make_average(
            images=config.train.batch_size * gen_steps,
            half_life=config.ema.half_life_kimg * 1000,
            rampup=config.ema.rampup,
        ),
        rolled=loops_pay(config),
        accumulate=config.train.accumulate,
        packing=config.dis.packing,
        joint=config.dis.norm != "batch",
        group=compared_together(config),
        fresh_reals=config.train.fresh_reals,
        shared_forward=config.train.shared_forward,
        axis_name=axis_name,
    )


def image_sides(config: ConfigDict, dataset: Dataset) -> tuple[int, ...]:
    """Returns the sides of a pyramid's images: only the full one without MSG, else those of `model.msg_scales` too.

    Raises:
      UserError: the images are not square, the networks cannot make their side, or there is no scale to connect.
    """
    if dataset.images.ndim == 2:
        return (0,)
    family = MODELS[config.model.name]
    height, width = dataset.images.shape[1:3]
    if height != width or height not in family.resolutions:
        *most, largest = map(str, family.resolutions)
        raise UserError(
            f"{config.model.name} makes square images of {', '.join(most)} or {largest} pixels, and "
            f"{dataset.name} has {height}×{width}; set --config.data.resolution to one of these."
        )
    if config.model.msg == "none":
        return (height,)
    low, high = MSG_SCALES[config.model.msg_scales]
    chosen = tuple(side for side in family.sides(height)[:-1] if low <= side <= high)
    if not chosen:
        raise UserError(
            f"model.msg_scales={config.model.msg_scales!r} connects scales of {low} to {high:.0f} pixels, and "
            f"{config.model.name} for {height} pixels has {family.sides(height)}; choose other scales, or "
            "--config.model.msg=none."
        )
    return (*chosen, height)


def count_classes(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the number of classes of the networks' labels: 0 unless `model.conditional`.

    Raises:
      UserError: labels are asked for, and the data has none.
    """
    if config.model.conditional and (dataset.labels is None or dataset.num_classes < 1):
        raise UserError(
            f"model.conditional=True needs labels, and {dataset.name} has none; set --config.model.conditional=False."
        )
    return dataset.num_classes if config.model.conditional else 0


def batches_per_step(config: ConfigDict) -> int:
    """Returns the number of batches of reals that a step takes from the data."""
    return config.train.dis_steps + (config.train.gen_steps if config.train.fresh_reals else 0)


def loops_pay(config: ConfigDict) -> bool:
    """Returns True if updates are as fast in a loop as unrolled: XLA's convolutions on CPU are not, native ones are."""
    if jax.default_backend() != "cpu" or config.model.name == "mlp":
        return True
    return native.in_use()


def make_networks(config: ConfigDict, dataset: Dataset, axis_name: str | None) -> tuple[nn.Module, nn.Module]:
    """Makes G and D of the family `model.name`."""
    images = dataset.images.ndim == 4
    spec = Spec(
        resolution=dataset.images.shape[1] if images else 0,
        image_channels=dataset.images.shape[3] if images else 0,
        sides=image_sides(config, dataset),
        classes=count_classes(config, dataset),
        auxiliary=config.loss.auxiliary_classifier > 0,
        msg=config.model.msg,
        separate=config.model.msg_images == "separate",
        attention=config.model.attention,
        gen=config.gen.to_dict(),
        dis=config.dis.to_dict(),
        axis_name=axis_name,
        remat=config.train.remat,
        dtype=jnp.dtype(config.train.precision),
    )
    return MODELS[config.model.name].networks(spec)


def compared_together(config: ConfigDict) -> int:
    """Returns the number of neighbours in the batch that D compares with each other; 1 where it judges each alone."""
    if config.dis.minibatch_discrimination:
        return DISCRIMINATION_GROUP
    return config.dis.stddev_group if config.dis.minibatch_stddev else 1


def make_optimizer(config: ConfigDict, net: str) -> Optimizer:
    """Makes the optimiser of `gen` or `dis`, with its schedule and weight clipping."""
    options, progress = config[net].optimizer, progress_of(config, net)
    beta2 = options.beta2
    limit = config.penalty.clip_weights if net == "dis" else 0.0
    return Optimizer(
        tx=make_chain(
            options.name,
            beta1=options.beta1,
            beta2=beta2,
            eps=options.eps,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            inject_beta2=options.final_beta2 > 0,
        ),
        schedule=make_schedule(
            options.schedule,
            steps=config.train.steps,
            warmup_steps=options.warmup_steps,
            final_scale=options.final_scale,
            end=options.schedule_end,
        ),
        # β₂ goes to its end as the rate does (Huang et al. 2024).
        beta2=(lambda step: beta2 + (options.final_beta2 - beta2) * progress(step))
        if options.final_beta2
        else None,
        project=(lambda params: penalties.clip_weights(params, limit)) if limit else lambda params: params,
    )


def dis_objective(config: ConfigDict) -> Objective:
    """Returns D's objective: the adversarial loss and the penalties whose weight is not zero."""
    loss, options = LOSSES[config.loss.name], config.penalty
    found: dict[str, Term] = {"adversarial": terms.dis_adversarial(loss, flip=config.loss.label_flip > 0)}
    weights: dict[str, str] = {}
    if options.name != "none":
        penalty = terms.falling(PENALTIES[options.name], progress_of(config, "dis"), options.final_scale)
        found["penalty"], weights["penalty"] = terms.lazily(penalty, options.every), "penalty/weight"
    if options.drift:
        found["drift"], weights["drift"] = lambda r: penalties.drift(r.real_logits), "penalty/drift"
    if options.lecam:
        found["lecam"], weights["lecam"] = terms.lecam_term(options.lecam_start), "penalty/lecam"
    if options.consistency:
        term = terms.consistency_term(options.consistency_fakes)
        found["consistency"], weights["consistency"] = term, "penalty/consistency"
    if config.loss.auxiliary_classifier:
        found["classes"] = lambda r: terms.class_loss(r, reals=True)
        weights["classes"] = "loss/auxiliary_classifier"
    return Objective(found, weights, needs_sown="classes" in found)


def gen_objective(config: ConfigDict) -> Objective:
    """Returns G's objective: the adversarial loss and what else the config asks for."""
    loss = LOSSES[config.loss.name]
    found: dict[str, Term] = {"adversarial": terms.gen_adversarial(loss)}
    if matching := config.loss.feature_matching > 0:
        found["feature_matching"] = terms.feature_matching
    if classify := config.loss.auxiliary_classifier > 0:
        found["classes"] = lambda r: terms.class_loss(r, reals=False)
    if config.loss.path_length:
        found["path_length"] = terms.path_length(config.loss.path_length_every)
    if config.penalty.orthogonal:
        found["orthogonal"] = lambda r: penalties.orthogonality(r.params)
    weights = {name: key for name, key in GEN_WEIGHTS.items() if name in found}
    return Objective(
        found, weights, needs_reals=loss.needs_reals or matching, needs_sown=matching or classify
    )


def progress_of(config: ConfigDict, net: str) -> Callable[[jax.Array], jax.Array]:
    """Returns step → how far the schedule of the learning rate of `gen` or `dis` has come, 0 to 1."""
    options = config[net].optimizer
    return make_progress(
        options.schedule,
        steps=config.train.steps,
        warmup_steps=options.warmup_steps,
        end=options.schedule_end,
    )


def policy_of(config: ConfigDict) -> tuple[str, ...]:
    """Returns the parts of `augment.policy`."""
    return tuple(filter(None, (part.strip() for part in config.augment.policy.split(","))))


# Terms of G with a weight, and the name of the weight in `state.hyper`.
GEN_WEIGHTS = {
    "feature_matching": "loss/feature_matching",
    "classes": "loss/auxiliary_classifier",
    "path_length": "loss/path_length",
    "orthogonal": "penalty/orthogonal",
}

# Options whose values the step takes as arguments, by their names in `state.hyper`; the seed is one as well.
TRACED = {
    "gen/learning_rate": "gen.optimizer.learning_rate",
    "dis/learning_rate": "dis.optimizer.learning_rate",
    "loss/scale": "loss.scale",
    "loss/label_smoothing": "loss.label_smoothing",
    "loss/label_flip": "loss.label_flip",
    "loss/feature_matching": "loss.feature_matching",
    "loss/auxiliary_classifier": "loss.auxiliary_classifier",
    "loss/path_length": "loss.path_length",
    "penalty/weight": "penalty.weight",
    "penalty/drift": "penalty.drift",
    "penalty/lecam": "penalty.lecam",
    "penalty/consistency": "penalty.consistency",
    "penalty/orthogonal": "penalty.orthogonal",
    "noise/std": "noise.std",
}


def make_hyper(config: ConfigDict) -> dict[str, jax.Array]:
    """Returns the traced numbers of a run. It can be repeated with others without compiling again."""
    flat = flatten(config)
    hyper = {name: jnp.asarray(flat[key], jnp.float32) for name, key in TRACED.items()}
    return {**hyper, "seed": jnp.asarray(config.seed, jnp.uint32)}


def program_of(config: ConfigDict) -> str:
    """Returns a value equal for configs that share a compiled step: they differ in the seed and `TRACED` values alone.

    Zero leaves out what another value switches on, so whether a value is zero is a part of the program.
    """
    traced = set(TRACED.values())
    parts = {key: bool(value) if key in traced else value for key, value in flatten(config).items()}
    return json.dumps({**parts, "seed": None}, sort_keys=True)


def make_initialiser(
    config: ConfigDict, gan: GAN, dataset: Dataset, sides: tuple[int, ...], *, abstract: bool = False
) -> Callable[[dict[str, jax.Array]], GanState]:
    """Returns `hyper` → first state of a run, on the default device; `abstract` where only its shapes are traced."""

    def networks(seed: jax.Array) -> tuple[Tree, Tree]:
        gen_key, dis_key, latent_key = (
            stream_key(seed, stream) for stream in (Stream.INIT_GEN, Stream.INIT_DIS, Stream.INIT_LATENTS)
        )
        latents = gan.latents(fold_each(latent_key, jnp.arange(4 * gan.packing)))
        labels = jnp.zeros(len(latents), jnp.int32)
        gen = gan.gen.net.init(gen_key, latents, labels, train=True)
        shape = (4, *dataset.images.shape[1:-1], dataset.images.shape[-1] * gan.packing)
        images = at_sides(jnp.zeros(shape, jnp.float32), sides)
        dis = gan.dis.net.init(dis_key, images, labels[:4], train=True)
        return gen, {name: value for name, value in dis.items() if name != "intermediates"}

    # Run once, so the compiler need not optimise: on CPU that halves the time to the first step.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    make = networks if abstract else jax.jit(networks, compiler_options=fast)
    starts = {
        "gen": jax.jit(gan.gen.optimizer.tx.init),
        "dis": jax.jit(gan.dis.optimizer.tx.init),
    }

    control = initial_control(
        ada="ada" in policy_of(config),
        lecam=config.penalty.lecam > 0,
        path_length=config.loss.path_length > 0,
        balance=config.train.balance == "adaptive",
    )

    def initialise(hyper: dict[str, jax.Array]) -> GanState:
        nets = {}
        gen, dis = make(hyper["seed"])
        for name, variables in (("gen", gen), ("dis", dis)):
            stats = {key: value for key, value in variables.items() if key != "params"}
            nets[name] = NetState(variables["params"], stats, starts[name](variables["params"]))
        ema = copy_tree({"params": gen["params"], **nets["gen"].stats})
        step = jnp.zeros((), jnp.int32)
        state = GanState(step=step, ema=ema, control=control, hyper=hyper, **nets)
        return copy_tree(state)  # donation wants every buffer once; optax shares some zeros

    return initialise
