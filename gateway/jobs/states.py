"""States of a job, and the transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """State of a job."""

    VALIDATING = "validating"
    """The job waits for a worker, or a worker reads and checks its file."""
    RUNNING = "running"
    """A worker sends the tracks to Triton, or waits for it."""
    FINALIZING = "finalizing"
    """A worker writes the results."""
    COMPLETED = "completed"
    """The results are complete."""
    FAILED = "failed"
    """The file cannot be scored; `error` says why."""
    EXPIRED = "expired"
    """The deadline passed before the job was complete."""
    CANCELLING = "cancelling"
    """The account has cancelled the job, and a worker writes the results of the tracks scored so far."""
    CANCELLED = "cancelled"
    """The account has cancelled the job; the results of the tracks scored until then are kept."""


TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.VALIDATING: frozenset(
        {JobState.RUNNING, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLING, JobState.CANCELLED}
    ),
    JobState.RUNNING: frozenset({JobState.FINALIZING, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLING}),
    JobState.FINALIZING: frozenset({JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLING}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.EXPIRED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""States that may follow each state. A job that nothing has started is cancelled at once."""

PATH: Final = (JobState.VALIDATING, JobState.RUNNING, JobState.FINALIZING)
"""States through which a worker takes a job. A job that is resumed keeps its state until the worker gets further."""
ENDED: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""States that no other state follows."""
ACTIVE: Final = frozenset(JobState) - ENDED
"""States of the jobs that a worker has to work on."""
WITH_RESULTS: Final = frozenset({JobState.COMPLETED, JobState.CANCELLED})
"""States in which a job may have results."""


def before(state: JobState) -> frozenset[JobState]:
    """Return the states that `state` may follow."""
    return frozenset(each for each, following in TRANSITIONS.items() if state in following)
