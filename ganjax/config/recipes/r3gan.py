"""R3GAN on CIFAR-10 (Huang et al. 2024, appendix A): relativistic pairing, R1 and R2, and no other trick.

    ganjax train --config=r3gan --workdir=runs/r3gan
    ganjax train --config=r3gan:small --workdir=runs/r3gan_small

768 channels at all four levels, z of 64, batch 512; over the first 20 of 250 million images, by half a cosine: learning
rate 2e-4 to 5e-5, β₂ 0.9 to 0.99, γ 0.05 to 0.005, augmentation 0 to 0.55: ADA's, with cutout, and colours at half the
probability. G's updates have reals of their own. All as in the authors' `train.py`, but for G's average: its half-life
is at most a quarter of the images seen, up to 5 million (theirs grows by the same cosine).
Arguments: `small` is 8×8 digits for a CPU, with labels; `conditional`.

Measured here only `small`: FID of 2,000 samples 5.7 (5.2 to 6.0), 99.3 % of the asked class (three seeds, H200,
2026-11-28; 18.8 at a quarter of its rate, 7.1 at twice: docs/models.md); 141 s on 2 CPU cores (2026-11-25). The full
size was compiled and not trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, conditional=False)
    config = default_config()
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.name = "r3gan"
    config.model.conditional = args["conditional"] or args["small"]
    config.model.latent_dim = 64
    config.gen.norm = "none"
    config.dis.spectral_norm = False
    config.loss.name = "rp_non_saturating"
    config.penalty.name = "r1_r2"
    config.penalty.weight = 0.05
    config.penalty.final_scale = 0.1
    config.augment.policy = "ada,cutout"
    config.augment.color_share = 0.5
    config.augment.final_p = 0.55
    for net in (config.gen, config.dis):
        net.width = 768
        net.max_width = 768
        net.depth = 2
        net.optimizer.learning_rate = 2e-4
        net.optimizer.final_scale = 0.25
        net.optimizer.beta2 = 0.9
        net.optimizer.final_beta2 = 0.99
        net.optimizer.schedule = "cosine"
        net.optimizer.schedule_end = 20 / 250
    config.train.fresh_reals = True
    config.train.batch_size = 512
    config.train.steps = 250_000_000 // 512
    config.ema.half_life_kimg = 5000.0
    config.ema.rampup = 0.25
    config.log.samples = 100
    if args["small"]:
        config.data.name = "digits"
        config.data.flip = False
        config.penalty.weight = 1.0
        config.augment.policy = ""
        config.augment.color_share = 1.0
        config.augment.final_p = 0.0
        for net in (config.gen, config.dis):
            net.width = 48
            net.max_width = 48
            net.depth = 1
            net.optimizer.learning_rate = 4e-3
            net.optimizer.schedule_end = 1.0
        config.train.batch_size = 64
        config.train.steps = 1000
        config.ema.half_life_kimg = 5.0
        config.ema.rampup = 0.05
        config.log.every_steps = 50
    return config
