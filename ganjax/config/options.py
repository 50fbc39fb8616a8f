"""Every option of a run, stated once: key, default, help, unit and allowed values.

`recipe.py` turns this list into a config, its checks, its help page and its error messages. An option's
type is the type of its default; ranges are inclusive.
"""

from __future__ import annotations

from ganjax.config import names
from ganjax.config.names import Names
from ganjax.config.network_options import INIT_OPTIONS, network_options
from ganjax.config.network_options import Option as Option
from ganjax.config.network_options import Value as Value

OPTIONS: tuple[Option, ...] = (
    Option("seed", 0, "of parameters, data order, latents, noise", low=0, high=2**31 - 1),
    Option("data.name", "digits", "data set, or TFDS's name", parts=Names(lambda: names.DATASETS)),
    Option("data.path", "", "folder of pictures (folder), or of prepared TFDS data; empty is TFDS's default"),
    Option("data.manual_dir", "", "folder that holds the original files of fashion_mnist"),
    Option("data.split", "train", "split to train on"),
    Option(
        "data.resolution", 0, "pixels a side, padded or resized to; 0 is the data's own", low=0, high=1024
    ),
    Option(
        "data.delivery",
        "auto",
        "where the images are: resident in device memory, streaming from disk, or auto (by size)",
        choices=("auto", "resident", "streaming"),
        runtime=True,
    ),
    Option(
        "data.threads",
        0,
        "threads used to decode streamed images (0: one per core)",
        low=0,
        high=256,
        runtime=True,
    ),
    Option(
        "data.max_corrupt",
        16,
        "unreadable images that a stream may leave out before the run ends",
        low=0,
        runtime=True,
    ),
    Option("data.flip", False, "mirror images horizontally at random"),
    Option("model.name", "dcgan", "network family", choices=Names(lambda: names.FAMILIES)),
    Option(
        "model.conditional", False, "train class-conditionally: G and D get the class label of each image"
    ),
    Option(
        "model.attention",
        0,
        "side in pixels of the feature maps with self-attention (resnet, biggan; 0: none)",
        low=0,
        high=128,
    ),
    Option("model.latent_dim", 128, "length of the latent vector z", low=1),
    Option(
        "model.latent_distribution",
        "normal",
        "distribution of z: normal, sphere (normal vectors scaled to length √dim) or uniform in [-1, 1]",
        choices=("normal", "sphere", "uniform"),
    ),
    Option(
        "model.msg",
        "none",
        "multi-scale gradients: how D joins the RGB image of each scale (none: one scale)",
        choices=("none", "simple", "lin_cat", "cat_lin"),
    ),
    Option(
        "model.msg_images",
        "sums",
        "G's images of the scales: tanh of running sums of RGB; or separate, linear ones (progan: as in its paper)",
        choices=("sums", "separate"),
        before="sums",
    ),
    Option(
        "model.msg_scales",
        "all",
        "scales that connect G and D: coarse is 4 and 8 pixels, middle 16 and 32, fine from 64 up",
        choices=("all", "coarse", "middle", "fine"),
    ),
    *network_options("gen", 2e-4),
    Option(
        "gen.norm",
        "batch",
        "normalisation in G; batch is class-conditional with labels",
        choices=("none", "batch", "group", "pixel"),
    ),
    Option("gen.style_dim", 512, "size of the style vector w (stylegan2)", low=1),
    Option("gen.mapping_layers", 8, "layers of the mapping network from z to w (stylegan2)", low=1, high=16),
    Option(
        "gen.mapping_rate",
        0.01,
        "learning rate of the mapping network, as a share of G's (stylegan2)",
        low=1e-4,
        high=1,
    ),
    Option("gen.style_mixing", 0.9, "share of fakes that mix two styles (stylegan2)", low=0, high=1),
    *network_options("dis", 8e-4),
    Option("dis.norm", "none", "normalisation in D", choices=("none", "batch", "group")),
    Option(
        "dis.minibatch_stddev",
        False,
        "minibatch standard deviation layer in D (with multi-scale gradients: in every block)",
    ),
    Option(
        "dis.stddev_group",
        4,
        "images per group of the minibatch standard deviation (one group if they do not divide the batch)",
        low=2,
        high=512,
        before=4,
    ),
    Option(
        "dis.label_layers",
        0,
        "layers of D's label mapping network (stylegan2; 8 in the paper, 0: one projection)",
        low=0,
        high=16,
        before=0,
    ),
    Option(
        "dis.minibatch_discrimination",
        0,
        "kernels of minibatch discrimination in D (0: off)",
        low=0,
        high=512,
    ),
    Option("dis.packing", 1, "images that D judges together (PacGAN's m)", low=1, high=16),
    Option("loss.name", "hinge", "adversarial loss", choices=Names(lambda: names.LOSSES)),
    Option("loss.scale", 1.0, "factor on the logits before the loss (Qin et al.)", low=1e-6),
    Option(
        "loss.label_smoothing",
        0.0,
        "one-sided label smoothing: the target of reals is 1 minus this",
        low=0,
        high=0.5,
    ),
    Option("loss.label_flip", 0.0, "share of pairs whose labels are swapped for D", low=0, high=0.5),
    Option("loss.feature_matching", 0.0, "weight of feature matching in G's loss", low=0),
    Option(
        "loss.auxiliary_classifier",
        0.0,
        "weight of D's own classifier (AC-GAN), in place of D's projection of the label",
        low=0,
    ),
    Option("loss.path_length", 0.0, "weight of path length regularisation (stylegan2)", low=0),
    Option(
        "loss.path_length_every",
        4,
        "steps between applications of path length regularisation (lazy: scaled up accordingly)",
        low=1,
        high=64,
    ),
    Option(
        "penalty.name",
        "none",
        "gradient penalty on D",
        choices=Names(lambda: ("none", *names.PENALTIES)),
    ),
    Option("penalty.weight", 1.0, "factor of the penalty (γ of R1: the loss has γ/2·|∇D|²)", low=0),
    Option(
        "penalty.every",
        1,
        "steps between applications of the penalty (lazy: scaled up accordingly)",
        low=1,
        high=64,
    ),
    Option(
        "penalty.final_scale",
        1.0,
        "the penalty's weight at the end of D's schedule, as a share",
        low=0,
        high=100,
    ),
    Option("penalty.orthogonal", 0.0, "weight of orthogonal regularisation of G's kernels", low=0),
    Option("penalty.drift", 0.0, "weight of D(real)², which keeps a Wasserstein D near 0", low=0),
    Option(
        "penalty.clip_weights", 0.0, "bound that D's weights are clipped to after each update (0: off)", low=0
    ),
    Option("penalty.lecam", 0.0, "weight of LeCam regularisation", low=0),
    Option("penalty.lecam_start", 1000, "first step with LeCam regularisation", low=0, unit="steps"),
    Option("penalty.consistency", 0.0, "weight of consistency regularisation of D under augmentation", low=0),
    Option("penalty.consistency_fakes", False, "apply consistency regularisation to fakes too (balanced)"),
    Option("noise.std", 0.0, "instance noise on D's inputs, in units of [-1, 1] images", low=0, high=10),
    Option(
        "noise.schedule",
        "linear",
        "schedule of the noise over training (ada: noise.std times ADA's p)",
        choices=(*names.NOISE_SCHEDULES, "ada"),
    ),
    Option("noise.end", 1.0, "share of training at which the noise reaches zero", low=0.0001, high=1),
    Option(
        "augment.policy",
        "",
        "augmentation of D's inputs: color, translation, cutout joined by commas (DiffAugment), or ada, or ada,cutout",
        parts=Names(lambda: (*names.POLICIES, "ada")),
    ),
    Option("augment.target", 0.6, "ADA's target of E[sign D(real)]", low=0, high=1),
    Option(
        "augment.color_share",
        1.0,
        "probability of ADA's colour transforms as a share of p",
        low=0,
        high=1,
        before=1.0,
    ),
    Option(
        "augment.final_p",
        0.0,
        "ADA's p at the end of D's schedule, which p then follows (0: p follows D's overfitting)",
        low=0,
        high=1,
    ),
    Option(
        "augment.speed_kimg", 500.0, "images in which ADA's p can rise from 0 to 1", low=0.001, unit="kimg"
    ),
    *INIT_OPTIONS,
    Option("train.steps", 6000, "training steps of the whole run", low=1, runtime=True),
    Option(
        "train.max_seconds",
        0.0,
        "training time after which the run ends at the next log line (0: no limit)",
        low=0,
        unit="seconds",
        runtime=True,
    ),
    Option("train.batch_size", 64, "images per update, over all devices", low=1),
    Option("train.dis_steps", 1, "updates of D per step", low=1, high=100),
    Option("train.gen_steps", 1, "updates of G per step", low=1, high=100),
    Option(
        "train.balance",
        "fixed",
        "balance of the updates; adaptive: D rests while its accuracy is high, G while it is low",
        choices=("fixed", "adaptive"),
    ),
    Option("train.balance_high", 0.9, "accuracy of D above which it rests", low=0.5, high=1),
    Option("train.balance_low", 0.55, "accuracy of D below which G rests", low=0, high=0.9),
    Option(
        "train.shared_forward",
        False,
        "simultaneous updates: G's update reuses the fakes of D's update and D's output on them",
    ),
    Option(
        "train.fresh_reals",
        False,
        "G's updates draw reals and labels of their own in place of those of D's last update",
        before=False,
    ),
    Option(
        "train.accumulate",
        1,
        "parts that each batch is divided into (gradient accumulation)",
        low=1,
        high=1024,
    ),
    Option(
        "train.remat",
        False,
        "rematerialise blocks in the backward pass: less memory, more time (no effect on CPU)",
        runtime=True,
    ),
    Option(
        "train.precision", "float32", "precision of the networks' arithmetic", choices=("float32", "bfloat16")
    ),
    Option("train.steps_per_call", 0, "steps per compiled call (0: chosen automatically)", low=0, high=1000),
    Option(
        "ema.half_life_kimg",
        2.0,
        "half-life of the moving average of G's weights (0: no average)",
        low=0,
        unit="kimg",
    ),
    Option(
        "ema.rampup",
        0.05,
        "largest half-life as a share of the images seen so far (0: no limit)",
        low=0,
        high=1,
    ),
    Option(
        "parallel.mode",
        "pmap",
        "how the step is mapped over devices; several processes always get shard_map",
        choices=("pmap", "shard_map"),
    ),
    Option(
        "parallel.devices",
        0,
        "devices to use over all processes (0: chosen automatically)",
        low=0,
        runtime=True,
    ),
    Option("checkpoint.every_steps", 1000, "steps between checkpoints", low=1, unit="steps", runtime=True),
    Option("checkpoint.keep", 2, "newest checkpoints to keep (0: all)", low=0, runtime=True),
    Option(
        "eval.every_kimg",
        0.0,
        "images between evaluations, which come at the next log line and at the end (0: never)",
        low=0,
        unit="kimg",
        runtime=True,
    ),
    Option(
        "eval.metrics",
        "fid",
        "metrics of an evaluation, joined by commas",
        parts=Names(lambda: names.MEASURES),
        runtime=True,
    ),
    Option(
        "eval.samples", 2000, "samples per evaluation, made by the averaged weights", low=20, runtime=True
    ),
    Option(
        "eval.class_shares",
        "data",
        "frequency of each class in an evaluation, of networks with labels: as in the data, or the same for all",
        choices=("data", "even"),
        runtime=True,
    ),
    Option("eval.keep_best", 1, "best checkpoints to keep besides the newest ones", low=0, runtime=True),
    Option(
        "eval.best",
        "fid",
        "metric that decides which checkpoints are best",
        choices=Names(lambda: names.HIGHER_IS_BETTER),
        runtime=True,
    ),
    Option(
        "monitor.action",
        "warn",
        "what happens when the monitor finds a problem: none (only logged), warn, restart from scratch, or rollback to "
        "the last healthy checkpoint; the last two lower the learning rates and change the seed",
        choices=("none", "warn", "restart_lower_lr", "rollback_lower_lr"),
        runtime=True,
    ),
    Option(
        "monitor.max_actions",
        3,
        "largest number of restarts and rollbacks of a run",
        low=0,
        high=100,
        runtime=True,
    ),
    Option(
        "monitor.lr_factor",
        0.25,
        "factor on the learning rates at each restart or rollback",
        low=0.001,
        high=1,
        runtime=True,
    ),
    Option(
        "monitor.samples",
        256,
        "size of the fixed batch that the monitor measures (0: it watches the losses alone)",
        low=0,
        high=8192,
        runtime=True,
    ),
    Option(
        "monitor.every_steps",
        100,
        "steps between the monitor's measurements, which come at log lines",
        low=1,
        unit="steps",
        runtime=True,
    ),
    Option(
        "monitor.heldout",
        "auto",
        "split of real images that D never sees, to find memorisation (none: no such check)",
        runtime=True,
    ),
    Option("log.every_steps", 100, "steps between log lines", low=1, unit="steps", runtime=True),
    Option("log.sample_every_steps", 500, "steps between sample grids", low=1, unit="steps", runtime=True),
    Option("log.samples", 64, "images in a sample grid", low=1, high=4096, runtime=True),
    Option("log.tensorboard", True, "write TensorBoard files", runtime=True),
    Option("log.wandb", "", "Weights & Biases project to log to (needs the extra wandb)", runtime=True),
    Option("log.mlflow", "", "MLflow experiment to log to (needs the extra mlflow)", runtime=True),
    Option(
        "log.report", True, "write the run's page report.html every few minutes and at the end", runtime=True
    ),
)

RUNTIME = frozenset(option.key for option in OPTIONS if option.runtime)
BEFORE: dict[str, Value] = {option.key: option.before for option in OPTIONS if option.before is not None}
BY_KEY: dict[str, Option] = {option.key: option for option in OPTIONS}
