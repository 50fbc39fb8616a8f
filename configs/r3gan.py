"""The recipe r3gan of the package, which `ganjax recipes show r3gan` prints."""

from ganjax.config.recipes.r3gan import get_config as get_config
