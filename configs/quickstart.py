"""The recipe quickstart of the package, which `ganjax recipes show quickstart` prints."""

from ganjax.config.recipes.quickstart import get_config as get_config
