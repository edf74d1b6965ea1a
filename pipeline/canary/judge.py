"""The judge: all checks of a canary, once or until they give a verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pipeline.canary.checks import (
    AGREEMENT,
    DRIFT,
    DURATION,
    ERRORS,
    CanaryVerdict,
    Check,
    judge_alarms,
    judge_drift,
    judge_duration,
    judge_errors,
    judge_pairs,
    unknown,
)
from pipeline.canary.config import JudgeConfig
from pipeline.canary.figures import CANARY, STABLE, Release
from pipeline.canary.prometheus import NoFiguresError, Prometheus

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Verdict on a canary with the checks that led to it."""

    verdict: CanaryVerdict
    checks: tuple[Check, ...]
    note: str = ""
    """Reason why a canary that passed every check is not passed yet; empty otherwise."""


def judge(config: JudgeConfig, *, clock: Callable[[], float] = time.monotonic) -> Judgement:
    """Judge the canary; with `config.wait`, again and again until it passes or fails or the time is over.

    While it waits, the judge does not pass a canary before a full window has gone by, so that the whole window belongs
    to the traffic that the canary has now. A canary that fails is failed at once.

    Raises:
        TrackFileError: the file of tracks for the agreement is not usable.
    """
    sample = None
    if config.same_tracks is not None:
        from pipeline.canary.same_tracks import read_sample

        sample = read_sample(config.same_tracks)
    begun = clock()
    while True:
        judgement = judge_once(config, sample)
        passed = clock() - begun
        if not config.wait or judgement.verdict is CanaryVerdict.FAIL:
            return judgement
        if judgement.verdict is CanaryVerdict.PASS:
            if passed >= config.limits.window:
                return judgement
            note = f"the window of {config.limits.window} s is not over"
            judgement = replace(judgement, verdict=CanaryVerdict.INCONCLUSIVE, note=note)
        if passed >= config.wait:
            return judgement
        _log.info("%.0f s: %s", passed, summary(judgement))
        time.sleep(min(config.limits.interval, config.wait - passed))


def judge_once(config: JudgeConfig, sample: pd.DataFrame | None) -> Judgement:
    """Judge the canary by the present figures.

    The servers score the sample only if every other check passes: these tracks count in the metrics of both releases.
    """
    limits = config.limits

    def check(name: str, measured: Callable[[Release, Release], Check]) -> Check:
        prometheus = Prometheus(config.prometheus)
        canary = Release(prometheus, config.namespace, CANARY, limits.window)
        stable = Release(prometheus, config.namespace, STABLE, limits.baseline)
        try:
            found = measured(canary, stable)
        except NoFiguresError as error:
            found = unknown(name, str(error))
        return replace(found, queries=tuple(prometheus.queries))

    checks = [
        check(ERRORS, lambda canary, stable: judge_errors(canary.requests(), stable.requests(), limits)),
        check(DURATION, lambda canary, stable: judge_duration(canary.durations(), stable.durations(), limits)),
        check(
            DRIFT,
            lambda canary, stable: judge_drift(canary.drift(), stable.drift(), canary.tracks_since_start(), limits),
        ),
    ]
    if sample is None:
        checks.append(check(AGREEMENT, lambda canary, stable: judge_alarms(canary.scored(), stable.scored(), limits)))
    elif verdict_of(checks) is CanaryVerdict.PASS:
        checks.append(check(AGREEMENT, partial(_same_tracks, config, sample)))
    else:
        checks.append(unknown(AGREEMENT, "the tracks are scored after every other check has passed"))
    return Judgement(verdict=verdict_of(checks), checks=tuple(checks))


def verdict_of(checks: list[Check]) -> CanaryVerdict:
    """Return the verdict of several checks: each of them must pass, and one that fails decides."""
    verdicts = {check.verdict for check in checks}
    if CanaryVerdict.FAIL in verdicts:
        return CanaryVerdict.FAIL
    return CanaryVerdict.PASS if verdicts == {CanaryVerdict.PASS} else CanaryVerdict.INCONCLUSIVE


def summary(judgement: Judgement) -> str:
    """Describe a judgement in one line: its verdict, and the checks that it depends on."""
    reasons = [f"{each.name}: {each.reason}" for each in judgement.checks if each.verdict is judgement.verdict]
    return f"{judgement.verdict}: {judgement.note or '; '.join(reasons)}"


def _same_tracks(config: JudgeConfig, sample: pd.DataFrame, _canary: Release, _stable: Release) -> Check:
    from pipeline.canary.same_tracks import score_pairs

    assert config.same_tracks is not None
    return judge_pairs(score_pairs(config.same_tracks, sample), config.limits)
