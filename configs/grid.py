"""25 Gaussians on a grid (σ .05): relativistic pairing with R1 and R2 finds all 25.

    ganjax train --config=configs/grid.py --workdir=runs/grid

Arguments: none. The last picture in `samples/` says how many modes are covered.

MEASURED
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    parse_arg(arg)
    config = default_config()
    config.data.name = "grid"
    config.model.name = "mlp"
    config.model.latent_dim = 2
    for net in (config.gen, config.dis):
        net.width = 128
        net.depth = 4
        net.spectral_norm = False
        net.optimizer.learning_rate = 2e-3
        net.optimizer.schedule = "cosine"
    config.gen.norm = "none"
    config.loss.name = "rp_non_saturating"
    config.penalty.name = "r1_r2"
    config.penalty.weight = 0.005
    config.train.batch_size = 128
    config.train.steps = 20000
    config.ema.half_life_kimg = 100.0
    config.parallel.devices = 1
    config.checkpoint.every_steps = 5000
    config.log.every_steps = 1000
    config.log.sample_every_steps = 5000
    return config
