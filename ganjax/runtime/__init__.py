"""Serves every other room: errors, files, processes, signals, checkpoints and logs. Nothing here knows of GANs."""
