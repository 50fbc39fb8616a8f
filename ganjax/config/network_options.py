"""The class of an option, and the options that G and D both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ganjax.config import names

Value = bool | int | float | str


@dataclass(frozen=True)
class Option:
    """One key of the config.

    Attributes:
      key: the dotted name, for example `gen.optimizer.learning_rate`.
      default: its value when no recipe says otherwise; its type is the option's type.
      help: a description in one line.
      choices: the allowed values, empty where a range or anything goes.
      parts: the names that a text may be or is joined from, for the help page, where others are possible too.
      low, high: the inclusive bounds of a number, None where there is none.
      unit: the unit of a number, for the help page.
      runtime: True if it may change when a run goes on (it does not alter what is computed at a step).
      before: the value that describes runs from before this option existed; None where there is none.
    """

    key: str
    default: Value
    help: str
    choices: Sequence[Value] = ()
    parts: Sequence[str] = ()
    low: float | None = None
    high: float | None = None
    unit: str = ""
    runtime: bool = False
    before: Value | None = None

    def allowed(self) -> str:
        """Returns the allowed values, in words."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        kind = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}[
            type(self.default)
        ]
        if self.parts:
            kind += ": " + ", ".join(self.parts)
        if self.low is not None and self.high is not None:
            kind += f" from {self.low:g} to {self.high:g}"
        elif self.low is not None:
            kind += f" of at least {self.low:g}"
        return kind


def network_options(net: str, learning_rate: float) -> tuple[Option, ...]:
    """Returns the options that G and D both have; `net` is `gen` or `dis`."""
    name = {"gen": "G", "dis": "D"}[net]
    return (
        Option(f"{net}.width", 64, f"channels of {name} at full resolution; coarser levels double", low=1),
        Option(f"{net}.max_width", 512, f"most channels that a level of {name} gets", low=1),
        Option(
            f"{net}.depth",
            1,
            f"convolutions per block of {name} (dcgan), blocks per level (biggan_deep, r3gan), hidden layers (mlp)",
            low=1,
            high=16,
        ),
        Option(f"{net}.spectral_norm", net == "dis", f"spectral normalisation of every layer of {name}"),
        Option(f"{net}.spectral_iterations", 1, "power iterations per update", low=1, high=20),
        *_optimizer_options(net, learning_rate),
    )


def _optimizer_options(net: str, learning_rate: float) -> tuple[Option, ...]:
    """Returns the options of the optimiser of `gen` or `dis`."""
    name = {"gen": "G", "dis": "D"}[net]
    optimizer = f"{net}.optimizer"
    return (
        Option(
            f"{optimizer}.name",
            "adam",
            f"optimiser of {name}",
            choices=tuple(names.OPTIMIZERS),
        ),
        Option(f"{optimizer}.learning_rate", learning_rate, f"peak learning rate of {name}", low=0),
        Option(
            f"{optimizer}.beta1", 0.0, "decay of the first moment (momentum for sgd)", low=0, high=0.999999
        ),
        Option(
            f"{optimizer}.beta2", 0.99, "decay of the second moment (rmsprop's too)", low=0, high=0.9999999
        ),
        Option(f"{optimizer}.eps", 1e-8, "added to the root of the second moment", low=0),
        Option(f"{optimizer}.weight_decay", 0.0, "decoupled weight decay of adamw and lion", low=0),
        Option(f"{optimizer}.clip_norm", 0.0, "largest global norm of a gradient; 0 leaves it alone", low=0),
        Option(
            f"{optimizer}.schedule",
            "constant",
            "learning rate after the warm-up, down to final_scale at train.steps",
            choices=("constant", "linear", "cosine"),
        ),
        Option(f"{optimizer}.warmup_steps", 0, "steps of linear warm-up", low=0, unit="steps"),
        Option(
            f"{optimizer}.final_scale",
            0.0,
            "the schedule's end as a share of the learning rate",
            low=0,
            high=1,
        ),
        Option(
            f"{optimizer}.schedule_end",
            1.0,
            "share of training at which the schedule ends",
            low=0.0001,
            high=1,
        ),
        Option(
            f"{optimizer}.final_beta2",
            0.0,
            "beta2 at the schedule's end; 0 keeps it as it is",
            low=0,
            high=0.9999999,
        ),
    )


# Where the weights of G and D come from.
INIT_OPTIONS = (
    Option(
        "init.from",
        "",
        "folder of a run whose weights this run starts from (empty: random weights)",
        before="",
    ),
    Option("init.step", 0, "checkpoint of that run to start from (0: the newest)", low=0, before=0),
    Option(
        "init.weights", "raw", "weights of that run's G to start from", choices=("raw", "ema"), before="raw"
    ),
    Option(
        "init.parts",
        "gen,dis",
        "networks to start from that run's weights",
        choices=("gen,dis", "gen", "dis"),
        before="gen,dis",
    ),
)
