"""MSG-ProGAN on a folder of pictures (Karnewar & Wang 2019, section 4 and appendix): ProGAN that does not grow.

    ganjax train --config=msg_progan --workdir=runs/msg --config.data.path=/data/flowers
    ganjax train --config=msg_progan:resolution=1024 --workdir=runs/ffhq --config.data.path=/data/ffhq
    ganjax train --config=msg_progan:small --workdir=runs/msg_small
    ganjax train --config=msg_progan:small,msg=False --workdir=runs/progan_small

z of 512 on the sphere, φ `simple`, Wasserstein loss with gradient penalty (λ = 10, averaged over scales) and drift,
RMSprop at 3e-3 for both networks, minibatch standard deviation in every block of D. The authors' code has the
relativistic average hinge loss and Adam(0, 0.99) instead: `ra_hinge` as an argument. `scales=coarse|middle|fine` and
`msg=False` are the rows of their ablation (table 4).
The paper's G has a linear image of its own at each scale: `separate`. By default the images are tanh of running sums,
which made better pictures (docs/models.md).
Arguments: `resolution`, `ra_hinge`, `separate`, `scales`, `msg`; `small` is Fashion-MNIST at 32 pixels for a CPU.

Measured here only `small` (2026-11-25, 2 CPU cores): 140 s alone; in-domain FID of three seeds 250, 250 and 248 as a
study, and with `msg=False` 194, 177 and 210: MSG does not help at this size (docs/models.md). The full sizes were not
trained.
"""

from ganjax.config import default_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, small=False, resolution=256, msg=True, scales="all", ra_hinge=False, separate=False)
    config = default_config()
    config.data.name = "folder"
    config.data.resolution = args["resolution"]
    config.data.flip = True
    config.model.name = "progan"
    config.model.latent_dim = 512
    config.model.latent_distribution = "sphere"
    config.model.msg = "simple" if args["msg"] else "none"
    config.model.msg_scales = args["scales"]
    config.model.msg_images = "separate" if args["separate"] else "sums"
    config.gen.norm = "pixel"
    config.dis.spectral_norm = False
    config.dis.minibatch_stddev = True
    for net in (config.gen, config.dis):
        net.width = (
            512 * 32 // args["resolution"]
        )  # 512 channels from 4 to 32 pixels, then half at each doubling
        net.max_width = 512
        net.optimizer.learning_rate = 3e-3
        net.optimizer.name = "adam" if args["ra_hinge"] else "rmsprop"
        net.optimizer.beta2 = 0.99
    config.loss.name = "ra_hinge" if args["ra_hinge"] else "wasserstein"
    if not args["ra_hinge"]:
        config.penalty.name = "wgan_gp"
        config.penalty.weight = 10.0
        config.penalty.drift = 1e-3
    config.train.batch_size = 32
    config.train.steps = 100_000
    config.ema.half_life_kimg = 22.0  # decay 0.999 a step of 32 images
    if args["small"]:
        config.data.name = "fashion_mnist"
        config.data.resolution = 32
        config.data.flip = False
        config.model.latent_dim = 64
        for net in (config.gen, config.dis):
            net.width = 8
            net.max_width = 64
            net.optimizer.name = "adam"
            net.optimizer.learning_rate = 2e-3
        config.loss.name = "non_saturating"
        config.penalty.name = "r1"
        config.penalty.weight = 1.0
        config.penalty.every = 8
        config.penalty.drift = 0.0
        config.train.steps = 1800
        config.ema.half_life_kimg = 5.0
        config.log.every_steps = 50
    return config
