"""The gate: both models score the same unseen tracks again, and the verdict decides whether one may replace the other.

The tracks are those that no training on the lake uses, of one version of the table of features, and the newest of them
as a second data set: a model that fits old flights alone must not pass. Tracks that trained one of the two models, as
a training on a file may have, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.features.held_out import SHARE, is_held_out
from pipeline.features.training_data import LakeTrainingData
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import FEATURES_TABLE
from pipeline.retraining.contestants import Contestant
from pipeline.retraining.paired import RESAMPLES, Measure, Values, compare
from pipeline.retraining.reason import Reason
from pipeline.retraining.scores import PairedScores, score_both
from pipeline.retraining.severity import severities
from pipeline.retraining.verdict import GateComparison, GateVerdict, judge
from pipeline.settings import PipelineSettings
from reentry.errors import InputError
from reentry.schema import TRACK_ID
from training.data.identity import DataIdentity
from training.data.samples import Chosen
from training.evaluation.evaluate import trained_on

ONSET_RMSE: Final = Measure(name="onset RMSE", unit="s", of_mean=np.sqrt)
"""Measure over squared onset errors."""
WRONG_ONSETS: Final = Measure(name="missed and false onsets", unit="share", of_mean=lambda mean: mean)

FEWEST: Final = 20
"""Fewest tracks of the table, of the window or of a slice that are compared."""
TABLE: Final = "table"
WINDOW: Final = "window"

_DAY: Final = 86_400.0
_AHEAD: Final = _DAY
"""Time by which a clock may be ahead, s. A track that starts later has a wrong time and is not in the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Result of the gate."""

    challenger: Contestant
    champion: Contestant
    table: str
    """Version of the table that was scored, such as lake:features@12."""
    reason: Reason | None
    """Reason of the retraining; None if there was none."""
    verdict: GateVerdict
    main: tuple[GateComparison, ...]
    """Onset RMSE on the table and on the window, unless the window has too few tracks or all those of the table."""
    guards: tuple[GateComparison, ...]
    """Wrong onsets, and the onset RMSE of each slice."""
    worse: tuple[GateComparison, ...]
    """Comparisons that refuse the challenger."""
    note: str = ""
    """What restricts the window, such as too few tracks; empty if nothing does."""

    @property
    def allowed(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.verdict.allows(self.reason)

    @property
    def window_tracks(self) -> int | None:
        """Number of tracks in the window; None if the window was not compared."""
        return next((each.difference.tracks for each in self.main if each.data == WINDOW), None)

    def summary(self) -> str:
        """Summary in one line."""
        whole = self.main[0].difference
        text = (
            f"{self.verdict}: onset RMSE {whole.challenger:.3f} s, {self.champion.name} {whole.champion:.3f} s, "
            f"difference {whole.estimate:+.3f} s ({whole.low:+.3f} to {whole.high:+.3f}) on {whole.tracks} tracks of "
            f"{self.table}"
        )
        if self.worse:
            text += "; worse: " + ", ".join(f"{each.measure.name} on {each.data}, {each.group}" for each in self.worse)
        return f"{text}; warning: {self.note}" if self.note else text

    def as_dict(self) -> dict[str, Any]:
        """Content for `--json`."""
        return {
            "challenger": self.challenger.name,
            "champion": self.champion.name,
            "table": self.table,
            "reason": self.reason,
            "verdict": self.verdict,
            "allowed": self.allowed,
            "window_tracks": self.window_tracks,
            "note": self.note,
            "comparisons": [each.as_dict() | {"worse": each in self.worse} for each in (*self.main, *self.guards)],
        }


def run_gate(
    challenger: Contestant,
    champion: Contestant,
    lake: Lake,
    *,
    table: TableReference,
    reason: Reason | None = None,
    settings: PipelineSettings,
    now: datetime | None = None,
) -> GateResult:
    """Score two models on the held-out tracks of the table of features, and compare them.

    Args:
        challenger: The new model.
        champion: The model that it would replace.
        lake: The tables.
        table: Version of the table of features. The window is always that of the newest version.
        reason: Reason of the retraining.
        settings: Margins and the length of the window.
        now: The present time, by default that of the clock. The window has no tracks that start after the next day.

    Raises:
        InputError: The table has too few tracks that neither model was trained on.
        LakeError: The table does not exist, or lacks features that a model needs.
    """
    data, newest = (
        replace(LakeTrainingData.of(lake, reference), held_out=True)
        for reference in (table, TableReference(FEATURES_TABLE.name))
    )
    scores = _scores(challenger, champion, data)
    _require_tracks(len(scores), data)
    of_newest = scores if newest == data else _scores(challenger, champion, newest)
    sets = {TABLE: scores}
    within, note = window_of(of_newest.start, days=settings.gate_window_days, now=now or datetime.now(UTC))
    if within.sum() >= FEWEST and not (of_newest is scores and within.all()):
        sets[WINDOW] = of_newest.select(within)
    main, guards = comparisons(sets, settings)
    verdict, worse = judge(main, guards)
    return GateResult(
        challenger=challenger,
        champion=champion,
        table=str(data),
        reason=reason,
        verdict=verdict,
        main=tuple(main),
        guards=tuple(guards),
        worse=tuple(worse),
        note=note,
    )


def window_of(start: Values, *, days: float, now: datetime) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which tracks are in the window of the newest ones, and what restricts the window.

    Args:
        start: Time of the first step of each track, Unix time in s, (K,).
        days: Length of the window, counted from the newest track whose time is possible.
        now: The present time.

    Returns:
        Whether each track is in the window, (K,), and a note, which is empty if nothing restricts the window.
    """
    possible = start <= now.timestamp() + _AHEAD
    end = start[possible].max(initial=0.0)
    within = possible & (start >= end - days * _DAY)
    notes = []
    if not possible.all():
        notes.append(
            f"{np.sum(~possible)} of {len(start)} tracks are dated after the present and are not in the window"
        )
    if within.sum() < FEWEST:
        notes.append(f"the window of {days:g} days was not compared: it has {within.sum()} of {FEWEST} tracks")
    return within, ", and ".join(notes)


