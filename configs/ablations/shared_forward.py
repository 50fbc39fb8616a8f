"""The study shared_forward of the package, which `ganjax recipes show shared_forward` prints."""

from ganjax.study.recipes.shared_forward import get_study as get_study
