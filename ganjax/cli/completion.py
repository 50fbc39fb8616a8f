"""Shell completion, help that begins with an example, and "did you mean": a small extension of argparse's parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ganjax.runtime.errors import nearest

SHELLS = ("bash", "zsh")


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


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns the completion script of `shell`: commands, options, choices, and files or folders for a path."""
    import shtab

    for each in parsers_in(parser):
        for action in each._actions:
            if action.dest in ("workdir", "compare"):
                action.complete = shtab.DIR  # type: ignore[attr-defined]  # what shtab looks for
            elif action.type is Path or action.dest == "config":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def parsers_in(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parser and those of all commands below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers_in(below)
