"""Fashion-MNIST at 32×32: MSG, spectral norm in D, hinge loss, two learning rates.

    ganjax train --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

Data: 60,000 garments; downloaded, or found in Debian's package dataset-fashion-mnist, or in `data.manual_dir`.
Arguments: none.

Measured 2026-11-24 on 2 CPU cores: 112,000 images in 523 s, compilation included. In-domain FID of 5,000 samples 130.7
(95 % interval 127.7 to 133.7; real against real .69), by `ganjax evaluate --metrics=fid --samples=5000`; 1,500
steps of 64 images gave 212.5. Another run, on one device of one core, ended at 145.5 (142.5 to 148.4): the interval is
that of the samples, and runs differ by more.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    parse_arg(arg)
    config = default_config()
    config.data.name = "fashion_mnist"
    config.data.resolution = 32
    config.model.name = "dcgan"
    config.model.latent_dim = 64
    config.model.msg = "simple"
    config.gen.width = 16
    config.gen.max_width = 128
    config.gen.norm = "pixel"
    config.gen.optimizer.learning_rate = 1e-3
    config.gen.optimizer.schedule = "cosine"
    config.dis.width = 16
    config.dis.max_width = 128
    config.dis.spectral_norm = True
    config.dis.minibatch_stddev = True
    config.dis.optimizer.learning_rate = 2e-3
    config.dis.optimizer.schedule = "cosine"
    config.loss.name = "hinge"
    config.train.batch_size = 32
    config.train.steps = 3500
    config.ema.half_life_kimg = 5.0
    config.checkpoint.every_steps = 500
    config.log.every_steps = 50
    config.log.sample_every_steps = 500
    config.log.samples = 64
    return config
