"""What the tests of the pipeline share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lake.lake import Lake
from pipeline.settings import PipelineSettings
from tests.landing import pipeline_settings


@pytest.fixture
def settings(tmp_path: Path) -> PipelineSettings:
    """An empty landing folder, an empty lake, and keys."""
    return pipeline_settings(tmp_path)


@pytest.fixture
def lake(settings: PipelineSettings) -> Lake:
    """The lake of the settings."""
    return Lake(settings.lake)
