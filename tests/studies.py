"""A study that trains in seconds."""

from __future__ import annotations

STUDY = """
from ganjax.config import load_recipe
from ganjax.study import Study, Variant

def get_study(arg=""):
    base = load_recipe("configs/ring.py")
    for net in (base.gen, base.dis):
        net.width, net.depth = 16, 1
    base.monitor.samples = 64
    variants = [Variant("lr ×4", {"gen.optimizer.learning_rate": 8e-3}, "5", "worse", "too fast")]
    if arg == "two":
        variants.append(Variant("hinge", {"loss.name": "hinge"}, "3"))
    metrics = {"high_quality": "higher"}
    return Study("small", base, variants, metrics, seeds=(0, 1), kimg=5.12, evaluations=2, samples=200)
"""
