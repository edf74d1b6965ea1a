"""Settings of the data pipeline: a TOML file, and environment variables that override it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from pipeline.ingest.hours import parse_hour
from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.config_file import check_table, declared_types, read_toml

PREFIX: Final = "REENTRY_PIPELINE_"
"""Prefix of the environment variables of single settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """Settings of all pipeline commands."""

    lake: str = "artifacts/lake"
    """Folder, or s3://BUCKET/PREFIX, of the tables."""
    landing: str = "artifacts/landing"
    """Folder, or s3://BUCKET/PREFIX, where files of tracks arrive, in one folder for each hour: 2026-12-01T08/."""
    pseudonym_keys: str = "file:artifacts/pseudonym-keys.json"
    """Reference to the keys of the pseudonyms, see `pipeline.privacy.keys`."""
    lookback_hours: int = 48
    """Number of hours, the current one included, that an ingestion without --hour looks at."""
    bad_row_limit: float = 0.05
    """Share of bad rows in the files of an hour above which the hour fails."""
    gate_margin: float = 0.1
    """Difference of two onset RMSE that does not matter, s: as if one track in 25 had an error of 0.5 s."""
    gate_margin_share: float = 0.05
    """Margin of the gate as a share of the onset RMSE in production; the larger of both margins applies."""
    gate_window_days: float = 7.0
    """Length of the window of newest labelled tracks that the gate scores beside the whole table, days."""
    retrain_days: float = 7.0
    """Age of the last training, in days, from which `retrain --reason schedule --if-due` trains."""
    retrain_tracks: int = 500
    """Number of new labelled tracks from which `retrain --reason data --if-due` trains."""
    first_hour: str = "2026-01-01T00"
    """First hour that Dagster knows; `reentry ingest` also takes earlier ones."""
    prometheus: str = ""
    """Address of the Prometheus with the rules of k8s/monitoring, for retraining after drift; empty for none."""
    namespace: str = "reentry"
    """Namespace of the servers whose drift is watched."""
    repository: str = "model_repository"
    """Model repository that a retraining by Dagster compares with, and whose labelled versions stay reproducible;
    `reentry retrain` has an option of its own for it."""
    drift_pause_days: int = 7
    """Days after a retraining for drift in which drift requests no other one."""
    landing_retention_days: int = 30
    """Age in days from which `reentry privacy audit` reports a file of the landing folder, which holds plain ids."""
    bulk_part_rows: int = 1_000_000
    """Number of rows at which `reentry score-bulk` ends a part; it bounds the memory of a worker."""

    def __post_init__(self) -> None:
        require_between("lookback hours", self.lookback_hours, 1, 24 * 366)
        require_between("bad row limit", self.bad_row_limit, 0.0, 1.0)
        require_between("gate margin", self.gate_margin, 0.0, 3600.0, unit="s")
        require_between("gate margin share", self.gate_margin_share, 0.0, 1.0)
        require_between("gate window days", self.gate_window_days, 1 / 24, 36_600)
        require_between("retrain days", self.retrain_days, 0.0, 36_600)
        require_between("retrain tracks", self.retrain_tracks, 1, 10**9)
        require_between("drift pause days", self.drift_pause_days, 1, 366)
        parse_hour(self.first_hour)
        require_between("landing retention days", self.landing_retention_days, 1, 36_500)
        for name in ("lake", "landing", "pseudonym_keys"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty", expected="a location")


def read_pipeline_settings(
    path: Path | None = None, environment: Mapping[str, str] = os.environ, **flags: Any
) -> PipelineSettings:
    """Read the table [pipeline] of a TOML file; variables override it, and flags that are not None override both.

    Args:
        path: The file, or None.
        environment: Environment variables; REENTRY_PIPELINE_LAKE overrides `lake`, and so on.
        flags: Settings by name.

    Raises:
        ConfigError: The file, a key or a value is invalid.
    """
    types = declared_types(PipelineSettings)
    content = read_toml(path) if path else {}
    unknown = sorted(set(content) - {"pipeline"})
    if unknown:
        raise ConfigError("unknown table", where=str(path), expected="[pipeline]", got=", ".join(unknown))
    table = content.get("pipeline", {})
    if not isinstance(table, dict):
        raise ConfigError("not a table", where=str(path), expected="a table [pipeline]", got=str(table))
    values = check_table("pipeline", table, types, where=str(path))
    for field in fields(PipelineSettings):
        variable = PREFIX + field.name.upper()
        if variable in environment:
            values[field.name] = _converted(types[field.name], environment[variable], variable)
    return PipelineSettings(**values | {name: value for name, value in flags.items() if value is not None})


def _converted(kind: type, text: str, variable: str) -> object:
    try:
        return kind(text)
    except ValueError as error:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise ConfigError(f"{variable} has the wrong type", expected=expected, got=text) from error
