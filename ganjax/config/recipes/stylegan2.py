"""StyleGAN2, and MSG-StyleGAN with its discriminator's scales, on a folder of pictures.

    ganjax train --config=stylegan2 --workdir=runs/ffhq256 --config.data.path=/data/ffhq256
    ganjax train --config=stylegan2:msg --workdir=runs/msg_stylegan --config.data.path=/data/ffhq256
    ganjax train --config=stylegan2:small --workdir=runs/stylegan2_small

Karras et al. 2020, configuration F, with the settings of Karras et al. 2020b for 256 pixels: half the channels, Adam
(0, 0.99) at 2.5e-3, R1 with γ = 1 at every 16th step, path lengths at every 4th, style mixing 0.9, standard deviations
over groups of 8, averages with a half-life of 20 kimg, 25,000 kimg in batches of 64. Above 256 pixels the settings of
1024: the whole width, batch 32, rate 2e-3, γ = 10, groups of 4.
With `msg` as Karnewar & Wang 2019, section 4: φ `cat_lin`, R1 γ = 10 averaged over scales, rate 3e-3, no path lengths.
Arguments: `resolution`, `msg`, `ada` (augmentation that adapts), `small` (8×8 digits for a CPU), `conditional`.

Measured here only `small,conditional` without and with `msg` (2026-11-25, 2 CPU cores, one run each): 151 and
116 s, 98.4 and 99.2 % of 2,000 samples are of the asked class by a classifier of the real digits
(docs/models.md).
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, resolution=256, msg=False, ada=False, conditional=False)
    large = args["resolution"] > 256
    config = default_config()
    config.data.name = "folder"
    config.data.resolution = args["resolution"]
    config.data.flip = True
    config.model.name = "stylegan2"
    config.model.conditional = args["conditional"]
    config.model.latent_dim = 512
    config.model.msg = "cat_lin" if args["msg"] else "none"
    config.gen.norm = "none"
    config.gen.spectral_norm = False
    config.dis.spectral_norm = False
    config.dis.minibatch_stddev = True
    config.dis.stddev_group = 4 if large else 8
    for net in (config.gen, config.dis):
        net.width = (32768 if large else 16384) // args["resolution"]
        net.max_width = 512
        net.optimizer.learning_rate = 3e-3 if args["msg"] else 2e-3 if large else 2.5e-3
        net.optimizer.beta2 = 0.99
    config.loss.name = "non_saturating"
    config.loss.path_length = 0.0 if args["msg"] else 2.0
    config.penalty.name = "r1"
    config.penalty.weight = 10.0 if large or args["msg"] else 1.0
    config.penalty.every = 16
    if args["ada"]:
        config.augment.policy = "ada"
    config.train.batch_size = 32 if large else 64
    config.train.steps = 25_000_000 // config.train.batch_size
    config.ema.half_life_kimg = 10.0 if large else 20.0
    if args["small"]:
        config.data.name = "digits"
        config.data.resolution = 0
        config.data.flip = False
        config.model.latent_dim = 64
        config.gen.style_dim = 64
        config.gen.mapping_layers = 4
        config.dis.stddev_group = 4
        for net in (config.gen, config.dis):
            net.width = 48
            # Weights of unit variance: at 2e-3 a step moves them by .2 %, too little for 1,500 steps.
            net.optimizer.learning_rate = 8e-3
        config.penalty.weight = 1.0
        config.penalty.every = 8
        config.train.batch_size = 64
        config.train.steps = 1500
        config.ema.half_life_kimg = 5.0
        config.log.samples = 100
        config.log.every_steps = 50
    return config
