"""Holds what the networks minimise: adversarial losses, penalties and their sum. Arrays in, arrays out."""
