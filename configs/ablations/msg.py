"""The study msg of the package, which `ganjax recipes show msg` prints."""

from ganjax.study.recipes.msg import get_study as get_study
