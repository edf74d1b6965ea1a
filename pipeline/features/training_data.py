"""A version of the table `features` as the data of a training, without the tracks that are held out for the gate."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from deltalake import DeltaTable, QueryBuilder

from pipeline.features.held_out import is_held_out
from pipeline.features.kept import SOURCE
from pipeline.lake.files import missing_files
from pipeline.lake.history import commits
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, FEATURES_TABLE, STEP, feature_column
from pipeline.lake.whole_tracks import rows_of_bucket, track_of, whole_tracks
from reentry.errors import InputError, LakeError
from reentry.features.groups import names_with
from reentry.runtime.progress import progress
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, REENTRY_PHASE, SCHEMA_VERSION, TRACK_ID
from reentry.tracks import ReadReport
from training.data.samples import Chosen, Sample
from training.data.stored import StoredSamples
from training.data.training_data import LabelledTracks
from training.runs.parameters import FILTER, SCHEMA_HASH, TABLE, TABLE_ID, VERSION

LONGEST_CONDITION: Final = 2_000
"""Largest number of characters of a condition, which a run records as one parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeTrainingData:
    """The tracks of one version of the table `features`, or those that satisfy a condition."""

    lake: Lake
    version: int
    where: str | None
    """SQL condition on the columns. A track is used if all of its rows satisfy it."""
    track_ids: npt.NDArray[np.int64] | None
    """Ids of the tracks that satisfy the condition, (K,); None without a condition."""
    held_out: bool = False
    """Whether these are the tracks that no training uses, see `pipeline.features.held_out`, instead of the others."""

    @classmethod
    def of(cls, lake: Lake, reference: TableReference, where: str | None = None) -> LakeTrainingData:
        """Name a version, by default the newest, and select the tracks that satisfy a condition.

        Raises:
            InputError: The reference is of another table, the condition is invalid, or no track satisfies it.
            LakeError: The version does not exist, or its files have been removed.
        """
        if reference.table != FEATURES_TABLE.name:
            raise InputError(
                "not a table to train on",
                expected=f"lake:{FEATURES_TABLE.name}@VERSION",
                got=str(reference),
                fix="build it from the table clean: reentry features build",
            )
        table = lake.open(reference.table, reference.version)
        named = TableReference(reference.table, table.version())
        if missing := missing_files(lake, reference.table, table.version()):
            raise LakeError(
                f"{len(missing)} files of this version have been removed",
                where=f"{lake.location}, {named}",
                expected="a newer version, or one that a recorded run names and that no erasure has touched",
            )
        track_ids = None if where is None else _satisfying(table, where, str(named))
        return cls(lake=lake, version=table.version(), where=where, track_ids=track_ids)

    def __str__(self) -> str:
        return str(TableReference(FEATURES_TABLE.name, self.version))

    def facts(self) -> dict[str, object]:
        """Return table, version, schema and condition, and the version of `clean` that the features are computed from.

        Raises:
            LakeError: The version does not exist, or the store is unavailable.
        """
        table = self.lake.open(FEATURES_TABLE.name, self.version)
        with self.lake.errors(FEATURES_TABLE.name, self.version):
            built = next((commit for commit in commits(table) if SOURCE in commit), {})
            return {
                "data.path": str(self),
                TABLE: FEATURES_TABLE.name,
                VERSION: self.version,
                TABLE_ID: table.metadata().id,
                SCHEMA_HASH: schema_hash(table),
                FILTER: self.where or "",
                "data.built_from": built.get(SOURCE, "unknown"),
            }

    @contextmanager
    def open(self, groups: frozenset[str]) -> Iterator[LabelledTracks]:
        """Copy the tracks into a temporary folder that is deleted when the block ends, in the order of their ids.

        Raises:
            InputError: There is no track, or the temporary folder is full.
            LakeError: The table was built for another schema version or without a group, or the store is unavailable.
        """
        table = self.lake.open(FEATURES_TABLE.name, self.version)
        report = ReadReport(path=Path(str(self)))
        with tempfile.TemporaryDirectory(prefix="reentry-samples-") as folder:
            with progress("reading features", None, "tracks") as advance:
                samples = self._samples(table, groups)
                stored = StoredSamples.write(Path(folder), _counted(samples, report, advance), where=str(self))
            # The split of a training depends on the order of the tracks.
            order = np.argsort(stored.track_ids, kind="stable")
            source: dict[str, str | int] = {"name": FEATURES_TABLE.name, "version": self.version}
            source["id"] = str(table.metadata().id)
            yield LabelledTracks(samples=Chosen(stored, order.tolist()), report=report, table=source)

    def _samples(self, table: DeltaTable, groups: frozenset[str]) -> Iterator[Sample]:
        """Yield the samples bucket by bucket."""
        positions = {feature_column(name): FEATURES.index(name) for name in names_with(groups)}
        if missing := set(positions) - {field.name for field in table.schema().fields}:
            raise self._unusable(f"no column {', '.join(sorted(missing))}")
        columns = ["schema_version", TRACK_ID.name, STEP, *MEASUREMENT_COLUMNS, REENTRY_PHASE.name, *positions]
        for bucket in range(BUCKETS):
            with self.lake.errors(FEATURES_TABLE.name, self.version):
                rows = rows_of_bucket(table, bucket, columns, self.track_ids)
            rows = rows.filter(is_held_out(rows[TRACK_ID.name].to_numpy()) == self.held_out)
            if others := set(rows["schema_version"].unique().to_pylist()) - {SCHEMA_VERSION}:
                raise self._unusable("another schema version", expected=str(SCHEMA_VERSION), got=str(min(others)))
            if empty := [name for name in positions if rows[name].null_count]:
                raise self._unusable("features were not computed", got=f"no values in {', '.join(empty)}")
            for track in whole_tracks(rows):
                cells = track_of(track)
                assert cells.reentry_phase is not None, "a build leaves out tracks without labels"
                features = np.zeros((len(cells), len(FEATURES)), dtype=np.float32)
                for name, position in positions.items():
                    features[:, position] = track[name].to_numpy()
                phase = torch.from_numpy(cells.reentry_phase.astype(np.float32))
                yield Sample(track=cells, features=torch.from_numpy(features), phase=phase)

    def _unusable(self, problem: str, expected: str | None = None, got: str | None = None) -> LakeError:
        fix = "run `reentry features build`, and train on the version that it prints"
        return LakeError(problem, where=str(self), expected=expected, got=got, fix=fix)


