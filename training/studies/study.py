"""Study on ballistic flights: networks and baselines, by random seed and severity.

A method is trained once for each seed, on flights of all severities together, and scored on flights of each severity
that no method has seen. Thresholds ignore noise, so they are fitted for each severity separately. A seed determines
the training flights and the initial weights.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from reentry.decision import DecisionConfig
from reentry.errors import ConfigError
from reentry.features.groups import ALL_GROUPS
from reentry.runtime.cores import cores
from reentry.runtime.files import whole_file
from reentry.runtime.pool import in_order
from reentry.runtime.revision import git_revision
from reentry.runtime.signals import ended_by_signals
from reentry.schema import SCHEMA_VERSION
from reentry.simulation.ballistic import BallisticConfig
from reentry.simulation.sensors import of_severity
from training.checkpoint import save_checkpoint
from training.data.identity import DataIdentity
from training.data.samples import Sample
from training.data.stored import StoredSamples
from training.evaluation.metrics import Prediction, score, without_nan
from training.evaluation.predictions import predict
from training.evaluation.reliability import reliability
from training.fit.fit import fit
from training.fit.threads import one_thread
from training.models.baselines import AltitudeThreshold, BoostedTrees, DragThreshold, predict_with
from training.studies.known_path import known_path
from training.studies.orbit_baselines import OrbitFilterAlone, OrbitTrees
from training.studies.refined_onsets import refined_errors
from training.studies.study_config import KNOWN_PATH, LSTM_FEATURES, UNSEEN_SEED, StudyConfig, methods, networks
from training.studies.study_flights import FlightSet, shortened

STUDY_NAME: Final = "study.json"

Predictor = Callable[[Sequence[Sample]], list[Prediction]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """Result of one method for one seed at one severity."""

    method: str
    seed: int
    severity: int
    metrics: dict[str, float | None]
    """Fields of `training.evaluation.metrics.Metrics`; None in place of NaN."""
    reliability: dict[str, list[float | None]]
    """Fields of `training.evaluation.reliability.Reliability`; None in place of NaN."""
    parameters: int
    """Number of weights, thresholds, or nodes of trees."""
    training_seconds: float
    step_microseconds: float | None
    """Processor time of the method for one step, on one thread, flight by flight, without computing the features; None
    for the known path."""
    refined: list[dict[str, float | None]]
    """Fields of `training.studies.refined_onsets.RefinedErrors`, None in place of NaN, for each time since the alarm;
    empty for a method without the orbit filter's prior."""


def run_study(
    config: StudyConfig, out: Path, report: Callable[[str], None], *, processes: int | None = None
) -> list[StudyRow]:
    """Simulate, train and score. Rows already in `out`/study.json are not computed again; new ones are added to it.

    Args:
        config: size of the study.
        out: folder for study.json, the flights and the checkpoints of the networks.
        report: called with a line of text for each set of flights and each method that is done.
        processes: number of processes, each of which works on one method on one thread; all cores by default.

    Raises:
        ConfigError: `out` holds a study with other settings.
        Ended: a signal requested shutdown.
    """
    path = out / STUDY_NAME
    rows = read_rows(path, config)
    done = {(row.method, row.seed) for row in rows}
    processes = processes or cores()
    out.mkdir(parents=True, exist_ok=True)
    with ended_by_signals(), _features_folder(out) as unseen_features:
        unseen: dict[int, StoredSamples] = {}
        for seed in range(config.seeds):
            # The known path does not depend on the training flights, so one seed is enough.
            of_seed = [method for method in methods(config) if seed == 0 or method != KNOWN_PATH]
            missing = [method for method in of_seed if (method, seed) not in done]
            if not missing:
                continue
            if not unseen:
                unseen = FlightSet(
                    purpose="unseen",
                    count=config.unseen_flights,
                    first_seed=UNSEEN_SEED,
                    severities=config.severities,
                    groups=ALL_GROUPS,
                ).samples(out, unseen_features, processes, report)
            with _features_folder(out) as train_features:
                train = FlightSet(
                    purpose="train",
                    count=config.training_flights,
                    first_seed=1_000 * (seed + 1),
                    severities=config.severities,
                    groups=ALL_GROUPS,
                ).samples(out, train_features, processes, report)
                trial = _Trial(config=config, out=out, seed=seed, methods=missing, train=train, unseen=unseen)
                for new in in_order(trial.rows, len(missing), processes):
                    rows += new
                    write_rows(path, config, rows)
                    report(_line(new))
    return rows


