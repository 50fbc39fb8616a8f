"""SNGAN's residual networks on CIFAR-10 (Miyato et al. 2018, table 4, section 4.1; labels: Miyato & Koyama 2018).

    ganjax train --config=sngan --workdir=runs/sngan
    ganjax train --config=sngan:conditional --workdir=runs/sngan_conditional
    ganjax train --config=sngan:wgan_gp --workdir=runs/wgan_gp
    ganjax train --config=sngan:small,conditional --workdir=runs/sngan_small

Hinge loss, spectral norm in D, Adam(0, 0.9) at 2e-4 falling linearly to 0, five updates of D a step, 100,000 steps.
With `wgan_gp` the Wasserstein loss, λ = 10 and no spectral norm, so that D averages its last map, as Gulrajani et al.
2017 train theirs (table 3); their batch for G is twice that of D.
Arguments: `conditional` tells both networks the class; `wgan_gp`; `data=NAME` is another data set of TFDS, such as
celeb_a, at 64 pixels; `small` is for 8×8 digits on a CPU: narrow, with spectral norm in G too, constant rates, and
one update of D.

Measured here only `small,conditional` (2026-11-25, 2 CPU cores, one run): 44 s alone, 99.9 % of 2,000 samples
are of the asked class by a classifier of the real digits (docs/models.md). The full sizes were compiled and not
trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, conditional=False, wgan_gp=False, data="cifar10")
    config = default_config()
    config.data.name = args["data"]
    config.data.resolution = 32 if args["data"] == "cifar10" else 64
    config.model.name = "resnet"
    config.model.conditional = args["conditional"]
    config.gen.width = 256 if args["data"] == "cifar10" else 64
    config.gen.max_width = 1024
    config.dis.width = 128 if args["data"] == "cifar10" else 64
    config.dis.max_width = 1024
    config.loss.name = "hinge"
    for net in (config.gen, config.dis):
        net.optimizer.learning_rate = 2e-4
        net.optimizer.beta2 = 0.9
        net.optimizer.schedule = "linear"
    config.train.batch_size = 64
    config.train.dis_steps = 5
    config.train.steps = 100_000
    config.ema.half_life_kimg = 5.0
    config.log.samples = 100
    if args["wgan_gp"]:
        config.dis.spectral_norm = False
        config.loss.name = "wasserstein"
        config.penalty.name = "wgan_gp"
        config.penalty.weight = 10.0
        config.gen.width = 128
    if args["small"]:
        config.data.name = "digits"
        config.data.resolution = 0
        config.gen.width = 48
        config.dis.width = 48
        config.gen.optimizer.learning_rate = 5e-4
        config.dis.optimizer.learning_rate = 1e-3
        for net in (config.gen, config.dis):
            net.spectral_norm = True
            net.optimizer.schedule = "constant"
        config.train.dis_steps = 1
        config.train.steps = 1500
        config.log.every_steps = 50
    return config
