"""Saves and resumes exactly: Orbax stores the arrays, and our own manifest beside them is their witness."""

from ganjax.runtime.checkpoint.checkpointer import Checkpointer, CheckpointWarning
from ganjax.runtime.checkpoint.manifest import OtherArchitecture

__all__ = ["CheckpointWarning", "Checkpointer", "OtherArchitecture"]
