"""Assignment of tracks to the variants of an experiment, by a keyed hash.

The same track gets the same variant in every request and in every process, without any stored state. Without the key
of the experiment, which never leaves the gateway, a client can neither predict nor choose the variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Self


class Mode(StrEnum):
    """How the challenger is used."""

    AB = "ab"
    """The variant of a track answers it."""
    SHADOW = "shadow"
    """The control answers. The challenger scores the same track beside it, and its answer is only logged."""


class Variant(StrEnum):
    """One of the two versions that an experiment compares."""

    CONTROL = "control"
    CHALLENGER = "challenger"


class TargetServer(StrEnum):
    """A Triton server that the settings of the gateway name."""

    MAIN = "main"
    """The server at `triton_url`."""
    SECOND = "second"
    """The server at `second_triton_url`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A served model, with which a variant scores its tracks."""

    model: str
    """Name of the ensemble."""
    server: TargetServer = TargetServer.MAIN

    def as_dict(self) -> dict[str, Any]:
        """Return the target for the database."""
        return {"model": self.model, "server": str(self.server)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Read the result of `as_dict`."""
        return cls(model=content["model"], server=TargetServer(content["server"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an experiment does with a track."""

    experiment_id: str
    variant: Variant
    """Variant whose answer is sent."""
    target: Target
    """Target of this variant."""
    shadow: Target | None = None
    """Target of the challenger if it scores the track beside the control. A failure there must not harm the answer."""


def position(key: str, experiment_id: str, account_id: str, track_id: int) -> float:
    """Return the position of a track in an experiment: uniform in [0, 1), and the same in every call.

    Args:
        key: secret of the experiment.
        experiment_id: id of the experiment.
        account_id: id of the account that sends the track.
        track_id: id of the track.
    """
    text = f"{experiment_id}\n{account_id}\n{track_id}".encode()
    number = int.from_bytes(blake2b(text, key=key.encode(), digest_size=8).digest(), "big")
    return (number >> 11) * 2.0**-53  # the 53 bits of a float, so that the largest position is below 1
