"""The program `ganjax`, also as `python -m ganjax`."""

import sys

from ganjax.runtime.allocator import start_with_allocator

LONG = ("train", "ablate", "evaluate")  # what is at work long enough to be worth a second start of Python


def entry() -> None:
    """Runs the command.

    One that failed ends at once: Orbax leaves threads behind when it cannot write, and Python would wait ten minutes
    for them.
    """
    if sys.argv[1:2] and sys.argv[1] in LONG:
        start_with_allocator()  # before anything else is imported: the program may start anew
    from ganjax.cli.main import main
    from ganjax.runtime import processes

    if code := main():
        processes.end(code)


if __name__ == "__main__":
    entry()
