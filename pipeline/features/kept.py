"""Buckets of the table `features` that a build keeps, because computing them again would give the same rows.

Each build records how many tracks and rows every bucket has, and a hash of the code that computed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from deltalake import DeltaTable

import pipeline
import reentry
from pipeline.lake.files import missing_files
from pipeline.lake.history import changed_partitions, commits, version_of_rows
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import CLEAN, FEATURES_TABLE

SOURCE: Final = "source"
"""Entry of a commit's metadata: the version of `clean` that its features were computed from."""
_COUNTS: Final = "buckets"
"""Entry of a commit's metadata: the counts of each bucket, as JSON."""
_RECIPE: Final = "recipe"
"""Entry of a commit's metadata: what decides the rows of a bucket besides the rows of `clean`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCounts:
    """Numbers of one bucket of `features`, or of several together."""

    tracks: int
    rows: int
    unlabelled: int
    """Number of tracks of `clean` that were left out because a row has no label."""

    @classmethod
    def total(cls, counts: Iterable[BucketCounts]) -> BucketCounts:
        """Return the sum of counts."""
        found = list(counts)
        return cls(
            tracks=sum(each.tracks for each in found),
            rows=sum(each.rows for each in found),
            unlabelled=sum(each.unlabelled for each in found),
        )

    @staticmethod
    def of_commit(commit: Mapping[str, Any]) -> dict[int, BucketCounts]:
        """Return the counts of each bucket that a build has recorded."""
        return {int(bucket): BucketCounts(**counts) for bucket, counts in json.loads(commit[_COUNTS]).items()}


def buckets_entry(recipe: str, counts: Mapping[int, BucketCounts]) -> dict[str, str]:
    """Return the entries of a commit's metadata from which a later build knows what it can keep."""
    return {
        _RECIPE: recipe,
        _COUNTS: json.dumps({bucket: asdict(counts[bucket]) for bucket in sorted(counts)}),
    }


def kept_buckets(lake: Lake, table: DeltaTable, recipe: str, clean: int) -> dict[int, BucketCounts]:
    """Return the counts of the buckets of `features` whose rows are those of a version of `clean`.

    If the rows of the table were not written by a build with the same recipe, no bucket is kept: so after an erasure or
    a rotation of pseudonyms. A bucket that has lost a file is not kept either.

    Args:
        lake: The tables.
        table: The table `features`.
        recipe: Result of `with_code`.
        clean: Version of `clean`.

    Raises:
        LakeError: The store is unavailable.
    """
    if set(FEATURES_TABLE.schema.names) - {each.name for each in table.schema().fields}:
        return {}
    last = next(each for each in commits(table) if each["version"] == version_of_rows(table))
    if last.get(_RECIPE) != recipe:
        return {}
    built = TableReference.parse(last[SOURCE]).version
    assert built is not None
    changed = changed_partitions(lake, CLEAN.name, "bucket", built, clean)
    if None in changed:
        return {}
    changed |= {bucket_of_file(path) for path in missing_files(lake, FEATURES_TABLE.name, table.version())}
    return {bucket: counts for bucket, counts in BucketCounts.of_commit(last).items() if str(bucket) not in changed}


def bucket_of_file(path: str) -> str:
    """Return the bucket of a file of `features`, from its path below the table: bucket=3/NAME."""
    return path.partition("/")[0].removeprefix("bucket=")


def with_code(recipe: str) -> str:
    """Return what decides the rows of a bucket besides the rows of `clean`: a recipe, and a hash of the code."""
    return f"{recipe}, code {_code()}"


@cache
def _code() -> str:
    """Return a hash of everything that computes features: the sources, and the versions of the numerical packages."""
    domain, own = Path(reentry.__file__).parent, Path(pipeline.__file__).parent
    digest = hashlib.sha256()
    for source in sorted([*domain.rglob("*.py"), *(own / "features").glob("*.py"), *(own / "lake").glob("*.py")]):
        digest.update(source.read_bytes())
    for package in ("numpy", "numba"):
        with suppress(PackageNotFoundError):  # orbit features alone need numba
            digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()
