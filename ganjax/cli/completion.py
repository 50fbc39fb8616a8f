"""Shell completion, help that begins with an example, and "did you mean": a small extension of argparse's parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ganjax.config.options import OPTIONS
from ganjax.config.shipped import FOLDERS, shipped
from ganjax.runtime.errors import nearest

SHELLS = ("bash", "zsh")
RECIPE, STUDY = FOLDERS
# A function that completes the name of a recipe or study of the package, or a file.
RECIPES = {
    "bash": '_ganjax_file_or_%s() { compgen -W "%s" -- "$1"; compgen -f -- "$1"; }\n',
    "zsh": "_ganjax_file_or_%s() { _alternative 'recipes:recipe:(%s)' 'files:file:_files' }\n",
}


class Parser(argparse.ArgumentParser):
    """A parser whose help begins with its description, and so with the example, and which names the nearest choice.

    It makes parsers below it of the same kind.
    """

    def format_help(self) -> str:
        """Returns the description, then usage and options."""
        description, self.description = self.description, None
        try:
            rest = super().format_help()
        finally:
            self.description = description
        return f"{description}\n\n{rest}" if description else rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(
                action, f"{error.message}{nearest(str(value), map(str, action.choices or ()))}"
            ) from None


class PrintCompletion(argparse.Action):
    """The option `--print-completion SHELL`: prints the script that the shell is to read, and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Prints the script; argparse calls this."""
        print(script(parser, str(values)))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Adds `--print-completion` to the main parser."""
    parser.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        help="print what makes the shell complete commands and options, and stop",
    )


# Bash takes `--key=value` apart at the `=`. Without that word it is `--key value`, which shtab's function reads.
BASH = """
_ganjax() {
  local words=() word at=$COMP_CWORD i
  for i in "${!COMP_WORDS[@]}"; do
    word="${COMP_WORDS[i]}"
    if [[ $word != "=" ]]; then words+=("$word")
    elif (( i == COMP_CWORD )); then words+=("")
    elif (( i < COMP_CWORD )); then (( at -= 1 )); fi
  done
  COMP_WORDS=("${words[@]}") COMP_CWORD=$at
  _shtab_ganjax
}
complete -o bashdefault -F _ganjax ganjax
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns the completion script of `shell`: commands, options and their values, recipes, options of a config."""
    import shtab

    add_config_options(next(each for each in parsers_in(parser) if each.prog == "ganjax train"))
    for each in parsers_in(parser):
        for action in each._actions:
            if isinstance(action.metavar, str):
                action.metavar = action.metavar.replace(":", " ")  # a colon ends a field of zsh's
            if action.dest in ("workdir", "compare"):
                action.complete = shtab.DIR  # type: ignore[attr-defined]  # what shtab looks for
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.dest == "config":
                call = f"_ganjax_file_or_{STUDY if each.prog == 'ganjax ablate' else RECIPE}"
                action.complete = {"bash": call, "zsh": call}  # type: ignore[attr-defined]
            elif (each.prog, action.dest) in (("ganjax new", "name"), ("ganjax recipes show", "name")):
                action.choices = [name for function in FOLDERS for name in shipped(function)]
    calls = "".join(RECIPES[shell] % (call, " ".join(shipped(call))) for call in FOLDERS)
    text = shtab.complete(parser, shell, preamble=calls)
    if shell == "bash":
        return text + BASH
    # zsh: an option that takes a value takes it behind `=` too
    return re.sub(r'^(  "\*?--[\w.-]+)(\[.*\]:)', r"\1=\2", text, flags=re.MULTILINE)


def add_config_options(train: argparse.ArgumentParser) -> None:
    """Adds each option of a config, as `--config.KEY`, to a parser that is only asked for its options."""
    for option in OPTIONS:
        boolean = ("True", "False") if isinstance(option.default, bool) else None
        train.add_argument(
            f"--config.{option.key}",
            help=option.help.replace("%", "%%"),
            choices=[str(choice) for choice in option.choices] or boolean,
        )


def parsers_in(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parser and those of all commands below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers_in(below)
