"""What a training needs of its data, wherever the data is stored: labelled tracks, and facts that identify them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from reentry.tracks import ReadReport
from training.data.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTracks:
    """The usable tracks of a file or a table, as samples."""

    samples: Sequence[Sample]
    """Samples in memory or on disk."""
    report: ReadReport
    """Report of what was repaired and what was set aside."""
    file_fingerprint: str = ""
    """Fingerprint of the bytes that were read, see `reentry.tracks.fingerprint`; empty if there was no file."""
    table: Mapping[str, str | int] | None = None
    """Name, version and id of the table that was read; None if there was no table."""
    origin: Mapping[str, Any] | None = None
    """Simulation settings that the file records, see `reentry.tracks.origin_of`."""


class TrainingData(Protocol):
    """Labelled tracks that can be opened any number of times, with the same content."""

    def facts(self) -> dict[str, object]:
        """Return what identifies the tracks, for the record of a run; `data.path` names them for people.

        Raises:
            InputError: the data is unavailable.
        """

    def open(self, groups: frozenset[str]) -> AbstractContextManager[LabelledTracks]:
        """Open the tracks with the features of these groups, see `track_features`; features of other groups are 0.

        Raises:
            InputError: the data cannot be used, or changed after `facts` was called.
        """
