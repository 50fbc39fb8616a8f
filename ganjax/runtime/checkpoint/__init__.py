"""Saving and exact resuming: Orbax stores the arrays, a manifest of ours beside them is their witness."""

from ganjax.runtime.checkpoint.checkpointer import Checkpointer, CheckpointWarning
from ganjax.runtime.checkpoint.manifest import OtherArchitecture

__all__ = ["CheckpointWarning", "Checkpointer", "OtherArchitecture"]
