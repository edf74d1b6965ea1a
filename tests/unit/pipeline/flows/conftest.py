"""What the tests of the Dagster definitions share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from pipeline.lake.lake import Lake
from pipeline.settings import PREFIX, PipelineSettings

MODULE = "pipeline.flows.definitions"

DAGSTERS_OWN_WARNINGS = [
    pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Parameter `include_sources`:dagster_shared.utils.warnings.BetaWarning"),
]
"""Dagster warns about what it uses itself."""

Tick = Callable[..., Iterable[object]]
"""One iteration of a daemon over a workspace, with a logger."""


@pytest.fixture(autouse=True)
def environment(settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings, where the definitions read them."""
    for name in ("lake", "landing", "pseudonym_keys"):
        monkeypatch.setenv(PREFIX + name.upper(), getattr(settings, name))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that runs whatever its daemons launch at once, in this process."""
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.instance_for_test(
        temp_dir=str(home), synchronous_run_launcher=True, synchronous_run_coordinator=True
    ) as instance:
        yield instance


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Iterator[Callable[..., None]]:
    """Runs one iteration of a daemon with the definitions, loaded in this process."""
    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    with WorkspaceProcessContext(
        instance, InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin, location_name=MODULE))
    ) as workspace:

        def iterate(iteration: Tick, *arguments: object) -> None:
            logger = logging.getLogger("daemon")
            assert [each for each in iteration(workspace, logger, *arguments, threadpool_executor=None) if each] == []

        yield iterate


def rows(lake: Lake, table: str) -> pd.DataFrame:
    """All rows of a table, in an order that does not depend on its files."""
    found = lake.open(table).to_pandas()
    return found.sort_values(["track_id", "timestamp"], ignore_index=True)
