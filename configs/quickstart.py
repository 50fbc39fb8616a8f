from ganjax.config import default_config


def get_config(arg: str = ""):
    config = default_config()
    config.data.name = "digits"
    config.model.name = "dcgan"
    config.model.latent_dim = 32
    config.model.msg = "simple"
    config.gen.width = 64
    config.dis.width = 64
    config.gen.norm = "batch"
    config.dis.minibatch_stddev = True
    config.loss.name = "hinge"
    config.gen.optimizer.learning_rate = 2e-4
    config.dis.optimizer.learning_rate = 8e-4
    config.train.batch_size = 128
    config.train.steps = 1500
    config.ema.half_life_kimg = 5.0
    config.checkpoint.every_steps = 500
    config.log.every_steps = 50
    config.log.sample_every_steps = 250
    config.log.samples = 100
    return config
