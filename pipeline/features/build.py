"""The build of the table `features` from a version of the table `clean`: each version of the source is built once.

All buckets are replaced in one commit. A bucket is read, computed and written as a whole, so that memory holds one or
two of them for each process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from pipeline.lake.files import missing_files
from pipeline.lake.history import commits, version_of_rows
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN, FEATURES_TABLE, feature_column
from pipeline.lake.whole_tracks import rows_of_bucket, track_of, whole_tracks
from reentry.errors import LakeError
from reentry.features.groups import ALL_GROUPS, names_with
from reentry.features.track import track_features
from reentry.runtime.ahead import one_ahead
from reentry.runtime.pool import in_order
from reentry.runtime.progress import progress
from reentry.runtime.revision import git_revision, image_digest
from reentry.schema import FEATURES, REENTRY_PHASE, SCHEMA_VERSION

SOURCE: Final = "source"
"""Entry of a commit's metadata: the version of `clean` that its features were computed from."""
_BUILD: Final = "build"
"""Entry of a commit's metadata: everything that decides its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBuild:
    """Result of a build."""

    source: str
    """Version of `clean`, such as lake:clean@12."""
    features: str
    """Version of `features`, such as lake:features@3."""
    built: bool
    """Whether this call has built it; otherwise an earlier build has."""
    rows: int
    tracks: int | None
    """Number of tracks; None if an earlier build has computed them."""
    unlabelled: int | None
    """Number of tracks that were left out because a row has no label; None if an earlier build has computed them."""

    def summary(self) -> str:
        """Summary in one line of text."""
        if not self.built:
            return f"{self.features}: an earlier build of {self.source}, {self.rows:,} rows"
        left_out = f"; {self.unlabelled:,} tracks without labels left out" if self.unlabelled else ""
        return f"{self.features}: {self.tracks:,} tracks, {self.rows:,} rows from {self.source}{left_out}"

    def as_dict(self) -> dict[str, Any]:
        """Summary as a JSON-serialisable dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """Rows of one bucket of `features`."""

    rows: pa.Table
    read: int
    """Number of rows of `clean`."""
    tracks: int
    unlabelled: int


def build_features(
    lake: Lake, version: int | None = None, *, groups: frozenset[str] = ALL_GROUPS, processes: int = 1
) -> FeatureBuild:
    """Compute the features of all labelled tracks of a version of `clean`, and replace the rows of `features`.

    The same source, schema version and groups are built once, unless the files of that build were removed since.

    Args:
        lake: The tables.
        version: Version of `clean`; None takes the newest one.
        groups: Groups of features to compute, see `track_features`; the columns of the others stay empty.
        processes: Number of processes, each of which computes one bucket at a time.

    Raises:
        LakeError: The version does not exist, has no labelled track, the store is unavailable, or rows were erased
            during the build.
        ConfigError: The package that computes the orbit features is not installed.
    """
    fences = lake.fences(FEATURES_TABLE.name)
    clean = lake.open(CLEAN.name, version)
    source = str(TableReference(CLEAN.name, clean.version()))
    # A table that was deleted and created again counts its versions from 0, but has another id.
    rows = f"{CLEAN.name}@{version_of_rows(clean)} of {clean.metadata().id}"
    description = f"{rows}, schema {SCHEMA_VERSION}, features {'+'.join(['simple', *sorted(groups)])}"
    lake.create(FEATURES_TABLE.name)
    earlier = [commit for commit in commits(lake.open(FEATURES_TABLE.name)) if commit.get(_BUILD) == description]
    if earlier and not missing_files(lake, FEATURES_TABLE.name, earlier[0]["version"]):
        return _report(source, earlier[0])
    failure: list[BaseException] = []
    left_out = _Counts()

    def rows_of(_keys: object, _table: DeltaTable) -> pa.RecordBatchReader:
        left_out.reset()
        # Delta Lake pulls the batches on a thread that cannot read another table, so a second thread reads `clean`.
        batches = one_ahead(_batches(lake, clean, groups, processes, left_out))
        return pa.RecordBatchReader.from_batches(FEATURES_TABLE.schema, _noting_failure(batches, failure))

    try:
        committed = lake.commit_once(
            FEATURES_TABLE.name,
            [f"{description}, build {len(earlier) + 1}"],
            rows_of,
            replace=lambda _keys, _table: f"bucket >= 0 AND bucket < {BUCKETS}",
            metadata={
                SOURCE: source,
                _BUILD: description,
                "git_revision": git_revision(),
                "image_digest": image_digest(),
            },
            fences=fences,
        )
    except LakeError:
        if failure:
            raise failure[-1] from None
        raise
    newest = next(commit for commit in commits(lake.open(FEATURES_TABLE.name)) if commit.get(_BUILD) == description)
    return _report(source, newest, left_out if committed else None)


