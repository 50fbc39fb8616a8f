"""The recipe sngan of the package, which `ganjax recipes show sngan` prints."""

from ganjax.config.recipes.sngan import get_config as get_config
