"""The shallow family on 8×8 digits, with labels and both scales.

ganjax train --config=docs/examples/shallow_recipe.py --workdir=runs/shallow
"""

from ganjax.config import default_config


def get_config(arg: str = ""):
    config = default_config()
    config.data.name = "digits"
    config.model.name = "shallow"
    config.model.conditional = True
    config.model.msg = "simple"
    config.gen.width = 64
    config.dis.width = 64
    config.train.steps = 1000
    return config
