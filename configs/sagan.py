"""The recipe sagan of the package, which `ganjax recipes show sagan` prints."""

from ganjax.config.recipes.sagan import get_config as get_config
