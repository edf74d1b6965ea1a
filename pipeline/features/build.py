"""The build of the table `features` from a version of the table `clean`: each version of the source is built once.

Only the buckets of `clean` whose rows changed since the last build are computed. They are divided into parts of bounded
size, each of which becomes one file, and one commit exchanges the files. A process holds one part in memory.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from pipeline.features.kept import SOURCE, BucketCounts, bucket_of_file, buckets_entry, kept_buckets, with_code
from pipeline.lake.files import missing_files, missing_of
from pipeline.lake.history import commits, version_of_rows
from pipeline.lake.lake import Lake, NewFiles
from pipeline.lake.parts import Part, clean_rows, parts_of, read_part
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN, FEATURES_TABLE, feature_column
from pipeline.lake.whole_tracks import track_of, whole_tracks
from reentry.errors import LakeError
from reentry.features.groups import ALL_GROUPS, names_with
from reentry.features.track import track_features
from reentry.runtime.pool import in_order
from reentry.runtime.progress import progress
from reentry.runtime.revision import git_revision, image_digest
from reentry.schema import FEATURES, REENTRY_PHASE, SCHEMA_VERSION

_BUILD: Final = "build"
"""Entry of a commit's metadata: everything that decides its rows."""
_PART_ROWS: Final = 131_072
"""Number of rows at which a part ends, with the track that reaches it."""
_GROUP_ROWS: Final = 65_536
"""Number of rows of a row group of a file."""
_FILE_SCHEMA: Final = pa.schema(
    [each for each in FEATURES_TABLE.schema if each.name not in FEATURES_TABLE.partition_by]
)


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
    tracks: int
    unlabelled: int
    """Number of tracks that were left out because a row has no label."""
    computed: int
    """Number of buckets that this call has computed; the others have the rows of the build before."""

    def summary(self) -> str:
        """Summary in one line of text."""
        if not self.built:
            return f"{self.features}: an earlier build of {self.source}, {self.rows:,} rows"
        left_out = f"; {self.unlabelled:,} tracks without labels left out" if self.unlabelled else ""
        computed = f"; buckets computed: {self.computed} of {BUCKETS}" if self.computed < BUCKETS else ""
        return f"{self.features}: {self.tracks:,} tracks, {self.rows:,} rows from {self.source}{left_out}{computed}"

    def as_dict(self) -> dict[str, Any]:
        """Summary as a JSON-serialisable dict."""
        return asdict(self)


def build_features(
    lake: Lake, version: int | None = None, *, groups: frozenset[str] = ALL_GROUPS, processes: int = 1
) -> FeatureBuild:
    """Compute the features of all labelled tracks of a version of `clean`, and replace the rows of `features`.

    The same source, schema version, groups and code are built once, unless the files of that build were removed since.

    Args:
        lake: The tables.
        version: Version of `clean`; None takes the newest one.
        groups: Groups of features to compute, see `track_features`; the columns of the others stay empty.
        processes: Number of processes, each of which computes one part of a bucket at a time.

    Raises:
        LakeError: The version does not exist, has no labelled track, rows were erased meanwhile, or the store is
            unavailable.
        ConfigError: The package that computes the orbit features is not installed.
    """
    fences = lake.fences(FEATURES_TABLE.name)
    clean = lake.open(CLEAN.name, version)
    source = str(TableReference(CLEAN.name, clean.version()))
    # A table that was deleted and created again counts its versions from 0, but has another id.
    names = "+".join(["simple", *sorted(groups)])
    recipe = with_code(f"schema {SCHEMA_VERSION}, features {names} of table {clean.metadata().id}")
    description = f"{recipe}, {CLEAN.name}@{version_of_rows(clean)}"
    lake.create(FEATURES_TABLE.name)
    earlier = [commit for commit in commits(lake.open(FEATURES_TABLE.name)) if commit.get(_BUILD) == description]
    if earlier and not missing_files(lake, FEATURES_TABLE.name, earlier[0]["version"]):
        return _report(source, earlier[0])
    build = _Build(lake, clean, groups, processes, recipe, {SOURCE: source, _BUILD: description})
    committed = lake.commit_files_once(
        FEATURES_TABLE.name, f"{description}, build {len(earlier) + 1}", build.files_of, fences=fences
    )
    newest = next(commit for commit in commits(lake.open(FEATURES_TABLE.name)) if commit.get(_BUILD) == description)
    return _report(source, newest, build.computed if committed else None)


