"""The gate: both models score the same unseen tracks again, and the verdict decides whether one may replace the other.

The tracks are those that no training on the lake uses, of one version of the table of features, and the newest of them
as a second data set: a model that fits old flights alone must not pass. Tracks that trained one of the two models, as
a training on a file may have, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.retraining.contestants import Contestant
from pipeline.retraining.paired import RESAMPLES, Measure, compare
from pipeline.retraining.scores import Scores
from pipeline.retraining.verdict import Comparison, Verdict, judge
from pipeline.settings import PipelineSettings
from reentry.errors import InputError

ONSET_RMSE: Final = Measure(name="onset RMSE", unit="s", of_mean=np.sqrt)
"""Measure over squared onset errors."""
WRONG_ONSETS: Final = Measure(name="missed and false onsets", unit="share", of_mean=lambda mean: mean)

FEWEST: Final = 20
"""Fewest tracks of the table, of the window or of a slice that are compared."""
TABLE: Final = "table"
WINDOW: Final = "window"

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Result of the gate."""

    challenger: Contestant
    champion: Contestant
    table: str
    """Version of the table that was scored, such as lake:features@12."""
    reason: str | None
    """Reason of the retraining: schedule, data or drift; None if there was none."""
    verdict: Verdict
    main: tuple[Comparison, ...]
    """Onset RMSE on the table and on the window, unless the window has too few tracks or all those of the table."""
    guards: tuple[Comparison, ...]
    """Wrong onsets, and the onset RMSE of each slice."""
    worse: tuple[Comparison, ...]
    """Comparisons that refuse the challenger."""

    @property
    def allowed(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.verdict.allows(self.reason)

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
        return text

    def as_dict(self) -> dict[str, Any]:
        """Content for `--json`."""
        return {
            "challenger": self.challenger.name,
            "champion": self.champion.name,
            "table": self.table,
            "reason": self.reason,
            "verdict": self.verdict,
            "allowed": self.allowed,
            "comparisons": [each.as_dict() | {"worse": each in self.worse} for each in (*self.main, *self.guards)],
        }


def run_gate(
    challenger: Contestant,
    champion: Contestant,
    scores: Scores,
    newest: Scores,
    *,
    table: str,
    reason: str | None,
    settings: PipelineSettings,
    resamples: int = RESAMPLES,
) -> GateResult:
    """Compare two models by their scores.

    Args:
        challenger: The new model.
        champion: The model that it would replace.
        scores: Scores of the version of the table.
        newest: Scores of the newest version, which may be the same.
        table: Name of the version.
        reason: Reason of the retraining.
        settings: Margins and the length of the window.
        resamples: Number of resamples of each comparison.

    Raises:
        InputError: The table has too few tracks that neither model was trained on.
    """
    if len(scores) < FEWEST:
        raise InputError(
            "too few labelled tracks that neither model was trained on",
            where=table,
            expected=f"at least {FEWEST}",
            got=str(len(scores)),
            fix="ingest more labelled tracks; one in five is held out for the gate",
        )
    generator = np.random.default_rng(0)

    def compared(measure: Measure, data: str, group: str, chosen: Scores) -> Comparison:
        squared = measure is ONSET_RMSE
        first, second = (np.square(chosen.errors) if squared else chosen.wrong).T
        difference = compare(measure, first, second, generator=generator, resamples=resamples)
        margin = max(settings.gate_margin, settings.gate_margin_share * difference.champion) if squared else 0.0
        return Comparison(data=data, group=group, measure=measure, margin=margin, difference=difference)

    sets = {TABLE: scores}
    within = newest.start >= newest.start.max() - settings.gate_window_days * _DAY
    if within.sum() >= FEWEST and not (newest is scores and within.all()):
        sets[WINDOW] = newest.select(within)
    main = [compared(ONSET_RMSE, data, "all", chosen) for data, chosen in sets.items()]
    guards = [compared(WRONG_ONSETS, data, "all", chosen) for data, chosen in sets.items()]
    guards += [compared(ONSET_RMSE, TABLE, group, chosen) for group, chosen in slices_of(scores)]
    verdict, worse = judge(main, guards)
    return GateResult(
        challenger=challenger,
        champion=champion,
        table=table,
        reason=reason,
        verdict=verdict,
        main=tuple(main),
        guards=tuple(guards),
        worse=tuple(worse),
    )


def slices_of(scores: Scores) -> Sequence[tuple[str, Scores]]:
    """Return the name and the scores of each slice that has enough tracks; a property with one value has no slices."""
    found = []
    for by, names in scores.groups.items():
        values = sorted(set(names.tolist()) - {""})
        for value in values if len(values) > 1 else ():
            chosen = scores.select(names == value)
            if len(chosen) >= FEWEST:
                found.append((f"{by} {value}", chosen))
    return found
