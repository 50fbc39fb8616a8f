"""Serves every other room and knows nothing of GANs: errors, files, processes, signals, checkpoints, logs."""
