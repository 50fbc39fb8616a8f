"""Do multi-scale gradients make training better, and steadier over learning rates? A family with MSG and without.

    ganjax ablate --config=msg --workdir=runs/msg --per-device=1
    ganjax ablate --config=msg:family=progan,data=fashion_mnist --workdir=runs/msg_progan
    ganjax ablate --config=msg:rates --workdir=runs/msg_rates --per-device=1

All with labels, at constant rates. Arguments: `family` (dcgan, progan, stylegan2 or r3gan); `data` (digits of 8×8, or
fashion_mnist at 32×32); `kimg` of a run; `seeds`; `rates` tries both learning rates times ¼, 4 and 16 too, with MSG and
without: steadiness is what Karnewar & Wang 2019 claim (section 4.3). docs/models.md has what came out.
"""

from ganjax.config import load_recipe, parse_arg
from ganjax.runtime.errors import UserError, nearest
from ganjax.study import Study, Variant

# family → its recipe for digits, and φ
FAMILIES = {
    "dcgan": ("quickstart", "simple"),
    "progan": ("msg_progan:small", "simple"),
    "stylegan2": ("stylegan2:small,conditional", "cat_lin"),
    "r3gan": ("r3gan:small", "simple"),
}
# data → pixels a side, width of the finest level, most channels
DATA = {"digits": (8, 32, 512), "fashion_mnist": (32, 16, 128)}
FACTORS = {"×¼": 0.25, "×4": 4.0, "×16": 16.0}


def get_study(arg: str = "") -> Study:
    args = parse_arg(arg, family="dcgan", data="digits", kimg=100.0, seeds=5, rates=False)
    for name, choices in (("family", FAMILIES), ("data", DATA)):
        if args[name] not in choices:
            raise UserError(
                f"{name} takes one of {', '.join(choices)}, and got {args[name]!r}.{nearest(args[name], choices)}"
            )
    recipe, phi = FAMILIES[args["family"]]
    side, width, most = DATA[args["data"]]
    base = load_recipe(recipe)
    base.data.name, base.data.resolution = args["data"], side
    base.model.conditional = True
    base.model.msg = "none"
    base.train.batch_size = 32
    rates = {}
    for net in ("gen", "dis"):
        base[net].width, base[net].max_width = width, most
        if base[net].optimizer.final_beta2 == 0:  # r3gan's moves with its schedule
            base[net].optimizer.schedule = "constant"
        rates[f"{net}.optimizer.learning_rate"] = base[net].optimizer.learning_rate
    variants = [Variant("MSG", {"model.msg": phi}, "8 MSG", "better", "all scales get gradients")]
    for sign, factor in FACTORS.items() if args["rates"] else ():
        changes = {key: rate * factor for key, rate in rates.items()}
        variants += [
            Variant(f"rates {sign}", changes, "rates"),
            Variant(f"MSG, rates {sign}", {**changes, "model.msg": phi}, "rates"),
        ]
    return Study(
        title=f"MSG in {args['family']} on {args['data']}",
        base=base,
        variants=variants,
        metrics={"fid": "lower", "coverage": "higher"},
        seeds=tuple(range(args["seeds"])),
        kimg=args["kimg"],
        evaluations=4,
        samples=2000 if args["data"] == "digits" else 5000,
    )
