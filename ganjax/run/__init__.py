"""Trains, evaluates, samples from and exports one run and its folder."""
