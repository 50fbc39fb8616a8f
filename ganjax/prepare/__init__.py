"""`ganjax data prepare`: a folder or zip of pictures → a dataset of equal squares that TFDS and ganjax read."""

from ganjax.prepare.plan import Options
from ganjax.prepare.run import prepare

__all__ = ["Options", "prepare"]
