"""Notes in a checkpoint about the networks that trained it, which may compute another function with the same shapes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ganjax.models import MODELS
from ganjax.runtime.checkpoint import Checkpointer, CheckpointWarning, OtherArchitecture
from ganjax.runtime.errors import UserError

KEY = "networks"  # in the metadata of a checkpoint; those of before it was written are of revision 1


def noted(family: str) -> dict[str, int]:
    """Returns what goes into the metadata of a checkpoint of this family."""
    return {KEY: MODELS[family].revision}


def check(family: str, metadata: Mapping[str, Any], where: str) -> None:
    """Warns where the networks compute something else than when the checkpoint was saved.

    Args:
      family: the name of the networks.
      metadata: the checkpoint's metadata.
      where: the checkpoint, in words.
    """
    was, now = int(metadata.get(KEY, 1)), MODELS[family]
    if was == now.revision:
        return
    if was > now.revision:
        told = f"a newer ganjax, whose {family} computes something else (revision {was}, here {now.revision})"
    else:
        told = (
            f"a {family} that computed something else (revision {was}, now {now.revision}); since then "
            + "; ".join(now.changes[was - 1 :])
        )
    warnings.warn(
        f"{where} was trained by {told}. Its weights are used as they are: samples are not what they were, and "
        "training goes on from there as the networks are now.",
        CheckpointWarning,
        stacklevel=3,
    )


def restore(
    checkpoints: Checkpointer, template: Any, step: int | None, family: str, folder: Path
) -> tuple[int, Any, dict[str, Any]] | None:
    """Restores a checkpoint. Warns of what the networks compute otherwise than when it was saved.

    Args:
      checkpoints, template, step: see `Checkpointer.restore`.
      family: the name of the networks.
      folder: the run's folder, for messages.

    Raises:
      UserError: as `Checkpointer.restore`; other arrays with what has come to be different in this family.
    """
    with explained(family):
        found = checkpoints.restore(template, step)
    if found is not None:
        check(family, found[2], f"Step {found[0]} of {folder}")
    return found


@contextlib.contextmanager
def explained(family: str) -> Iterator[None]:
    """Adds to the refusal of a checkpoint with other arrays what has come to be different in this family.

    Raises:
      UserError: in place of `OtherArchitecture`.
    """
    try:
        yield
    except OtherArchitecture as refused:
        if not MODELS[family].reshaped:
            raise
        since = "; ".join(MODELS[family].reshaped)
        raise UserError(f"{refused}\nIf an earlier ganjax made it: since then {since}.") from None
