"""The version of the package, for whatever names it."""

__version__ = "0.1.0"
