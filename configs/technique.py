"""The recipe technique of the package, which `ganjax recipes show technique` prints."""

from ganjax.config.recipes.technique import get_config as get_config
