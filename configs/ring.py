"""The recipe ring of the package, which `ganjax recipes show ring` prints."""

from ganjax.config.recipes.ring import get_config as get_config
