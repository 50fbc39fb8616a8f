"""The protocol of a number: the way it was measured. Numbers of different protocols are not compared."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganjax.runtime.errors import UserError
from ganjax.runtime.files import make_record
from ganjax.runtime.version import __version__

# Where a number comes from; two numbers that are compared may differ in it. All other fields must be equal. The name of
# the real data is the path of a folder, which may have moved: their hash tells them apart.
PROVENANCE = ("reference", "seed", "commit", "step", "origin")


@dataclass(frozen=True)
class Protocol:
    """The protocol of a number: the way it was measured.

    Attributes:
      features: name of the feature network.
      features_sha256: hash of that network's weights.
      resize: the method that brings images to the network's size.
      reference: name of the real data.
      split: split of the real data.
      reference_sha256: hash of the real samples and labels.
      reference_count: number of real samples used.
      sample_count: number of generated samples used.
      weights: `ema`, `raw`, or `images` for files.
      settings: settings of the metric itself: neighbours, subsets.
      class_shares: how often samples had each class, `data` or `even`; empty where the generator knows none.
      seed: seed of the latents and draws.
      commit: version of ganjax, and the git commit where it runs from a checkout.
      step: step of the checkpoint, or -1.
      origin: folder of the run or of the images.
    """

    features: str
    features_sha256: str
    resize: str
    reference: str
    split: str
    reference_sha256: str
    reference_count: int
    sample_count: int
    weights: str
    settings: tuple[tuple[str, int], ...] = ()
    class_shares: str = ""
    seed: int = 0
    commit: str = ""
    step: int = -1
    origin: str = ""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Protocol:
        """Reads a protocol from the JSON of `to_json`. Raises a `UserError` where fields are missing or unknown."""
        try:
            settings = tuple(sorted((str(k), int(v)) for k, v in record["settings"].items()))
            plain = make_record(cls, {name: value for name, value in record.items() if name != "settings"})
            return dataclasses.replace(plain, settings=settings)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"This is not a protocol of ganjax: {error!r}.") from None

    def to_json(self) -> dict[str, Any]:
        """Returns the protocol as plain JSON."""
        return {**dataclasses.asdict(self), "settings": dict(self.settings)}

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """Returns the fields that forbid a comparison, with both values. Fields in `PROVENANCE` may differ."""
        ours, theirs = self.to_json(), other.to_json()
        return {
            name: (ours[name], theirs[name])
            for name in ours
            if name not in PROVENANCE and ours[name] != theirs[name]
        }


@dataclass(frozen=True)
class Measurement:
    """A number with its name, interval, floor and protocol.

    Attributes:
      name: name of the number.
      value: the number.
      low, high: its 95 % interval.
      floor: the same metric of real samples against other real ones; None where there are too few.
      protocol: the way it was measured.
    """

    name: str
    value: float
    low: float
    high: float
    floor: float | None
    protocol: Protocol

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        """Reads a measurement from the JSON of `to_json`. Raises a `UserError` where the record is none."""
        try:
            return make_record(cls, {**record, "protocol": Protocol.from_json(record["protocol"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"This is not a measurement of ganjax: {error!r}.") from None

    def to_json(self) -> dict[str, Any]:
        """Returns the measurement as plain JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "protocol": self.protocol.to_json()}

    def __sub__(self, other: Measurement) -> float:
        """Returns the difference of the two values, this one's minus the other's.

        Raises:
          UserError: the protocols differ; the message lists the differences.
        """
        check_comparable(self, other)
        return self.value - other.value


def check_comparable(one: Measurement, other: Measurement) -> None:
    """Raises a `UserError` unless both numbers have the same name and protocol. The message lists the differences."""
    differences = one.protocol.differences(other.protocol)
    if one.name != other.name:
        differences = {"measure": (one.name, other.name), **differences}
    if differences:
        lines = [f"  {name}: {ours!r} against {theirs!r}" for name, (ours, theirs) in differences.items()]
        raise UserError(
            f"These numbers of {one.name} were measured in different ways and are not compared:\n"
            + "\n".join(lines)
            + "\nMeasure both in the same way."
        )


def key_of(facts: Mapping[str, Any]) -> str:
    """Returns the sha256, in hex, of the facts as JSON. It is the name under which statistics are cached."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_version() -> str:
    """Returns the version of ganjax, such as `0.1.0`.

    In a git checkout `+COMMIT` follows, and `-changed` where files differ from the commit.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return __version__
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=20)
            for command in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "-uno", "--", "ganjax"),
            )
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    if commit.returncode or not commit.stdout.strip():
        return __version__
    return f"{__version__}+{commit.stdout.strip()}" + ("-changed" if changes.stdout.strip() else "")
