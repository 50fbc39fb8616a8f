r"""Pictures of one's own at 32×32, 64×64 or 128×128: MSG, spectral norm in D, hinge loss, two learning rates.

    ganjax data prepare PICTURES --out=data/mine --resolution=64
    ganjax train --config=own_images:resolution=64,conditional --workdir=runs/mine \
        --config.data.path=data/mine

docs/own_images.md goes through it, with samples. Arguments: `resolution` (32); `conditional`, where the pictures
lie in a folder for each kind, makes them better; `gpu` is wide, for the minutes of an accelerator.

Not measured since MSG was mended and the rates were chosen anew (2026-11-28): docs/own_images.md shows samples of
before, of 96,000 images of 32×32 in 661 s and 160,000 of 64×64 in 3,186 s on one busy CPU core. `gpu` and 128
pixels were not trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, resolution=32, conditional=False, gpu=False)
    config = default_config()
    config.data.name = "folder"
    config.data.resolution = args["resolution"]
    config.data.flip = True
    config.model.name = "dcgan"
    config.model.conditional = args["conditional"]
    config.model.latent_dim = 64
    config.model.msg = "simple"
    # Channels at the finest scale, twice as many at each halving. On a CPU D has half of G's at 64 pixels, which saves
    # a third of the time.
    side = max(32, args["resolution"])
    config.gen.width, config.dis.width = (
        (2048 // side, 2048 // side) if args["gpu"] else (min(16, 1024 // side), 512 // side)
    )
    for net, rate in ((config.gen, 5e-4), (config.dis, 1e-3)):
        net.max_width = 512 if args["gpu"] else 128
        # At constant rates: with few pictures D learns them by heart as its rate falls (digits, FID 22 to 30 with a
        # cosine, 6 and 7 without).
        net.optimizer.learning_rate = 0.4 * rate if args["gpu"] else rate
    config.gen.norm = "pixel"
    config.dis.spectral_norm = True
    config.dis.minibatch_stddev = True
    config.loss.name = "hinge"
    config.train.batch_size = 64 if args["gpu"] else 32
    config.train.steps = 15_000 if args["gpu"] else 3000 if args["resolution"] <= 32 else 5000
    config.ema.half_life_kimg = 5.0
    config.checkpoint.every_steps = 500
    config.log.every_steps = 50
    config.log.sample_every_steps = 500
    return config