def require_held_out(data: LakeTrainingData) -> None:
    """Check before a training that the table has enough held-out tracks for the gate.

    Raises:
        InputError: It has too few.
        LakeError: The table cannot be read.
    """
    table = data.lake.open(FEATURES_TABLE.name, data.version)
    with data.lake.errors(FEATURES_TABLE.name, data.version):
        ids = table.to_pyarrow_dataset().to_table(columns=[TRACK_ID.name]).column(0).unique()
    _require_tracks(int(is_held_out(ids.to_numpy()).sum()), data)


def _require_tracks(count: int, data: LakeTrainingData) -> None:
    if count < FEWEST:
        raise InputError(
            "too few labelled tracks that neither model was trained on",
            where=str(data),
            expected=f"at least {FEWEST}",
            got=str(count),
            fix=f"ingest more labelled tracks, of which {SHARE:.0%} are held out for the gate",
        )


def comparisons(
    sets: Mapping[str, PairedScores], settings: PipelineSettings, *, resamples: int = RESAMPLES
) -> tuple[list[GateComparison], list[GateComparison]]:
    """Compare two models by their scores; return the main comparisons and the guards, see `judge`.

    Args:
        sets: Scores of the table and, unless it has too few tracks, of the window.
        settings: Margins.
        resamples: Number of resamples of each comparison.
    """
    generator = np.random.default_rng(0)

    def compared(measure: Measure, data: str, group: str, scores: PairedScores) -> GateComparison:
        squared = measure is ONSET_RMSE
        first, second = (np.square(scores.errors) if squared else scores.wrong).T
        difference = compare(measure, first, second, generator=generator, resamples=resamples)
        margin = max(settings.gate_margin, settings.gate_margin_share * difference.champion) if squared else 0.0
        return GateComparison(data=data, group=group, measure=measure, margin=margin, difference=difference)

    main = [compared(ONSET_RMSE, data, "all", scores) for data, scores in sets.items()]
    guards = [compared(WRONG_ONSETS, data, "all", scores) for data, scores in sets.items()]
    guards += [compared(ONSET_RMSE, TABLE, group, scores) for group, scores in slices_of(sets[TABLE])]
    return main, guards


def _scores(challenger: Contestant, champion: Contestant, data: LakeTrainingData) -> PairedScores:
    """Score the tracks that neither model was trained on, as far as that is known."""
    with data.open(challenger.groups | champion.groups) as labelled:
        samples = labelled.samples
        identity = DataIdentity.of(sample.track for sample in samples)
        seen = np.zeros(len(samples), dtype=np.bool_)
        for model in (challenger, champion):
            if model.checkpoint is not None:
                seen |= np.fromiter(trained_on(model.checkpoint, identity, samples), dtype=np.bool_)
        unseen = Chosen(samples, np.flatnonzero(~seen).tolist())
        known = severities(data.lake, np.array(identity.track_ids, dtype=np.int64))
        return score_both(challenger, champion, unseen, known)


def slices_of(scores: PairedScores) -> Sequence[tuple[str, PairedScores]]:
    """Return the name and the scores of each slice that has enough tracks; a property with one value has no slices."""
    found = []
    for by, names in scores.groups.items():
        values = sorted(set(names.tolist()) - {""})
        for value in values if len(values) > 1 else ():
            chosen = scores.select(names == value)
            if len(chosen) >= FEWEST:
                found.append((f"{by} {value}", chosen))
    return found
