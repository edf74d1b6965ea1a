"""What the tests of the Dagster definitions share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from pipeline.lake.lake import Lake
from pipeline.settings import PREFIX, PipelineSettings

MODULE = "pipeline.flows.definitions"

DAGSTERS_OWN_WARNINGS = [
    pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Parameter `include_sources`:dagster_shared.utils.warnings.BetaWarning"),
]
"""Dagster warns about what it uses itself."""

Iteration = Callable[..., Iterable[object]]
"""One iteration of a daemon, with a workspace and a logger as its first arguments."""


@pytest.fixture(autouse=True)
def environment(settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings, where the definitions read them."""
    for name in ("lake", "landing", "pseudonym_keys"):
        monkeypatch.setenv(PREFIX + name.upper(), getattr(settings, name))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@dataclass(frozen=True, slots=True)
class Daemons:
    """Daemons of an instance in a folder, with the definitions. Runs are queued, and executed in this process."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext

    def tick(self, iteration: Iteration, *arguments: object, **options: object) -> None:
        """Run one iteration of a daemon, then that of the queue; both may report no error."""
        logger = logging.getLogger("daemon")
        reported = iteration(self.workspace, logger, *arguments, threadpool_executor=None, **options)
        assert [each for each in reported if each is not None] == []
        launched = QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(self.workspace)
        assert [each for each in launched if each is not None] == []

    def runs(self, job: str | None = None) -> list[dg.DagsterRun]:
        """Return the runs of a job, or all, oldest first."""
        found = self.instance.get_runs(dg.RunsFilter(job_name=job), ascending=True)
        assert {run.status for run in found} <= {dg.DagsterRunStatus.SUCCESS}
        return list(found)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Daemons of an empty instance."""
    home = tmp_path / "dagster"
    home.mkdir()
    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin, location_name=MODULE))
    with (
        dg.instance_for_test(temp_dir=str(home), synchronous_run_launcher=True) as instance,
        WorkspaceProcessContext(instance, target) as workspace,
    ):
        yield Daemons(instance, workspace)


def rows(lake: Lake, table: str) -> pd.DataFrame:
    """All rows of a table, in an order that does not depend on its files."""
    found = lake.open(table).to_pandas()
    return found.sort_values(["track_id", "timestamp"], ignore_index=True)
