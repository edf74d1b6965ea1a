"""Places that erasure and audit search, which must exist, because nothing is found in a place with a mistyped name."""

from __future__ import annotations

from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage
from pipeline.lake.tables import RAW
from reentry.errors import LakeError


def require_places(lake: Lake, landing: Storage) -> None:
    """Check that the table `raw` and the landing folder exist.

    An S3 store has no empty folders, so that a landing prefix without objects does not exist.

    Raises:
        LakeError: One of them does not exist, or the store is unavailable.
    """
    if not lake.exists(RAW.name):
        raise LakeError(
            "there is no table raw, so there is nothing to search",
            where=lake.location,
            fix="correct --lake; the table exists after the first `reentry ingest`",
        )
    if not landing.exists():
        raise LakeError(
            "the landing folder does not exist",
            where=landing.location,
            fix="correct --landing; if it is empty, create the folder, or on S3 an empty object .keep in it",
        )
