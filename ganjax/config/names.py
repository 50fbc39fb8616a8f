"""Reads the choices of the options, and the facts that the rules need, from the registries' own files.

A registry is a dict in the file of what it lists, `"hinge": Loss(…, has_targets=True)`: its keys are the choices of an
option, and the constant keywords of its calls are facts. They are read from the source, by its syntax tree, since a
config must be checked within a second and importing these files starts JAX. So each name and each fact stands once.
What a plugin registers is added to these dicts (`config/plugins.py`), so who lists their names lists them anew.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
Facts = dict[str, Any]


class Names(Sequence[str]):
    """Names that are listed anew at each use: plugins add to the registries."""

    def __init__(self, listed: Callable[[], Iterable[str]]) -> None:
        self._listed = listed

    def __getitem__(self, index: Any) -> Any:
        return tuple(self._listed())[index]

    def __len__(self) -> int:
        return len(tuple(self._listed()))


def read_registry(path: str, name: str) -> dict[str, Facts]:
    """Returns key → facts of the dict `name` in a file below `ganjax/`, in its order.

    Facts are those keywords of a value that is a call, which are literals.

    Raises:
      ValueError: the file has no such dict, or a key is not a string.
    """
    for node in ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", "") == name for target in targets):
            table = getattr(node, "value", None)
            if not isinstance(table, ast.Dict):
                break
            return {
                ast.literal_eval(key): facts_of(value)
                for key, value in zip(table.keys, table.values, strict=True)
                if key
            }
    raise ValueError(f"ganjax/{path} has no dict {name} of its own")


def facts_of(value: ast.expr) -> Facts:
    """Returns the keywords of a call that are literals."""
    found: Facts = {}
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            continue  # computed: nothing that a rule may ask for
    return found


def read_families() -> dict[str, Facts]:
    """Returns the families of networks and their facts. A family is a file of `ganjax/models` with a `FAMILY`."""
    families: dict[str, Facts] = {}
    for path in sorted((PACKAGE / "models").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FAMILY":
                families[path.stem] = facts_of(node.value)
    return families


def having(registry: Mapping[str, Facts], fact: str) -> Names:
    """Returns the names whose fact called `fact` is true."""
    return Names(lambda: (name for name, facts in registry.items() if facts.get(fact)))


FAMILIES = read_families()
LOSSES = read_registry("losses/adversarial.py", "LOSSES")
PENALTIES = read_registry("losses/penalties.py", "PENALTIES")
OPTIMIZERS = read_registry("training/optim.py", "OPTIMIZERS")
DATASETS = read_registry("data/__init__.py", "DATASETS")
POLICIES = read_registry("data/augment/diffaugment.py", "POLICIES")
NOISE_SCHEDULES = read_registry("data/augment/noise.py", "NOISE_SCHEDULES")
MEASURES = read_registry("evals/metrics/measures.py", "MEASURES")

# Numbers that the best checkpoints may be chosen by: whether more of it is better, and the measure that gives it.
HIGHER_IS_BETTER: dict[str, bool] = {}
MEASURE_OF: dict[str, str] = {}


def add_numbers(measure: str, higher_is_better: Mapping[str, bool]) -> None:
    """Makes the numbers of a measure ones that the best checkpoints may be chosen by."""
    HIGHER_IS_BETTER.update(higher_is_better)
    MEASURE_OF.update(dict.fromkeys(higher_is_better, measure))


for _name, _facts in MEASURES.items():
    add_numbers(_name, _facts.get("higher_is_better", {}))
