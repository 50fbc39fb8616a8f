"""The recipe biggan of the package, which `ganjax recipes show biggan` prints."""

from ganjax.config.recipes.biggan import get_config as get_config