def _report(source: str, commit: Mapping[str, Any], computed: int | None = None) -> FeatureBuild:
    counts = BucketCounts.total(BucketCounts.of_commit(commit).values())
    return FeatureBuild(
        source=source,
        features=str(TableReference(FEATURES_TABLE.name, commit["version"])),
        built=computed is not None,
        computed=computed or 0,
        **asdict(counts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartFile:
    """The file of one part, unless none of its tracks has labels."""

    bucket: int
    counts: BucketCounts
    path: str | None
    """Path of the file, relative to the table."""
    size: int = 0
    """Size of the file, bytes."""

    def action(self) -> AddAction:
        """Return the action that adds the file to the table."""
        assert self.path is not None
        return AddAction(
            path=self.path,
            size=self.size,
            partition_values={"bucket": str(self.bucket)},
            modification_time=time.time_ns() // 1_000_000,
            data_change=True,
            stats=json.dumps({"numRecords": self.counts.rows}),  # no track ids: the log outlives the rows
        )


class _Build:
    """One build. A bucket that was computed is not computed again if another commit comes first."""

    def __init__(
        self,
        lake: Lake,
        clean: DeltaTable,
        groups: frozenset[str],
        processes: int,
        recipe: str,
        metadata: Mapping[str, str],
    ) -> None:
        self._lake = lake
        self._clean = clean
        self._groups = groups
        self._processes = processes
        self._recipe = recipe
        self._metadata = metadata
        self._files: dict[int, list[_PartFile]] = {}
        """Files of the buckets that were computed."""
        self.computed = 0
        """Number of buckets that the last commit replaces."""

    def files_of(self, table: DeltaTable) -> NewFiles:
        """Write the files of all buckets whose rows in the table are not those of this build.

        Raises:
            LakeError: No track has labels.
        """
        self._forget_removed()
        kept = kept_buckets(self._lake, table, self._recipe, self._clean.version())
        replaced = [bucket for bucket in range(BUCKETS) if bucket not in kept]
        self._compute([bucket for bucket in replaced if bucket not in self._files])
        counts = kept | {bucket: BucketCounts.total(each.counts for each in self._files[bucket]) for bucket in replaced}
        total = BucketCounts.total(counts.values())
        if not total.tracks:
            raise LakeError(
                "no track has labels",
                where=str(TableReference(CLEAN.name, self._clean.version())),
                expected=f"tracks with a {REENTRY_PHASE.name} in every row",
                got=f"{total.unlabelled} tracks without",
            )
        files = [each for bucket in replaced for each in self._files[bucket] if each.path is not None]
        self.computed = len(replaced)
        return NewFiles(
            add=[each.action() for each in files],
            replaced=[str(bucket) for bucket in replaced],
            metadata={
                **self._metadata,
                **buckets_entry(self._recipe, counts),
                "git_revision": git_revision(),
                "image_digest": image_digest(),
            },
        )

    def _forget_removed(self) -> None:
        """Forget the buckets of an earlier attempt whose files a maintenance has removed, as no commit named them."""
        paths = [each.path for files in self._files.values() for each in files if each.path is not None]
        for path in missing_of(self._lake, FEATURES_TABLE.name, paths) if paths else []:
            self._files.pop(int(bucket_of_file(path)), None)

    def _compute(self, buckets: list[int]) -> None:
        version = self._clean.version()
        parts = [part for bucket in buckets for part in parts_of(self._lake.location, version, _PART_ROWS, bucket)]
        self._files |= {bucket: [] for bucket in buckets}
        compute = partial(_write_part, self._lake.location, version, self._groups, parts)
        with progress("computing features", sum(part.rows for part in parts), "rows") as advance:
            for part, file in zip(parts, in_order(compute, len(parts), self._processes), strict=True):
                self._files[part.bucket].append(file)
                advance(part.rows)


def _write_part(location: str, version: int, groups: frozenset[str], parts: list[Part], index: int) -> _PartFile:
    """Compute the features of one part, and write them to a file below the table."""
    lake, part = Lake(location), parts[index]
    with lake.errors(CLEAN.name, version):
        clean = clean_rows(location, version)
        # A version may be older than a column.
        rows = read_part(clean, part, [name for name in CLEAN.schema.names if name in clean.schema.names])
    labelled, features = [], []
    for track in whole_tracks(rows):
        if not track[REENTRY_PHASE.name].null_count:
            labelled.append(track)
            features.append(track_features(track_of(track).measurements, groups=groups))
    unlabelled = part.tracks - len(labelled)
    if not labelled:
        counts = BucketCounts(tracks=0, rows=0, unlabelled=unlabelled)
        return _PartFile(bucket=part.bucket, counts=counts, path=None)
    table = _feature_rows(pa.concat_tables(labelled), np.concatenate(features), groups)
    path = f"bucket={part.bucket}/part-{uuid.uuid4()}.parquet"
    with lake.errors(FEATURES_TABLE.name):
        files = lake.files(FEATURES_TABLE.name)
        pq.write_table(table, path, filesystem=files, compression="zstd", row_group_size=_GROUP_ROWS)
        (info,) = files.get_file_info([path])
    counts = BucketCounts(tracks=len(labelled), rows=len(table), unlabelled=unlabelled)
    return _PartFile(bucket=part.bucket, counts=counts, path=path, size=info.size)


def _feature_rows(rows: pa.Table, features: npt.NDArray[np.float32], groups: frozenset[str]) -> pa.Table:
    """Return N rows of `features` from the rows of `clean` and their features, (N, F)."""
    columns = {
        field.name: rows[field.name] if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in CLEAN.schema
    }
    columns["schema_version"] = pa.array(np.full(len(rows), SCHEMA_VERSION, dtype=np.int32))
    present = names_with(groups)
    for index, name in enumerate(FEATURES):
        values = pa.array(features[:, index]) if name in present else pa.nulls(len(rows), pa.float32())
        columns[feature_column(name)] = values
    return pa.table([columns[name] for name in _FILE_SCHEMA.names], schema=_FILE_SCHEMA)
