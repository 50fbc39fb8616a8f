"""SAGAN: residual networks with self-attention on ImageNet at 128 (Zhang et al. 2019, section 5).

    ganjax train --config=sagan --workdir=runs/sagan --config.data.path=/data/tfds
    ganjax train --config=sagan:data=celeb_a --workdir=runs/sagan_celeb_a
    ganjax train --config=sagan:small --workdir=runs/sagan_small

Spectral norm in both networks, D 4e-4 and G 1e-4 with Adam(0, 0.9), hinge loss, one update each, batch 256, labels,
attention at 32 pixels (feat32 of table 1), 1,000,000 steps.
Arguments: `small` is the same on 8×8 digits for a CPU; `data=celeb_a` takes CelebA at 64 pixels, without labels.

Measured here only `small` (2026-11-25, 2 CPU cores, one run): 58 s, 99.8 % of 2,000 samples are of the asked class by a
classifier of the real digits (docs/models.md). The full sizes were compiled and not trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, data="imagenet2012")
    config = default_config()
    config.data.name = args["data"]
    config.data.resolution = 64 if args["data"] == "celeb_a" else 128
    config.data.flip = True
    config.model.name = "resnet"
    config.model.conditional = args["data"] != "celeb_a"
    config.model.attention = 32
    config.loss.name = "hinge"
    for net, rate in ((config.gen, 1e-4), (config.dis, 4e-4)):
        net.width = 64
        net.max_width = 1024
        net.spectral_norm = True
        net.optimizer.learning_rate = rate
        net.optimizer.beta2 = 0.9
    config.train.batch_size = 256
    config.train.steps = 1_000_000
    config.ema.half_life_kimg = 10.0
    config.log.samples = 100
    if args["small"]:
        config.data.name = "digits"
        config.data.resolution = 0
        config.data.flip = False
        config.model.conditional = True
        config.model.attention = 4
        for net, rate in ((config.gen, 5e-4), (config.dis, 1e-3)):
            net.width = 48
            net.optimizer.learning_rate = rate
        config.train.batch_size = 64
        config.train.steps = 1500
        config.log.every_steps = 50
    return config
