"""What a feed gives back: alerts of onsets and their refinements, and the answers to the measurements of one call."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from reentry.schema import INVALID, NOT_REFINED, PHASE


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """The onset of reentry of one live track. A feed gives it once for each track."""

    feed: str
    """Name of the feed."""
    track_id: int
    onset_timestamp: float
    """Unix time at which reentry began, s."""
    detected_at: float
    """Timestamp of the measurement that showed the onset, Unix time, s."""
    probability: float
    """Probability of reentry at that measurement."""
    model_version: int
    """Version of the network that found the onset."""
    latency_ms: float
    """Time from handing that measurement to the feed until the alert was known, ms. It includes outages and replays."""

    def to_json(self) -> str:
        """Return the alert as one line of JSON, without the newline."""
        return json.dumps({"event": "alert"} | asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """An update of an alert: when reentry began, by the measurements since the alert."""

    feed: str
    """Name of the feed."""
    track_id: int
    onset_timestamp: float
    """`Alert.onset_timestamp` of the alert."""
    refined_onset_timestamp: float
    """Unix time at which reentry probably began, s."""
    refined_onset_deviation: float
    """Standard deviation of that time, s."""
    hindsight_seconds: float
    """Time from `onset_timestamp` to the last measurement that was used, s."""
    model_version: int
    """Version of the network whose prior was used."""

    def to_json(self) -> str:
        """Return the refinement as one line of JSON, without the newline."""
        return json.dumps({"event": "refinement"} | asdict(self))


@dataclass(slots=True)
class Answers:
    """Answers to N measurements, in the order in which they were sent."""

    probability: npt.NDArray[np.float32]
    """Probability of reentry, (N,); NaN for a measurement without an answer."""
    phase: npt.NDArray[np.uint8]
    """Phase, (N,): 1 during reentry, 0 before and after it, 255 for a measurement without an answer."""
    onset: npt.NDArray[np.uint8]
    """1 at the measurement with which the first reentry of its track begins, (N,)."""
    onset_timestamp: npt.NDArray[np.float64]
    """Unix time of the onset, s, (N,); -1 without an onset so far."""
    refined_onset_timestamp: npt.NDArray[np.float64]
    """Unix time of the onset by the measurements since the alarm, s, (N,); -1 if it is unknown."""
    refined_onset_deviation: npt.NDArray[np.float64]
    """Standard deviation of the refined onset, s, (N,); -1 if it is unknown."""
    accepted: npt.NDArray[np.uint8]
    """0 for a measurement that is invalid, late, repeated or refused and changed nothing, (N,)."""
    model_version: int = 0
    """Version of the network that gave the latest answer; 0 before the first one."""
    refusals: dict[int, str] = field(default_factory=dict)
    """Reasons of the server, by position, for measurements that it refused to score."""

    @classmethod
    def empty(cls, count: int) -> Answers:
        """Return the answers to measurements that are not answered yet."""
        return cls(
            probability=np.full(count, np.nan, np.float32),
            phase=np.full(count, INVALID[PHASE.name], np.uint8),
            onset=np.zeros(count, np.uint8),
            onset_timestamp=np.full(count, np.nan),
            refined_onset_timestamp=np.full(count, NOT_REFINED),
            refined_onset_deviation=np.full(count, NOT_REFINED),
            accepted=np.zeros(count, np.uint8),
        )

    @classmethod
    def joined(cls, parts: list[Answers]) -> Answers:
        """Join the answers to consecutive measurements."""
        starts = np.cumsum([0, *(len(part.accepted) for part in parts)]).tolist()
        return cls(
            probability=np.concatenate([part.probability for part in parts]),
            phase=np.concatenate([part.phase for part in parts]),
            onset=np.concatenate([part.onset for part in parts]),
            onset_timestamp=np.concatenate([part.onset_timestamp for part in parts]),
            refined_onset_timestamp=np.concatenate([part.refined_onset_timestamp for part in parts]),
            refined_onset_deviation=np.concatenate([part.refined_onset_deviation for part in parts]),
            accepted=np.concatenate([part.accepted for part in parts]),
            model_version=parts[-1].model_version,
            refusals={
                start + position: reason
                for start, part in zip(starts, parts, strict=False)
                for position, reason in part.refusals.items()
            },
        )

    def spread(self, sent: npt.NDArray[np.bool_], reason: str) -> Answers:
        """Return the answers to all measurements of a call, of which only some were sent.

        Args:
            sent: whether each measurement was sent, (N,); these answers are to those.
            reason: why the others were refused.
        """
        result = Answers.empty(len(sent))
        refined = ("refined_onset_timestamp", "refined_onset_deviation")
        for name in ("probability", "phase", "onset", "onset_timestamp", *refined, "accepted"):
            getattr(result, name)[sent] = getattr(self, name)
        places = np.flatnonzero(sent).tolist()
        result.model_version = self.model_version
        result.refusals = {places[position]: text for position, text in self.refusals.items()}
        result.refusals.update(dict.fromkeys(np.flatnonzero(~sent).tolist(), reason))
        return result
