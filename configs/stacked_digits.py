"""The recipe stacked_digits of the package, which `ganjax recipes show stacked_digits` prints."""

from ganjax.config.recipes.stacked_digits import get_config as get_config
