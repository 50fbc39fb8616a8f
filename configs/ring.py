from ganjax.config import default_config


def get_config(arg: str = ""):
    config = default_config()
    config.data.name = "ring"
    config.model.name = "mlp"
    config.model.latent_dim = 16
    for net in (config.gen, config.dis):
        net.width = 128
        net.depth = 3
        net.spectral_norm = False
        net.optimizer.learning_rate = 1e-3
        net.optimizer.schedule = "cosine"
    config.gen.norm = "none"
    config.loss.name = "rp_non_saturating"
    config.penalty.name = "r1_r2"
    config.penalty.weight = 0.002
    config.train.batch_size = 256
    config.train.steps = 6000
    config.ema.half_life_kimg = 50.0
    config.checkpoint.every_steps = 2000
    config.log.every_steps = 500
    config.log.sample_every_steps = 2000
    config.parallel.devices = 1
    return config
