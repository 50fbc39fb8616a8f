"""The recipe fashion_mnist of the package, which `ganjax recipes show fashion_mnist` prints."""

from ganjax.config.recipes.fashion_mnist import get_config as get_config
