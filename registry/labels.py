"""labels.json: which version is in production, which is the candidate, and how each came into production."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Self

from reentry.errors import RepositoryError
from reentry.serving.repository import LARGEST_VERSION
from registry.store import LABELS_FILE, Stored, VersionStore

METRIC: Final = "onset_rmse"
"""What versions are compared by: of `Manifest.metrics`, s, on the validation tracks; the lower the better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One time that another version came into production."""

    version: int
    previous: int | None
    kind: Literal["promote", "rollback"]
    date: str
    """ISO 8601, UTC."""
    metric: float | None
    """`METRIC` of the version; None where it has none."""
    previous_metric: float | None
    reason: str | None = None
    """Why in spite of `overridden`, or whatever the user wanted to say."""
    overridden: tuple[str, ...] = ()
    """The rules that stood against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The record of one model repository."""

    production: int | None = None
    candidate: int | None = None
    history: tuple[Change, ...] = ()
    """Oldest first."""

    def after(self, change: Change) -> Labels:
        """The record once `change` has happened."""
        return replace(
            self,
            production=change.version,
            candidate=None if self.candidate == change.version else self.candidate,
            history=(*self.history, change),
        )

    def earlier(self) -> list[int]:
        """Versions that a rollback would go back to, the next one first.

        A rollback takes versions off the list, so that two rollbacks go back by two and not to and fro.
        """
        stack: list[int] = []  # the last is in production
        for change in self.history:
            if change.kind == "rollback" and change.version in stack:
                del stack[stack.index(change.version) + 1 :]
                continue
            if change.version in stack:
                stack.remove(change.version)
            stack.append(change.version)
        return stack[-2::-1]

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read a record.

        Raises:
            RepositoryError: not a record of this program.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            history = tuple(_change(entry) for entry in content["history"])
            return cls(
                production=_number(content["production"]), candidate=_number(content["candidate"]), history=history
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RepositoryError(
                f"not the labels of this program: {error}",
                where=where,
                fix="mend it, or remove it and promote the version that serves",
            ) from error


def _change(entry: dict[str, Any]) -> Change:
    change = Change(**entry | {"overridden": tuple(map(str, entry["overridden"]))})
    if change.kind not in ("promote", "rollback") or _number(change.version) is None:
        raise ValueError(f"a change of {entry}")
    _number(change.previous)
    for metric in (change.metric, change.previous_metric):
        if metric is not None and (isinstance(metric, bool) or not isinstance(metric, int | float)):
            raise ValueError(f"no metric: {metric}")
    for text in (change.date, change.reason):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"no text: {text}")
    return change


def _number(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_VERSION:
        raise ValueError(f"no version number: {value}")
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """The labels of a store as they were read."""

    labels: Labels
    stored: Stored

    @classmethod
    def of(cls, store: VersionStore) -> Record:
        """Read them; empty where nothing has been labelled yet.

        Raises:
            RepositoryError: not a record of this program.
        """
        stored = store.read(LABELS_FILE)
        if stored.text is None:
            return cls(Labels(), stored)
        return cls(Labels.from_json(stored.text, where=store.place(LABELS_FILE)), stored)

    def replace(self, store: VersionStore, labels: Labels) -> None:
        """Write other labels over these.

        Raises:
            RepositoryError: another command changed them meanwhile.
        """
        if labels != self.labels:
            store.write(LABELS_FILE, labels.to_json(), over=self.stored)


def metric_of(metrics: dict[str, float | None]) -> float | None:
    """`METRIC`, None where it is missing or no number."""
    value = metrics.get(METRIC)
    return value if value is not None and value == value else None


def labels_of(labels: Labels, version: int) -> list[str]:
    """The names of the labels that a version bears."""
    return [name for name in ("production", "candidate") if getattr(labels, name) == version]
