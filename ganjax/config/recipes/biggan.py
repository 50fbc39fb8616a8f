"""BigGAN and BigGAN-deep on ImageNet at 128 (Brock et al. 2019, section 3 and appendix C).

    ganjax train --config=biggan --workdir=runs/biggan --config.data.path=/data/tfds
    ganjax train --config=biggan:deep --workdir=runs/biggan_deep
    ganjax train --config=biggan:small --workdir=runs/biggan_small

BigGAN: 96 channels, z of 120 in six parts, D 2e-4 and G 5e-5 with Adam(0, 0.999, 1e-6), two updates of D, batch 2048,
spectral norm in both networks, orthogonal regularisation of G at 5e-5 (1e-4 in the authors' code, which takes half the
gradient of the paper's formula), attention at 64 pixels. BigGAN-deep: 128 channels, z of 128, D and G at 2.5e-5.
`ganjax sample --truncation=0.5` trades variety for fidelity.
Arguments: `deep`; `resolution=256` (attention at 64) or 64 (at 32); `small` is the same on 8×8 digits for a CPU.

Measured here only `small` and `small,deep` (2026-11-25, 2 CPU cores, one run each): 56 and 140 s, 99.7 and 99.3
% of 2,000 samples are of the asked class by a classifier of the real digits (docs/models.md). The others were
not trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, deep=False, resolution=128)
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.resolution = args["resolution"]
    config.data.flip = True
    config.model.name = "biggan_deep" if args["deep"] else "biggan"
    config.model.conditional = True
    config.model.attention = 64 if args["resolution"] > 64 else 32
    # One part of 20 for the dense layer and for each level: 120 for 128 pixels.
    config.model.latent_dim = 128 if args["deep"] else 20 * (args["resolution"].bit_length() - 2)
    config.loss.name = "hinge"
    rates = (2.5e-5, 2.5e-5) if args["deep"] else (5e-5, 2e-4)
    for net, rate in zip((config.gen, config.dis), rates, strict=True):
        net.width = 128 if args["deep"] else 96
        net.max_width = 4096
        net.depth = 2
        net.spectral_norm = True
        net.optimizer.learning_rate = rate
        net.optimizer.beta2 = 0.999
        net.optimizer.eps = 1e-6
    config.penalty.orthogonal = 5e-5  # the authors' 1e-4, see ganjax.losses.penalties.orthogonality
    config.train.batch_size = 2048
    config.train.dis_steps = 2
    config.train.steps = 150_000
    config.ema.half_life_kimg = 14_000.0  # decay 0.9999 a step of 2048 images
    config.log.samples = 100
    if args["small"]:
        config.data.name = "digits"
        config.data.resolution = 0
        config.data.flip = False
        config.model.attention = 4
        config.model.latent_dim = 60
        for net, rate in ((config.gen, 5e-4), (config.dis, 1e-3)):
            net.width = 32 if args["deep"] else 12
            net.optimizer.learning_rate = rate
        config.train.batch_size = 64
        config.train.dis_steps = 1
        config.train.steps = 1500
        config.ema.half_life_kimg = 5.0
        config.log.every_steps = 50
    return config
