"""Values from the references of the versions in a model repository, whose files are read once, not for each request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from reentry.drift import REFERENCE_FILE, Reference
from reentry.errors import CheckpointError

MOST_VERSIONS: Final = 8
"""Maximum number of versions that are kept; more than a server serves at a time."""

Value = TypeVar("Value")


class ByVersion(Generic[Value]):
    """A value for each version, which is computed from its reference again if the file has changed."""

    def __init__(self, network: Path, value_of: Callable[[Reference], Value | None]) -> None:
        """Begin without versions.

        Args:
            network: folder of reentry_lstm. It does not exist if the models are in a bucket.
            value_of: function from a reference to the value; None if the reference does not have it.
        """
        self._network, self._value_of = network, value_of
        self._kept: dict[int, tuple[int, Value | None]] = {}  # time of the file and value, the latest used last

    def of(self, version: int) -> Value | None:
        """Value of a version; None if its reference is missing or invalid, or does not have it.

        A version whose folder was deleted may still run, and keeps its value.
        """
        folder = self._network / str(version)
        kept = self._kept.pop(version, None)
        try:
            modified = (folder / REFERENCE_FILE).stat().st_mtime_ns
        except OSError:
            if kept is None or folder.exists():
                return None
        else:
            if kept is None or kept[0] != modified:
                kept = modified, self._loaded(folder)
        self._kept[version] = kept
        if len(self._kept) > MOST_VERSIONS:
            del self._kept[next(iter(self._kept))]
        return kept[1]

    def _loaded(self, folder: Path) -> Value | None:
        try:
            reference = Reference.load(folder)
        except CheckpointError:  # `reentry.triton.telemetry` logs it
            return None
        return None if reference is None else self._value_of(reference)
