"""Holds the options, the rules between them and what a recipe is built from. It does not import JAX."""

from ganjax.config.recipe import check as check
from ganjax.config.recipe import default_config as default_config
from ganjax.config.recipe import flatten as flatten
from ganjax.config.recipe import load_recipe as load_recipe
from ganjax.config.recipe import parse_arg as parse_arg
from ganjax.config.recipe import set_option as set_option
from ganjax.config.recipe import to_json as to_json
