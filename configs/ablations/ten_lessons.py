"""The study ten_lessons of the package, which `ganjax recipes show ten_lessons` prints."""

from ganjax.study.recipes.ten_lessons import get_study as get_study