def _satisfying(table: DeltaTable, where: str, named: str) -> npt.NDArray[np.int64]:
    """Return the ids of the tracks of which all rows satisfy a condition.

    Raises:
        InputError: The condition is too long or invalid, or no track satisfies it.
    """
    if not 0 < len(where) <= LONGEST_CONDITION:
        raise InputError("invalid condition", expected=f"1 to {LONGEST_CONDITION:,} characters", got=f"{len(where):,}")
    name = TRACK_ID.name
    query = f"SELECT {name} FROM {FEATURES_TABLE.name} GROUP BY {name} HAVING bool_and(coalesce(({where}), false))"
    try:
        found = pa.table(QueryBuilder().register(FEATURES_TABLE.name, table).execute(query).read_all())
    except Exception as error:  # what fails while the query runs is a plain Exception
        raise InputError(
            "the condition is invalid",
            where=named,
            expected=f"an SQL condition on {', '.join(FEATURES_TABLE.schema.names[2:9])} and other columns",
            got=str(error),
        ) from error
    if not len(found):
        raise InputError("no track satisfies the condition", where=named, got=where)
    ids: npt.NDArray[np.int64] = found[name].to_numpy()
    return ids


def schema_hash(table: DeltaTable) -> str:
    """Return the SHA-256, in hexadecimal, of the columns of a table at its version: names, types, nullability."""
    return hashlib.sha256(table.schema().to_json().encode()).hexdigest()


def _counted(samples: Iterator[Sample], report: ReadReport, advance: Callable[[int], None]) -> Iterator[Sample]:
    for sample in samples:
        report.tracks += 1
        report.rows += len(sample.track)
        yield sample
        advance(1)
