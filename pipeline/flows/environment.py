"""Settings, partitions and error handling that all definitions share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dagster as dg

from pipeline.ingest.hours import FORMAT
from pipeline.settings import PipelineSettings, read_pipeline_settings
from reentry.errors import LakeError, ReentryError

FILE: Final = "REENTRY_PIPELINE"
"""Environment variable that names the TOML file of the settings, for the commands too."""

RETRIES: Final = dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Retries after 30, 60 and 120 s, in which a store can restart."""


def pipeline_settings() -> PipelineSettings:
    """Read the settings, as a command without options does.

    Raises:
        ConfigError: The file, a key or a value is invalid.
    """
    file = os.environ.get(FILE)
    return read_pipeline_settings(Path(file) if file else None)


HOURS: Final = dg.HourlyPartitionsDefinition(
    start_date=pipeline_settings().first_hour, fmt=FORMAT, timezone="UTC", end_offset=1
)
"""Hours up to the current one, whose files need not wait until it ends."""


@contextmanager
def failures() -> Iterator[None]:
    """Convert the errors of this program into failures of a run, and let only an unavailable lake be tried again."""
    try:
        yield
    except ReentryError as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, LakeError)) from error
