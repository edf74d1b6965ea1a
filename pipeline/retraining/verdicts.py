"""Record of the gate's verdicts: rows of the table `verdicts`, and tags of the run that trained the challenger."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.tables import VERDICTS
from pipeline.retraining.gate import GateResult
from reentry.errors import ConfigError
from training.runs.checkpoints import tag_run

_log = logging.getLogger(__name__)

RETRAIN: Final = "retrain"
GATE: Final = "gate"
Command = Literal["retrain", "gate"]
"""Command that has called the gate. Only a verdict of `retrain` shows that a model was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRetraining:
    """The newest retraining that the gate has judged."""

    time: datetime
    table: str
    """Version of the table that it was trained on."""


def record_verdict(lake: Lake, result: GateResult, *, command: Command) -> bool:
    """Record a verdict; return False if an earlier call has recorded the same one.

    The tags of the run are a copy for people. If MLflow is unavailable, a warning is logged.

    Args:
        lake: The tables.
        result: Result of the gate.
        command: Command that has called the gate.

    Raises:
        LakeError: The store is unavailable.
    """
    whole = result.main[0]
    row = {
        "time": datetime.now(UTC),
        "challenger": result.challenger.checkpoint_sha256,
        "champion": result.champion.checkpoint_sha256,
        "reason": result.reason,
        "command": command,
        "table": result.table,
        "tracks": whole.difference.tracks,
        "verdict": str(result.verdict),
        "difference": whole.difference.estimate,
        "low": whole.difference.low,
        "high": whole.difference.high,
        "margin": whole.margin,
        "allowed": result.allowed,
        "window_tracks": result.window_tracks,
    }
    names = ("challenger", "champion", "reason", "command", "table", "verdict")
    key = "gate:" + ":".join(str(row[name]) for name in names)
    rows = pa.Table.from_pylist([row], schema=VERDICTS.schema)
    committed = lake.commit_once(VERDICTS.name, [key], lambda _keys, _table: rows)
    tags = {f"gate.{name}": str(value) for name, value in row.items() if name not in ("time", "challenger")}
    try:
        tag_run(result.challenger.checkpoint_sha256, tags)
    except ConfigError as error:
        _log.warning(f"the verdict is not a tag of the run: {error}")
    return bool(committed)


def last_retraining(lake: Lake) -> LastRetraining | None:
    """Return the newest retraining; None if there was none. A call of `reentry gate` is not one, whatever its reason.

    Raises:
        LakeError: The store is unavailable.
    """
    if not lake.exists(VERDICTS.name):
        return None
    with lake.errors(VERDICTS.name):
        rows = lake.open(VERDICTS.name).to_pyarrow_table(columns=["time", "command", "table"]).to_pylist()
    retrainings = [row for row in rows if row["command"] == RETRAIN]
    if not retrainings:
        return None
    newest = max(retrainings, key=lambda row: row["time"])
    return LastRetraining(time=newest["time"], table=newest["table"])
