"""Runs in the MLflow tracking store: the list, and the comparison of several runs."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reentry.errors import InputError
from training.runs.mlflow_store import EXPERIMENT, database, first_line, open_store, quiet, tracking_uri

_log = logging.getLogger(__name__)

ID_SHOWN: Final = 8
"""Number of characters of a run's id that are shown, enough to distinguish runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recorded run."""

    run_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started: str
    """Start time in UTC, ISO 8601."""
    parameters: dict[str, str]
    metrics: dict[str, float | None]
    """Last value of each metric; None if it is NaN or infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two or more runs side by side."""

    runs: list[Run]
    parameters: dict[str, list[str | None]]
    """Parameters that differ: value in each run by name, None if the run does not have it."""
    metrics: dict[str, list[float | None]]
    """All metrics: value in each run by name, None if the run does not have it."""

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return {
            "runs": [{"run_id": run.run_id, "name": run.name, "status": run.status} for run in self.runs],
            "parameters": self.parameters,
            "metrics": self.metrics,
        }


def all_runs() -> list[Run]:
    """All runs in the store, newest first. The list is empty if the local store does not exist yet.

    Raises:
        ConfigError: the store is unusable.
        InputError: MLflow is not installed.
    """
    uri = tracking_uri()
    file = database(uri)
    if file is not None and not file.is_file():
        return []
    try:
        client = open_store(uri)
    except ImportError as error:
        raise InputError("mlflow is not installed", fix="pip install 'reentry[train]'") from error
    found: list[Run] = []
    with quiet():
        experiment = client.get_experiment_by_name(EXPERIMENT)
        token = None
        while experiment is not None:
            page = client.search_runs(
                [experiment.experiment_id], order_by=["attributes.start_time DESC"], page_token=token
            )
            found += [_run(run) for run in page]
            token = page.token
            if not token:
                break
    return found


def compare(names: Sequence[str]) -> Comparison:
    """Compare runs.

    Args:
        names: two or more run ids, beginnings of ids, or run names.

    Raises:
        InputError: a name matches no run, or several runs.
        ConfigError: the store is unusable.
    """
    recorded = all_runs()
    runs = [_matching(recorded, name) for name in names]
    parameters = {name: [run.parameters.get(name) for run in runs] for name in _names([run.parameters for run in runs])}
    return Comparison(
        runs=runs,
        parameters={name: values for name, values in parameters.items() if len(set(values)) > 1},
        metrics={name: [run.metrics.get(name) for run in runs] for name in _names([run.metrics for run in runs])},
    )


def find(name: str) -> Run:
    """Find a run by its id, the beginning of its id, or its name.

    Raises:
        InputError: the name matches no run, or several runs.
        ConfigError: the store is unusable.
    """
    return _matching(all_runs(), name)


def recorded_file(run_id: str, name: str, folder: Path) -> Path | None:
    """Copy a file of a run into a folder, and return its path; None if the run has no such file, or it is lost.

    Raises:
        ConfigError: the store is unusable.
    """
    from mlflow.exceptions import MlflowException

    client = open_store(tracking_uri())
    with quiet():
        try:
            return Path(client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            _log.warning("the file %s of the run is not available: %s", name, first_line(error))
            return None


def _matching(runs: Sequence[Run], name: str) -> Run:
    matching = [run for run in runs if run.run_id == name] or [
        run for run in runs if run.name == name or run.run_id.startswith(name)
    ]
    if not matching:
        raise InputError(
            f"no run {name}",
            expected="an id or a name that `reentry runs` lists",
            fix=None if runs else "record one with `reentry train`",
        )
    if len(matching) > 1:
        raise InputError(
            f"{len(matching)} runs are called {name}",
            expected="one",
            got=", ".join(run.run_id[: max(ID_SHOWN, len(name) + 1)] for run in matching[:5]),
            fix="give more of the id",
        )
    return matching[0]


def _names(values: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(set[str]().union(*values))


def _run(run: Any) -> Run:
    started = dt.datetime.fromtimestamp(run.info.start_time / 1000, tz=dt.UTC)
    return Run(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started=started.isoformat(timespec="seconds"),
        parameters=dict(run.data.params),
        metrics={name: value if math.isfinite(value) else None for name, value in run.data.metrics.items()},
    )
