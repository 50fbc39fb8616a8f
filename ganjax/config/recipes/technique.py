"""One technique at a time, on a base that trains in well under a minute: digits of 8×8 pixels, or the ring.

    ganjax train --config=technique:name=noise --workdir=runs/noise

Arguments: name, one of `TECHNIQUES` below, or `base` for the digits without any. `docs/techniques.md` says what each
is; the options that differ from the base are here. The runs are short: they show that a technique works, not how good
it is.
"""

from ganjax.config import default_config, parse_arg, set_option
from ganjax.runtime.errors import UserError, nearest

RING = {
    "data.name": "ring",
    "model.name": "mlp",
    "model.latent_dim": 2,
    "gen.norm": "none",
    "gen.width": 64,
    "dis.width": 64,
    "gen.depth": 3,
    "dis.depth": 3,
    "train.steps": 2000,
    "train.batch_size": 128,
    "loss.name": "non_saturating",
    "log.every_steps": 500,
    "log.sample_every_steps": 1000,
}

TECHNIQUES: dict[str, dict[str, bool | int | float | str]] = {
    "base": {},
    "capacity": {"gen.width": 32, "dis.width": 32, "gen.depth": 2, "dis.depth": 2},
    "remat": {"train.remat": True},
    "ema": {"ema.half_life_kimg": 2.0, "ema.rampup": 0.05},
    "loss": {"loss.name": "ra_hinge"},
    "loss_scale": {"loss.name": "non_saturating", "loss.scale": 4.0, "dis.spectral_norm": True},
    "updates": {"train.dis_steps": 2},
    "adaptive_balance": {"train.balance": "adaptive"},
    "labels": {"model.conditional": True},
    "auxiliary_classifier": {"model.conditional": True, "loss.auxiliary_classifier": 1.0},
    "schedule": {
        "gen.optimizer.schedule": "cosine",
        "dis.optimizer.schedule": "cosine",
        "gen.optimizer.warmup_steps": 50,
        "dis.optimizer.warmup_steps": 50,
    },
    "optimizer": {
        "gen.optimizer.name": "lion",
        "dis.optimizer.name": "lion",
        "gen.optimizer.learning_rate": 1e-4,
        "dis.optimizer.learning_rate": 2e-4,
        "gen.optimizer.beta1": 0.9,
        "dis.optimizer.beta1": 0.9,
    },
    "clip_norm": {"gen.optimizer.clip_norm": 1.0, "dis.optimizer.clip_norm": 1.0},
    "accumulate": {"train.accumulate": 2},
    "feature_matching": {"loss.feature_matching": 1.0},
    "minibatch_discrimination": {"dis.minibatch_discrimination": 16},
    "minibatch_stddev": {"dis.minibatch_stddev": True},
    "packing": {**RING, "dis.packing": 2},
    "noise": {**RING, "noise.std": 0.1},
    "diff_augment": {"augment.policy": "translation,cutout"},
    "ada": {"augment.policy": "ada", "augment.speed_kimg": 50.0},
    "label_smoothing": {"loss.name": "non_saturating", "loss.label_smoothing": 0.1},
    "label_flip": {"loss.name": "non_saturating", "loss.label_flip": 0.05},
    "msg": {"model.msg": "simple"},
    "ttur": {"gen.optimizer.learning_rate": 5e-4, "dis.optimizer.learning_rate": 2e-3},
    "spectral_norm": {"dis.spectral_norm": True, "gen.spectral_norm": True},
    "penalty": {**RING, "loss.name": "rp_non_saturating", "penalty.name": "r1_r2", "penalty.weight": 0.01},
    "lazy_penalty": {"penalty.name": "r1", "penalty.weight": 1.0, "penalty.every": 8},
    "drift": {
        **RING,
        "loss.name": "wasserstein",
        "penalty.name": "wgan_gp",
        "penalty.weight": 0.1,
        "penalty.drift": 0.001,
    },
    "weight_clipping": {
        **RING,
        "loss.name": "wasserstein",
        "penalty.clip_weights": 0.1,
        "train.dis_steps": 5,
        "gen.optimizer.name": "rmsprop",
        "dis.optimizer.name": "rmsprop",
    },
    "orthogonal": {"penalty.orthogonal": 1e-4},
    "path_length": {
        "model.name": "stylegan2",
        "gen.norm": "none",
        "gen.width": 16,
        "gen.style_dim": 32,
        "gen.mapping_layers": 2,
        "loss.path_length": 2.0,
    },
    "lecam": {"penalty.lecam": 0.3, "penalty.lecam_start": 100},
    "consistency": {"penalty.consistency": 10.0, "penalty.consistency_fakes": True},
}


def get_config(arg: str = ""):
    name = parse_arg(arg, name="base")["name"]
    if name not in TECHNIQUES:
        raise UserError(
            f"There is no technique {name!r}; choose from {', '.join(TECHNIQUES)}.{nearest(name, TECHNIQUES)}"
        )
    config = default_config()
    config.data.name = "digits"
    config.model.latent_dim = 32
    config.gen.width = 32
    config.gen.norm = "pixel"
    config.dis.width = 32
    config.dis.spectral_norm = False
    for net in (config.gen, config.dis):
        net.optimizer.learning_rate = 1e-3
    config.loss.name = "hinge"
    config.train.batch_size = 64
    config.train.steps = 400
    config.ema.half_life_kimg = 0.0
    config.checkpoint.every_steps = 1000
    config.log.every_steps = 100
    config.log.sample_every_steps = 200
    for key, value in TECHNIQUES[name].items():
        set_option(config, key, value)
    return config
