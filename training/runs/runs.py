"""Runs of the store, as the terminal shows them: all of them, or some side by side."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from reentry.errors import InputError
from training.runs.mlflow_store import EXPERIMENT, database, open_store, quiet, tracking_uri

ID_SHOWN: Final = 8
"""Characters of a run's id that tell it from the others."""
_TRAIN: Final = "`reentry train` records one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run."""

    run_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started: str
    """UTC, ISO 8601."""
    parameters: dict[str, str]
    metrics: dict[str, float | None]
    """The last of each; None for what is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two or more runs side by side."""

    runs: list[Run]
    parameters: dict[str, list[str | None]]
    """Those that differ: name -> of each run, None where it has none."""
    metrics: dict[str, list[float | None]]
    """All: name -> of each run."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "runs": [{"run_id": run.run_id, "name": run.name, "status": run.status} for run in self.runs],
            "parameters": self.parameters,
            "metrics": self.metrics,
        }


def all_runs() -> list[Run]:
    """The runs of the store, the newest first; none where there is no store yet.

    Raises:
        ConfigError: the store cannot be used.
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
    """Put runs side by side.

    Args:
        names: of two or more: ids, their beginnings, or names.

    Raises:
        InputError: a name that is no run's, or several runs'.
        ConfigError: the store cannot be used.
    """
    every = all_runs()
    runs = [_find(every, name) for name in names]
    parameters = {name: [run.parameters.get(name) for run in runs] for name in _names([run.parameters for run in runs])}
    return Comparison(
        runs=runs,
        parameters={name: values for name, values in parameters.items() if len(set(values)) > 1},
        metrics={name: [run.metrics.get(name) for run in runs] for name in _names([run.metrics for run in runs])},
    )


def _find(runs: Sequence[Run], name: str) -> Run:
    matching = [run for run in runs if run.run_id == name] or [
        run for run in runs if run.name == name or run.run_id.startswith(name)
    ]
    if not matching:
        raise InputError(
            f"no run {name}", expected="an id or a name that `reentry runs` lists", fix=None if runs else _TRAIN
        )
    if len(matching) > 1:
        raise InputError(
            f"{len(matching)} runs are called {name}",
            expected="one",
            got=", ".join(run.run_id[: max(ID_SHOWN, len(name) + 1)] for run in matching[:5]),
            fix="give more of the id",
        )
    return matching[0]


def _names(of: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for values in of for name in values})


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
