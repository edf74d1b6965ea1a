"""Settings of the pipeline from a file, from variables and from flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings import PipelineSettings, read_pipeline_settings
from reentry.errors import ConfigError


def test_flags_override_variables_which_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text('[pipeline]\nlake = "file"\nlanding = "file"\nlookback_hours = 3\nbad_row_limit = 1\n')
    variables = {"REENTRY_PIPELINE_LANDING": "variable", "REENTRY_PIPELINE_LAKE": "variable"}
    settings = read_pipeline_settings(file, variables, lake="flag", landing=None)
    assert settings == PipelineSettings(lake="flag", landing="variable", lookback_hours=3, bad_row_limit=1)


def test_a_variable_becomes_the_type_of_its_setting() -> None:
    assert read_pipeline_settings(None, {"REENTRY_PIPELINE_BAD_ROW_LIMIT": "0.5"}).bad_row_limit == 0.5
    with pytest.raises(ConfigError, match="REENTRY_PIPELINE_LOOKBACK_HOURS"):
        read_pipeline_settings(None, {"REENTRY_PIPELINE_LOOKBACK_HOURS": "two"})


@pytest.mark.parametrize(
    "content",
    ["[other]\n", "[pipeline]\nlakes = 'x'\n", "[pipeline]\nbad_row_limit = 2.0\n", "[pipeline]\nlake = ''\n"],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(content)
    with pytest.raises(ConfigError):
        read_pipeline_settings(file, {})
