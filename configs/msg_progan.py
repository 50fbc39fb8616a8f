"""The recipe msg_progan of the package, which `ganjax recipes show msg_progan` prints."""

from ganjax.config.recipes.msg_progan import get_config as get_config