@dataclass(slots=True)
class _Counts:
    tracks: int = 0
    unlabelled: int = 0

    def reset(self) -> None:
        self.tracks = self.unlabelled = 0


def _report(source: str, commit: Mapping[str, Any], counts: _Counts | None = None) -> FeatureBuild:
    return FeatureBuild(
        source=source,
        features=str(TableReference(FEATURES_TABLE.name, commit["version"])),
        built=counts is not None,
        rows=commit["operationMetrics"]["num_added_rows"],
        tracks=counts.tracks if counts else None,
        unlabelled=counts.unlabelled if counts else None,
    )


def _batches(
    lake: Lake, clean: DeltaTable, groups: frozenset[str], processes: int, counts: _Counts
) -> Iterator[pa.RecordBatch]:
    """Yield the new rows in batches, and count the tracks.

    Raises:
        LakeError: No track has labels.
    """
    compute = partial(_bucket, lake.location, clean.version(), groups)
    with progress("computing features", clean.count(), "rows") as advance:
        for bucket in in_order(compute, BUCKETS, processes):
            counts.tracks += bucket.tracks
            counts.unlabelled += bucket.unlabelled
            yield from bucket.rows.to_batches()
            advance(bucket.read)
    if not counts.tracks:
        raise LakeError(
            "no track has labels",
            where=str(TableReference(CLEAN.name, clean.version())),
            expected=f"tracks with a {REENTRY_PHASE.name} in every row",
            got=f"{counts.unlabelled} tracks without",
        )


def _noting_failure(batches: Iterator[pa.RecordBatch], failure: list[BaseException]) -> Iterator[pa.RecordBatch]:
    """Keep the exception of an iterator, because Delta Lake passes on the text only."""
    try:
        yield from batches
    except (Exception, KeyboardInterrupt) as error:
        failure.append(error)
        raise


def _bucket(location: str, version: int, groups: frozenset[str], bucket: int) -> _Bucket:
    """Compute the features of one bucket."""
    lake = Lake(location)
    with lake.errors(CLEAN.name, version):
        clean = lake.open(CLEAN.name, version)
        stored = clean.to_pyarrow_dataset().schema.names
        # A version may be older than a column.
        rows = rows_of_bucket(clean, bucket, [name for name in CLEAN.schema.names if name in stored])
    labelled, features, unlabelled = [], [], 0
    for track in whole_tracks(rows):
        if track[REENTRY_PHASE.name].null_count:
            unlabelled += 1
            continue
        labelled.append(track)
        features.append(track_features(track_of(track).measurements, groups=groups))
    if not labelled:
        return _Bucket(rows=FEATURES_TABLE.schema.empty_table(), read=len(rows), tracks=0, unlabelled=unlabelled)
    table, computed = pa.concat_tables(labelled), np.concatenate(features)
    columns = {
        field.name: table[field.name] if field.name in rows.column_names else pa.nulls(len(table), field.type)
        for field in CLEAN.schema
    }
    columns["schema_version"] = pa.array(np.full(len(table), SCHEMA_VERSION, dtype=np.int32))
    present = names_with(groups)
    for index, name in enumerate(FEATURES):
        values = pa.array(computed[:, index]) if name in present else pa.nulls(len(table), pa.float32())
        columns[feature_column(name)] = values
    rows_of_features = pa.table([columns[name] for name in FEATURES_TABLE.schema.names], schema=FEATURES_TABLE.schema)
    return _Bucket(rows=rows_of_features, read=len(rows), tracks=len(labelled), unlabelled=unlabelled)
