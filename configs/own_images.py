"""The recipe own_images of the package, which `ganjax recipes show own_images` prints."""

from ganjax.config.recipes.own_images import get_config as get_config
