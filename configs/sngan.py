"""SNGAN's residual networks on CIFAR-10 (Miyato et al. 2018, table 4 and section 4.1; labels as in Miyato & Koyama 2018).

    ganjax train --config=configs/sngan.py --workdir=runs/sngan
    ganjax train --config=configs/sngan.py:conditional --workdir=runs/sngan_conditional
    ganjax train --config=configs/sngan.py:small,conditional --workdir=runs/sngan_digits

Hinge loss, spectral norm in D, Adam(0, 0.9) at 2e-4 falling linearly to 0, five updates of D a step.
Arguments: `conditional` tells both networks the class; `small` is the same on 8×8 digits for a CPU.
No result has been measured yet.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, conditional=False)
    config = default_config()
    config.data.name = "digits" if args["small"] else "cifar10"
    config.model.name = "resnet"
    config.model.conditional = args["conditional"]
    config.gen.width = 48 if args["small"] else 256
    config.dis.width = 48 if args["small"] else 128
    config.dis.spectral_norm = True
    for net in (config.gen, config.dis):
        net.max_width = 1024
        net.optimizer.learning_rate = 5e-4 if args["small"] else 2e-4
        net.optimizer.beta2 = 0.9
        net.optimizer.schedule = "linear"
    config.loss.name = "hinge"
    config.train.batch_size = 64
    config.train.dis_steps = 1 if args["small"] else 5
    config.train.steps = 1500 if args["small"] else 100_000
    config.ema.half_life_kimg = 5.0
    config.log.samples = 100
    if args["small"]:
        config.log.every_steps = 50
    return config
