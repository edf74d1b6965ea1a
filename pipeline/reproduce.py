"""Repetition of a recorded training run, and the exact comparison of its metrics and weights.

| kept equal | how |
| --- | --- |
| code, dependencies, schema | compared with the run's record; other ones are refused unless the caller allows them |
| data | the same version and condition of a table, or the same file by its fingerprint |
| settings, seed | read from the record |
| order of floating-point sums | one thread for each process, see `training.fit.threads` |

Exact equality is promised on the same kind of processor, whose name a run records. Other vector units may round sums
differently, and a GPU may also do so from run to run.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.features.training_data import LakeTrainingData
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.retraining.baselines import PREFIX
from reentry.errors import CheckpointError, InputError, LakeError
from reentry.runtime.arguments import require_file
from reentry.tracks import fingerprint
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.stored import TrainingFile
from training.data.training_data import TrainingData
from training.fit.threads import device
from training.runs.parameters import FILTER, SCHEMA_HASH, TABLE, TABLE_ID, VERSION
from training.runs.recorded_settings import recorded_settings
from training.runs.recorder import training_parameters
from training.runs.runs import ID_SHOWN, Run, find, recorded_file
from training.train import CHECKPOINT_NAME, train_tracks

_CODE: Final = ("git_revision", "lock_hash", "schema_version")
"""Parameters of a run that must be the same."""
_IMAGE: Final = "image_digest"
"""Parameter with the digest of the container image, which also identifies the code where there is no git revision."""
_MACHINE: Final = ("processor", "threads")
"""Parameters of a run that explain a difference."""
_DURATION: Final = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A metric or a tensor that is not the same."""

    name: str
    recorded: str
    reproduced: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """Result of a repetition."""

    run: str
    """Id of the recorded run."""
    checkpoint: Path
    """The new checkpoint."""
    metrics: int
    """Number of metrics that were compared."""
    weights: int | None
    """Number of tensors that were compared; None if the recorded checkpoint is unavailable."""
    differences: list[Difference]
    notes: list[str]
    """What was different in the code or the machine."""

    @property
    def exact(self) -> bool:
        """Whether everything that was compared is the same."""
        return not self.differences

    def summary(self) -> str:
        """Summary in a few lines of text."""
        weights = "no weights, as the run has none" if self.weights is None else f"{self.weights} tensors of weights"
        result = "the same" if self.exact else f"{len(self.differences)} differences"
        compared = f"run {self.run[:ID_SHOWN]}: {result}; compared {self.metrics} metrics and {weights}"
        return "\n".join([f"{self.checkpoint}: trained again", compared, *(f"note: {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return asdict(self) | {"checkpoint": str(self.checkpoint), "exact": self.exact}


def reproduce(name: str, out: Path, lake: Lake, *, allow_other_code: bool = False) -> Reproduction:
    """Train again as a recorded run did, and compare the metrics and the weights bit for bit.

    Args:
        name: Id of the run, the beginning of its id, or its name.
        out: Folder of the new checkpoint.
        lake: Tables that a run on a table reads.
        allow_other_code: Whether to train although the code, the lock or the schema is not that of the run.

    Raises:
        InputError: The run is missing or unfinished, or its code, data or device is not available.
        LakeError: Its version of the table is not available.
    """
    run = find(name)
    where = f"run {run.run_id[:ID_SHOWN]}"
    if run.status != "FINISHED":
        raise InputError("the run is not finished", where=where, expected="FINISHED", got=run.status)
    model, config = recorded_settings(run.parameters, where=where)
    used = run.parameters.get("device", device(config.accelerator))
    if used == "gpu" and device("gpu") != "gpu":
        raise InputError("the run used a GPU", where=where, got="a machine without one")
    data = _data(run, lake, where)
    now = {name: str(value) for name, value in training_parameters(data, model, config).items()}
    notes = _code(run, now, where, allow_other_code)
    notes += [_change(run, now, name) for name in _MACHINE if run.parameters.get(name, now[name]) != now[name]]
    if used == "gpu":
        notes.append("a GPU is not promised to give the same result twice")
    last: dict[str, float] = {}
    report = train_tracks(
        data, out, model, replace(config, accelerator=used), on_epoch=lambda _epoch, figures: last.update(figures)
    )
    checkpoint = report.trained.checkpoint
    metrics = last | checkpoint.metrics | {"best_epoch": float(report.trained.best_epoch + 1)}
    recorded = {name: value for name, value in run.metrics.items() if _compared(name) and value is not None}
    earlier = _recorded_checkpoint(run, notes)
    differences = _metrics(recorded, {name: value for name, value in metrics.items() if math.isfinite(value)})
    tensors = None
    if earlier is not None:
        tensors = len(earlier.model.state_dict())
        differences += _weights(earlier.model.state_dict(), checkpoint.model.state_dict())
    return Reproduction(
        run=run.run_id,
        checkpoint=report.checkpoint,
        metrics=len(recorded),
        weights=tensors,
        differences=differences,
        notes=notes,
    )


def _compared(metric: str) -> bool:
    """Return whether a metric is one of the network, and not of a baseline that was logged beside it."""
    return metric != _DURATION and not metric.startswith(f"{PREFIX}.")


def _data(run: Run, lake: Lake, where: str) -> TrainingData:
    """Return the data of a run, after a check that it is still the same."""
    recorded = run.parameters
    if TABLE not in recorded:
        path = Path(recorded.get("data.path", ""))
        require_file(path, error=InputError, fix="run the command in the folder in which the run was started")
        expected = recorded.get("data.file_fingerprint")
        if (found := fingerprint(path)) != expected:
            raise InputError("the file has changed since the run", where=str(path), expected=expected, got=found)
        return TrainingFile(path=path, file_fingerprint=found)
    reference = TableReference(recorded[TABLE], int(recorded[VERSION]))
    data = LakeTrainingData.of(lake, reference, recorded[FILTER] or None)
    facts = data.facts()
    for name, problem in ((TABLE_ID, "not the table of the run"), (SCHEMA_HASH, "not the schema of the run")):
        if recorded[name] != facts[name]:
            raise LakeError(
                problem,
                where=f"{lake.location}, {data}",
                expected=recorded[name],
                got=str(facts[name]),
                fix=f"name the lake of {where} with --lake",
            )
    return data


def _code(run: Run, now: Mapping[str, str], where: str, allowed: bool) -> list[str]:
    """Return how the code differs from that of the run.

    Raises:
        InputError: It differs, and that is not allowed.
    """
    image = run.parameters.get(_IMAGE, "unknown")
    revision = run.parameters.get("git_revision", "unknown")
    changes = [_change(run, now, name) for name in _CODE if run.parameters.get(name) != now[name]]
    if revision.endswith("-dirty"):
        changes.append(f"the run's code had changes that were not committed: {revision}")
    if revision == image == "unknown":
        changes.append("the run's code is unknown: it had neither a git revision nor an image digest")
    elif image != now[_IMAGE] and (revision == "unknown" or "unknown" not in (image, now[_IMAGE])):
        changes.append(_change(run, now, _IMAGE))
    if changes and not allowed:
        raise InputError(
            "the code is not that of the run",
            where=where,
            got="; ".join(changes),
            fix="check out that revision and install its requirements.lock, or give --allow-other-code",
        )
    return changes


def _change(run: Run, now: Mapping[str, str], name: str) -> str:
    return f"{name.replace('_', ' ')}: {run.parameters.get(name, 'not recorded')} in the run, {now[name]} now"


def _recorded_checkpoint(run: Run, notes: list[str]) -> Checkpoint | None:
    with tempfile.TemporaryDirectory(prefix="reentry-checkpoint-") as folder:
        path = recorded_file(run.run_id, CHECKPOINT_NAME, Path(folder))
        if path is None:
            return None
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            notes.append(f"the run's checkpoint cannot be compared: {error.problem}")
            return None


def _metrics(recorded: Mapping[str, float], reproduced: Mapping[str, float]) -> list[Difference]:
    return [
        Difference(name=name, recorded=repr(recorded.get(name)), reproduced=repr(reproduced.get(name)))
        for name in sorted(set(recorded) | set(reproduced))
        if recorded.get(name) != reproduced.get(name)
    ]


def _weights(recorded: Mapping[str, torch.Tensor], reproduced: Mapping[str, torch.Tensor]) -> list[Difference]:
    differences = []
    for name in sorted(set(recorded) | set(reproduced)):
        before, after = recorded.get(name), reproduced.get(name)
        if before is None or after is None or before.shape != after.shape or before.dtype != after.dtype:
            differences.append(Difference(name=name, recorded=_shape(before), reproduced=_shape(after)))
        elif before.numpy().tobytes() != after.numpy().tobytes():
            furthest = int((before.double() - after.double()).abs().argmax())
            values = [repr(each.flatten()[furthest].item()) for each in (before, after)]
            differences.append(Difference(name=f"weights {name}", recorded=values[0], reproduced=values[1]))
    return differences


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
