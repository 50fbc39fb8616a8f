"""`python -m ganjax` is the command `ganjax`."""

from ganjax.cli import entry

if __name__ == "__main__":
    entry()
