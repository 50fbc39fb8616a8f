"""Do multi-scale gradients help ProGAN on Fashion-MNIST at 32 pixels? The network with MSG against it without.

    ganjax ablate --config=configs/ablations/msg_progan.py --workdir=runs/msg_study --per-device=1

The recipe is `configs/msg_progan.py:small`, 57,600 images a run, three seeds; docs/models.md has what came out.
Arguments: none.
"""

from ganjax.config import load_recipe, parse_arg
from ganjax.study import Study, Variant


def get_study(arg: str = "") -> Study:
    parse_arg(arg)
    return Study(
        title="MSG-ProGAN on Fashion-MNIST",
        base=load_recipe("configs/msg_progan.py:small,msg=False"),
        variants=[Variant("MSG", {"model.msg": "simple"}, "8 MSG", "better", "all scales get gradients")],
        metrics={"fid": "lower", "coverage": "higher"},
        seeds=(0, 1, 2),
        kimg=57.6,
        evaluations=1,
        samples=5000,
    )
