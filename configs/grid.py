"""The recipe grid of the package, which `ganjax recipes show grid` prints."""

from ganjax.config.recipes.grid import get_config as get_config
