"""Makes one checked `ConfigDict` out of the list of options, recipes and the command line.

A recipe is a Python file with `get_config(arg)`; it is the user's own code and is run. Everything here is
plain Python: nothing imports JAX, so a mistake is reported within a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ganjax.config import plugin_record, plugins
from ganjax.config.options import BEFORE, BY_KEY, OPTIONS, Option, Value
from ganjax.config.shipped import shipped
from ganjax.runtime.errors import UserError, nearest
from ganjax.runtime.files import is_number, read_json

SHOWN_LETTERS = 200  # of a name in a message


def default_config() -> ConfigDict:
    """Returns all options at their defaults, locked against new keys."""
    return unflatten({option.key: option.default for option in OPTIONS})


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """Returns `{"a.b": 1}` as a nested, locked `ConfigDict`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    config = ConfigDict(nested)
    config.lock()
    return config


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config as `{"a.b": value}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys of two flat configs whose values differ, with both values (None where a key is missing)."""
    keys = sorted(set(old) | set(new))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def parse_arg(arg: str | None, **defaults: Value) -> dict[str, Value]:
    """Parses the typed arguments of a recipe, `--config=FILE:name=value,flag`, over `defaults`.

    Raises:
      UserError: an argument that the recipe does not know, or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, given, text = part.partition("=")
        if name not in defaults:
            choices = ", ".join(sorted(defaults)) or "none"
            raise UserError(
                f"This recipe has no argument {name!r}; it takes: {choices}.{nearest(name, defaults)}"
            )
        values[name] = _parse(
            text if given else "True", type(defaults[name]), f"argument {name!r} of the recipe"
        )
    return values


def _parse(text: str, kind: type, where: str) -> Value:
    """Returns `text` as a value of `kind`. As an integer, 1e3 is accepted too."""
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        if kind is int:
            number = float(text)
            if number != int(number):
                raise ValueError
            return int(text) if text.lstrip("+-").isdigit() else int(number)
        return kind(text)
    except (ValueError, KeyError, OverflowError):
        kinds = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}
        raise UserError(f"The {where} takes {kinds[kind]}, and got {text!r}.") from None


def _option(key: str) -> Option:
    if key in BY_KEY:
        return BY_KEY[key]
    inside = [option.key for option in OPTIONS if option.key.startswith(key + ".")]
    if inside:
        raise UserError(f"Option {key!r} is a group; set one of its members: {', '.join(inside)}.")
    raise UserError(
        f"There is no option {key!r}.{nearest(key, BY_KEY)} All options: ganjax train --help-config"
    )


def set_option(config: ConfigDict, key: str, value: Value | str) -> None:
    """Sets one option in place. A text is parsed to the option's type.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    option = _option(key)
    if isinstance(value, str) and not isinstance(option.default, str):
        value = _parse(value, type(option.default), f"option {key}")
    *groups, name = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    with node.ignore_type():
        node[name] = value


def load_recipe(spec: str) -> ConfigDict:
    """Runs `get_config` of the recipe `FILE[:ARG]`, or `NAME[:ARG]` for one of the package.

    Raises:
      UserError: no such recipe, no `get_config`, an error in the recipe, or a result that is no config.
    """
    config = load_file(spec, "get_config", ConfigDict)
    assert isinstance(config, ConfigDict)
    return config


def load_file(spec: str, function: str, kind: type) -> Any:
    """Returns what `function` of the Python file `FILE[:ARG]` returns for that argument: a `kind`.

    FILE is a path, or the name of a recipe or study of the package.

    Raises:
      UserError: no such file or function, an error in it, or a result of another kind.
    """
    text, _, arg = spec.partition(":")
    of_package = shipped(function)
    path = of_package.get(text, Path(text))
    if not os.path.isfile(path):  # which says so, too, of a name that is too long, and pathlib fails
        near = path.parent
        beside = [str(found) for found in sorted(near.glob("*.py"))] if os.path.isdir(near) else []
        shown = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
        raise UserError(
            f"There is no recipe {shown!r} (looked from {Path.cwd()}).{nearest(text, [*of_package, *beside])} "
            "`ganjax recipes` lists those of the package."
        )
    plugins.load_packages()
    module = plugins.run_file(path, "recipe")
    try:
        call = getattr(module, function)
        result = call(arg) if arg else call()
    except UserError:
        raise
    except Exception as error:
        raise plugins.failure(error, str(path), "recipe") from error
    if not isinstance(result, kind):
        raise UserError(
            f"{function} of {text!r} must return a {kind.__name__}, and returned {type(result).__name__}."
        )
    return result


def resolve(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the recipe `spec` with `overrides` applied, complete and checked.

    Raises:
      UserError: see `load_recipe`, `set_option` and `check`.
    """
    config = load_recipe(spec)
    for key, text in overrides:
        set_option(config, key, text)
    check(config)
    return config


def check(config: ConfigDict) -> None:
    """Checks that every option is there, of its type, in its range, and goes with the others.

    Integers are taken for numbers and turned into floats in place.

    Raises:
      UserError: an option is wrong; the message names the first.
    """
    from ganjax.config.rules import check_combinations

    plugins.load_packages()
    flat = flatten(config)
    for key in flat:
        _option(key)
    for option in OPTIONS:
        if option.key not in flat:
            raise UserError(
                f"Option {option.key} is missing; start a recipe from ganjax.config.default_config()."
            )
        _check_value(config, option, flat[option.key])
    check_combinations(flatten(config))


def _check_value(config: ConfigDict, option: Option, value: Any) -> None:
    kind = type(option.default)
    if kind is float and type(value) is int and is_number(value):
        value = float(value)
        set_option(config, option.key, value)
    if type(value) is not kind:
        raise UserError(
            f"Option {option.key} takes {option.allowed()}, and got {value!r} ({type(value).__name__})."
        )
    if option.choices and value not in option.choices:
        guess = nearest(str(value), map(str, option.choices))
        raise UserError(f"Option {option.key} takes {option.allowed()}, and got {value!r}.{guess}")
    if isinstance(value, int | float) and kind is not bool:
        above = option.low is None or value >= option.low
        below = option.high is None or value <= option.high
        if not (above and below and abs(value) < (2**53 if kind is int else float("inf"))):
            raise UserError(f"Option {option.key} takes {option.allowed()}, and got {value!r}.")


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as plain nested dicts."""
    return json.loads(config.to_json())


def help_page() -> str:
    """Returns all options with type, default, unit and help, for `--help-config`."""
    lines = ["Options, set in a recipe or by --config.KEY=VALUE:"]
    group = ""
    for option in OPTIONS:
        if option.key.split(".")[0] != group:
            group = option.key.split(".")[0]
            lines.append("")
        unit = f" [{option.unit}]" if option.unit else ""
        lines.append(f"  {option.key} = {option.default!r}{unit}")
        lines.append(f"      {option.help} ({option.allowed()})")
    return "\n".join(lines)


def from_workdir(workdir: Path) -> ConfigDict:
    """Reads the config of the run in `workdir`, and loads the plugins that it names.

    Raises:
      UserError: there is no run, its config is one that this version does not know, or a plugin is not there.
    """
    file = workdir / "config.json"
    try:
        stored = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} holds no run: {file} cannot be read ({error}).") from None
    if not isinstance(stored, dict):
        raise UserError(f"{workdir} holds no run: {file} is not a JSON object.")
    # An option that is younger than the run, and does not change what is computed or says what it was, needs no value
    # from it.
    younger = {option.key: option.default for option in OPTIONS if option.runtime}
    plugin_record.restore(plugin_record.read(workdir))
    flat = {**younger, **BEFORE, **flatten(stored)}
    try:
        for key in flat:  # before they become a ConfigDict, which takes some names for its own
            _option(key)
        config = unflatten(flat)
        check(config)
    except UserError as error:
        raise UserError(f"{file} is no config that this version knows. {error}") from None
    return config
