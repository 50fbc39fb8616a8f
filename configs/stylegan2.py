"""The recipe stylegan2 of the package, which `ganjax recipes show stylegan2` prints."""

from ganjax.config.recipes.stylegan2 import get_config as get_config
