"""Metrics of samples: distances between feature distributions, scores, and the modes that a generator covers."""
