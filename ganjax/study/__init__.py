"""Ablations: a base recipe, variants of it, seeds, and the results with confidence intervals."""

from ganjax.study.config import Study, Variant, grid, one_at_a_time

__all__ = ["Study", "Variant", "grid", "one_at_a_time"]
