"""Verdicts of the gate, and the rules that lead to them.

| verdict | condition | may replace production |
| --- | --- | --- |
| worse | some comparison is significantly worse, and its interval reaches beyond its margin | no |
| better | the onset RMSE is significantly lower on the table or the window, and within the margin on both | yes |
| same | the interval of the onset RMSE ends below the margin on the table and on the window | only after drift |
| worse within noise | everything else: the tracks are too few to exclude that it is worse | only after drift |

All comparisons take part in the search for a worse one: onset RMSE, and missed and false onsets, on the table and on
the window, and the onset RMSE of each slice. Their p-values are adjusted by Holm's method, so that two equal models are
found worse in at most `ALPHA` of the cases, however many slices there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from pipeline.retraining.paired import Difference, Measure, holm
from pipeline.retraining.reason import Reason

ALPHA: Final = 0.05
"""Probability with which two equal models are found different in one direction."""


class GateVerdict(StrEnum):
    """Result of a comparison of two models, about the challenger."""

    BETTER = "better"
    SAME = "same"
    WITHIN_NOISE = "worse within noise"
    WORSE = "worse"

    def allows(self, reason: Reason | None) -> bool:
        """Return whether the challenger may replace the version in production.

        Args:
            reason: Reason of the retraining; None if there was none.
        """
        return self is GateVerdict.BETTER or (reason is Reason.DRIFT and self is not GateVerdict.WORSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateComparison:
    """Comparison of both models by one measure on one group of tracks."""

    data: str
    """`table` or `window`."""
    group: str
    """Slice, such as "sensors 1"; "all" for all tracks."""
    measure: Measure
    margin: float
    """Largest difference that does not matter, in the unit of the measure."""
    difference: Difference

    @property
    def within_margin(self) -> bool:
        """Whether the interval excludes that the challenger is worse by more than the margin."""
        return self.difference.high <= self.margin

    def as_dict(self) -> dict[str, Any]:
        """Content for `--json`."""
        return {
            "data": self.data,
            "group": self.group,
            "measure": self.measure.name,
            "unit": self.measure.unit,
            "margin": self.margin,
            "difference": self.difference.estimate,
            **asdict(self.difference),
        }


def judge(main: Sequence[GateComparison], guards: Sequence[GateComparison]) -> tuple[GateVerdict, list[GateComparison]]:
    """Return the verdict, and the comparisons that make the challenger worse.

    Args:
        main: Onset RMSE on the table and on the window, at least one comparison.
        guards: Comparisons that can only refuse a challenger.
    """
    every = [*main, *guards]
    adjusted = holm([comparison.difference.p_worse for comparison in every])
    worse = [
        comparison for comparison, p in zip(every, adjusted, strict=True) if p <= ALPHA and not comparison.within_margin
    ]
    if worse:
        return GateVerdict.WORSE, worse
    if not all(comparison.within_margin for comparison in main):
        return GateVerdict.WITHIN_NOISE, []
    improved = holm([comparison.difference.p_better for comparison in main]) <= ALPHA
    return (GateVerdict.BETTER if improved.any() else GateVerdict.SAME), []
