"""Measures a generator: features, metrics, samplers, and the monitor of a training's health."""
