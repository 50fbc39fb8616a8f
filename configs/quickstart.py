"""Handwritten digits of 8×8 pixels in about a minute: MSG, spectral norm in D, hinge loss, two learning rates.

    bash launch/local.sh train --config=configs/quickstart.py --workdir=runs/quickstart

Data: the 1,797 real digits that ship with scikit-learn; no network.
Arguments: none.

Measured 2026-11-24 on 2 CPU cores: 51,200 images in 66 s, compilation included; of 2,000 samples a support-vector
classifier of the real digits put 7 % to 14 % in each class.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    parse_arg(arg)
    config = default_config()
    config.data.name = "digits"
    config.model.name = "dcgan"
    config.model.latent_dim = 32
    config.model.msg = "simple"
    config.gen.width = 64
    config.gen.norm = "pixel"
    config.gen.optimizer.learning_rate = 1e-3
    config.dis.width = 64
    config.dis.spectral_norm = True
    config.dis.minibatch_stddev = True
    config.dis.optimizer.learning_rate = 2e-3
    config.loss.name = "hinge"
    config.train.batch_size = 64
    config.train.steps = 800
    config.ema.half_life_kimg = 5.0
    config.checkpoint.every_steps = 400
    config.log.every_steps = 50
    config.log.sample_every_steps = 200
    config.log.samples = 100
    return config
