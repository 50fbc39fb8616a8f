"""Runs `ganjax data prepare`: a folder or zip of pictures → a dataset of equal squares that TFDS and ganjax read."""

from ganjax.data.prepare.plan import Options
from ganjax.data.prepare.run import prepare

__all__ = ["Options", "prepare"]