def read_rows(path: Path, config: StudyConfig) -> list[StudyRow]:
    """Rows of an earlier run with the same settings; empty if the file does not exist.

    Raises:
        ConfigError: the file is from other settings, or is not a study.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, settings = [StudyRow(**row) for row in content["rows"]], content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("not a study", where=str(path), fix="pass another --out") from error
    if settings != _settings(config):
        raise ConfigError("the study was made with other settings", where=str(path), fix="pass another --out")
    return rows


def write_rows(path: Path, config: StudyConfig, rows: Sequence[StudyRow]) -> None:
    """Write study.json, complete or not at all."""
    content = {"revision": git_revision(), "settings": _settings(config), "rows": [asdict(row) for row in rows]}
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _settings(config: StudyConfig) -> dict[str, Any]:
    """Everything that determines the rows, with the types that JSON gives back."""
    of_networks = {name: [asdict(model), asdict(train)] for name, (model, train) in networks(config).items()}
    settings: dict[str, Any] = json.loads(
        json.dumps({**asdict(config), "networks": of_networks, "schema_version": SCHEMA_VERSION})
    )
    return settings


def _features_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="features-", dir=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """A fitted method."""

    parameters: int
    """Number of fitted parameters."""
    predictors: dict[int, Predictor]
    """Predictor for each severity."""
    prior: npt.NDArray[np.float64] | None = None
    """Prior of the orbit filter with which the method's onsets are refined; None if they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Methods to fit and score for one seed. Worker processes receive it and compute the rows of one method each."""

    config: StudyConfig
    out: Path
    seed: int
    methods: Sequence[str]
    train: dict[int, StoredSamples]
    """Training flights by severity."""
    unseen: dict[int, StoredSamples]
    """Flights to score on, by severity."""

    def rows(self, number: int) -> list[StudyRow]:
        """Rows of a method, one for each severity."""
        method = self.methods[number]
        started = time.monotonic()
        with one_thread(), threadpool_limits(1):
            fitted = self._fit(method)
            seconds = time.monotonic() - started
            return [self._row(method, severity, fitted, seconds) for severity in self.unseen]

    def _fit(self, method: str) -> _Fitted:
        if method == KNOWN_PATH:
            return _Fitted(parameters=0, predictors={severity: self._known_path(severity) for severity in self.unseen})
        if method in (AltitudeThreshold.name, DragThreshold.name):
            predictors: dict[int, Predictor] = {}
            for severity in self.unseen:
                threshold = AltitudeThreshold() if method == AltitudeThreshold.name else DragThreshold()
                threshold.fit(self.train[severity])
                predictors[severity] = partial(predict_with, threshold)
            return _Fitted(parameters=threshold.parameters, predictors=predictors)
        if method in networks(self.config):
            return self._fit_network(method)
        flights = [sample for samples in self.train.values() for sample in samples]
        if method == OrbitFilterAlone.name:
            alone = OrbitFilterAlone()
            alone.fit(flights)
            return self._of_all(alone.parameters, partial(predict_with, alone), alone.prior)
        trees = BoostedTrees(self.config.trees, self.seed)
        on_orbit = OrbitTrees(trees, LSTM_FEATURES)
        on_orbit.fit(flights)
        return self._of_all(trees.parameters, on_orbit.predict)

    def _known_path(self, severity: int) -> Predictor:
        simulation = BallisticConfig(  # with the settings of `simulate_file`
            tracks=self.config.unseen_flights, seed=UNSEEN_SEED + severity, sensors=of_severity(severity)
        )
        return partial(known_path, config=simulation)

    def _fit_network(self, method: str) -> _Fitted:
        flights = [sample for samples in self.train.values() for sample in shortened(samples, self.seed)]
        model_config, train_config = networks(self.config)[method]
        trained = fit(
            flights,
            model_config,
            replace(train_config, seed=self.seed),
            fingerprint=f"study, seed {self.seed}, severities {', '.join(map(str, self.train))}, coasts cut",
            show_progress=False,
        )
        identity = DataIdentity.of(sample.track for samples in self.train.values() for sample in samples)
        checkpoint = replace(
            trained.checkpoint,
            trained_flights=frozenset(identity.flight_fingerprints),
            trained_rows=identity.sketches,
        )
        name = method.replace(", ", "-").replace(" ", "-")
        save_checkpoint(self.out / "networks" / f"{name}-{self.seed}.ckpt", checkpoint)
        model = checkpoint.model
        parameters = sum(weight.numel() for weight in model.parameters())
        return self._of_all(parameters, partial(predict, model), model.orbit_prior())

    def _of_all(self, parameters: int, predictor: Predictor, prior: npt.NDArray[np.float64] | None = None) -> _Fitted:
        """Return a method that is fitted on flights of all severities together."""
        return _Fitted(parameters=parameters, predictors=dict.fromkeys(self.unseen, predictor), prior=prior)

    def _row(self, method: str, severity: int, fitted: _Fitted, seconds: float) -> StudyRow:
        samples = list(self.unseen[severity])
        started = time.process_time()
        predictions = fitted.predictors[severity](samples)
        spent = time.process_time() - started
        bins = reliability(predictions)
        decision = DecisionConfig()
        refined = [] if fitted.prior is None else refined_errors(predictions, samples, fitted.prior, decision)
        return StudyRow(
            method=method,
            seed=self.seed,
            severity=severity,
            metrics=without_nan(score(predictions, decision).as_dict()),
            reliability={name: _without_nan(getattr(bins, name)) for name in ("steps", "predicted", "observed")},
            parameters=fitted.parameters,
            training_seconds=seconds,
            step_microseconds=None if method == KNOWN_PATH else 1e6 * spent / sum(len(p.track) for p in predictions),
            refined=[without_nan(asdict(errors)) for errors in refined],
        )


def _without_nan(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _line(rows: Sequence[StudyRow]) -> str:
    figures = ", ".join(f"{row.metrics['onset_rmse']:.2f}" for row in rows)
    severities = ", ".join(str(row.severity) for row in rows)
    return (
        f"{rows[0].method}, seed {rows[0].seed}: onset RMSE {figures} s at severity {severities}; "
        f"fitted in {rows[0].training_seconds:.0f} s"
    )
