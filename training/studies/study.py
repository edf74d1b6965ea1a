"""What each choice is worth on hard data: networks, ablations and baselines on ballistic flights, seeds by severities.

A method is trained once for each seed, on flights of all severities together, and judged on flights of each severity by
itself that no method has seen; thresholds, which know nothing of noise, are fitted for each severity by itself. A seed
is another set of training flights and other first weights.

The coast of a training flight is cut short: minutes without air hold nothing to learn, and most of the steps. Flights
that are judged are whole.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reentry.decision import DecisionConfig
from reentry.errors import ConfigError
from reentry.runtime.cores import cores
from reentry.runtime.files import whole_file
from reentry.runtime.pool import in_order
from reentry.runtime.signals import ended_by_signals
from reentry.schema import ROBUST_FEATURES, SCHEMA_VERSION, SIMPLE_FEATURES
from reentry.simulation import SEVERITIES, simulate_file
from reentry.simulation.ballistic import BallisticConfig
from reentry.simulation.sensors import of_severity
from reentry.tracks import read_tracks
from training.checkpoint import save_checkpoint
from training.config import CONVOLUTION, GRU, ModelConfig, TrainConfig
from training.data.identity import DataIdentity
from training.data.samples import Sample
from training.data.stored import StoredSamples
from training.evaluation.metrics import Prediction, reliability, score, without_nan
from training.fit.fit import fit, git_revision, predict
from training.fit.threads import one_thread
from training.models.baselines import AltitudeThreshold, Baseline, BoostedTrees, DragThreshold, predict_with
from training.studies.known_path import known_path

STUDY_NAME: Final = "study.json"

_IDS_OF_A_SEVERITY: Final = 1_000_000

LARGEST: Final = 100_000
"""Weights of a network that may become the default."""

LSTM_NAME: Final = "LSTM"

KNOWN_PATH: Final = "known path"
"""What `training.studies.known_path` can tell, who is told the true path: no method, but what there is to be had."""

_UNSEEN_SEED: Final = 90_000
_MOST_SEEDS: Final = 80
"""The flights of more would be those that are judged."""
_WHOLE_SHARE: Final = 0.1
"""Of the training flights, that are not cut: what a network makes of a long coast is to be learned, too."""

FEATURES_OF_HARD_DATA: Final = ("altitude", "altitude_fraction", "time_step", *ROBUST_FEATURES)

_INTENSITY: Final = ("log_intensity", "log_intensity_rise")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """How large the study is."""

    seeds: int = 3
    """Each with its own training flights."""
    training_flights: int = 5_000
    """Of each severity and seed."""
    unseen_flights: int = 1_000
    """Of each severity, to judge by; the same for all seeds."""
    epochs: int = 20
    hidden: int = 64
    trees: int = 400
    severities: tuple[int, ...] = tuple(range(len(SEVERITIES)))

    def __post_init__(self) -> None:
        for name in ("seeds", "training_flights", "unseen_flights", "epochs", "hidden", "trees"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} out of range", expected="at least 1", got=str(getattr(self, name)))
        if self.seeds > _MOST_SEEDS:
            raise ConfigError("seeds out of range", expected=f"1 to {_MOST_SEEDS}", got=str(self.seeds))


QUICK: Final = StudyConfig(seeds=1, training_flights=2_000, unseen_flights=500, epochs=10, trees=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """One method of one seed at one severity."""

    method: str
    seed: int
    severity: int
    metrics: dict[str, float | None]
    """As `training.evaluation.metrics.Metrics`; None without cases."""
    reliability: dict[str, list[float | None]]
    """Bins of probability: `steps`, `predicted`, `observed`."""
    parameters: int
    """Weights, thresholds, or nodes of trees."""
    training_seconds: float
    step_microseconds: float | None
    """Processor time of the method alone, one flight after the other on one thread, its features given; None where it
    is no method."""


def networks(config: StudyConfig) -> dict[str, tuple[ModelConfig, TrainConfig]]:
    """Name -> settings; the first is the network that is served, which the others differ from in one thing."""
    model = ModelConfig(features=FEATURES_OF_HARD_DATA, harmonics=(16,), magnified=(), hidden=config.hidden)
    train = TrainConfig(
        epochs=config.epochs,
        patience=config.epochs,
        batch_size=32,
        learning_rate=8e-3,
        validation_share=0.05,
        onset_weight=30.0,
        onset_span=8.0,
        alarm_weight=1.0,
        forget_bias=1.5,
        accelerator="cpu",
    )
    seen = tuple(name for name in FEATURES_OF_HARD_DATA if name not in _INTENSITY)
    return {
        LSTM_NAME: (model, train),
        "GRU": (replace(model, kind=GRU), train),
        "convolution": (replace(model, kind=CONVOLUTION, layers=6), train),
        "LSTM, no filter": (replace(model, features=SIMPLE_FEATURES), train),
        "LSTM, no intensity": (replace(model, features=seen), train),
    }


def methods(config: StudyConfig) -> list[str]:
    """All that are compared, in the order of the table."""
    return [*networks(config), BoostedTrees.name, AltitudeThreshold.name, DragThreshold.name, KNOWN_PATH]


def run_study(
    config: StudyConfig, out: Path, tell: Callable[[str], None], *, processes: int | None = None
) -> list[StudyRow]:
    """Simulate, train and judge; `out`/study.json grows method by method, and what it holds is not done again.

    Args:
        config: how large.
        out: folder of study.json, of the flights and of the networks' checkpoints.
        tell: hears of each method as it is done.
        processes: that work at once, each at a method on one thread; all cores by default.

    Raises:
        ConfigError: `out` holds a study of other settings.
        Ended: a signal asked for the end.
    """
    path = out / STUDY_NAME
    rows = read_rows(path, config)
    done = {(row.method, row.seed) for row in rows}
    processes = processes or cores()
    out.mkdir(parents=True, exist_ok=True)
    with ended_by_signals(), _features_in(out) as judged_on:
        unseen: dict[int, StoredSamples] = {}
        for seed in range(config.seeds):
            # What the noise allows does not depend on who trains on what.
            of_seed = [method for method in methods(config) if seed == 0 or method != KNOWN_PATH]
            missing = [method for method in of_seed if (method, seed) not in done]
            if not missing:
                continue
            if not unseen:
                orders = [_Order("unseen", config.unseen_flights, s, _UNSEEN_SEED + s) for s in config.severities]
                unseen = _flights(orders, out, judged_on, processes, tell)
            with _features_in(out) as trained_on:
                orders = [
                    _Order("train", config.training_flights, s, 1_000 * (seed + 1) + s) for s in config.severities
                ]
                train = _flights(orders, out, trained_on, processes, tell)
                work = partial(_judged, missing, seed, train, unseen, config, out)
                for judged in in_order(work, len(missing), processes):
                    rows += judged
                    write_rows(path, config, rows)
                    tell(_line(judged))
    return rows


def read_rows(path: Path, config: StudyConfig) -> list[StudyRow]:
    """Rows of an earlier run with the same settings; none where there is no file.

    Raises:
        ConfigError: the file is of other settings, or none of this program's.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, settings = [StudyRow(**row) for row in content["rows"]], content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("not a study", where=str(path), fix="give another --out") from error
    if settings != _settings(config):
        raise ConfigError("a study of other settings", where=str(path), fix="give another --out")
    return rows


def _settings(config: StudyConfig) -> dict[str, Any]:
    """All that decides the rows, as JSON gives it back."""
    of_networks = {name: [asdict(model), asdict(train)] for name, (model, train) in networks(config).items()}
    settings: dict[str, Any] = json.loads(
        json.dumps({**asdict(config), "networks": of_networks, "schema_version": SCHEMA_VERSION})
    )
    return settings


def write_rows(path: Path, config: StudyConfig, rows: Sequence[StudyRow]) -> None:
    """study.json, whole or as it was."""
    content = {"revision": git_revision(), "settings": _settings(config), "rows": [asdict(row) for row in rows]}
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def shortened(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The flights with most of their coast cut out, and of what follows the onset all but a minute or so.

    From 60 to 200 steps of the start and 60 to 160 before the onset are kept; one flight in ten is whole until then.
    Features and labels are what they were: they tell each step by itself, so a network sees a flight that coasts less.
    """
    random = np.random.default_rng(seed)
    return [_shortened(sample, random) for sample in samples]


def _shortened(sample: Sample, random: np.random.Generator) -> Sample:
    steps = len(sample.phase)
    onset = int(sample.phase.argmax()) if sample.phase.any() else steps
    start, before, end = int(random.integers(60, 200)), onset - int(random.integers(60, 160)), min(steps, onset + 60)
    if before <= start or random.random() < _WHOLE_SHARE:
        kept = torch.arange(end)
    else:
        kept = torch.cat([torch.arange(start), torch.arange(before, end)])
    track = replace(
        sample.track,
        measurements=sample.track.measurements[kept.numpy()],
        reentry_phase=sample.phase[kept].numpy().astype(np.int8),
    )
    return Sample(track=track, features=sample.features[kept], phase=sample.phase[kept])


@dataclass(frozen=True, slots=True)
class _Order:
    """A file of flights."""

    kind: str
    count: int
    severity: int
    seed: int

    @property
    def purpose(self) -> str:
        return "train on" if self.kind == "train" else "judge by"

    @property
    def name(self) -> str:
        return f"{self.kind}-severity-{self.severity}-seed-{self.seed}-{self.count}"


def _features_in(out: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="features-", dir=out)


def _flights(
    orders: Sequence[_Order], out: Path, features: str, processes: int, tell: Callable[[str], None]
) -> dict[int, StoredSamples]:
    """The flights of each severity."""
    made: dict[int, StoredSamples] = {}
    for samples in in_order(partial(_made, orders, out, Path(features)), len(orders), processes):
        order = orders[len(made)]
        made[order.severity] = samples
        tell(f"{order.count:,} flights of severity {order.severity} to {order.purpose}, seed {order.seed}")
    return made


def _made(orders: Sequence[_Order], out: Path, features: Path, number: int) -> StoredSamples:
    """The flights of an order, simulated where they are not yet; their features in a folder of `features`."""
    order = orders[number]
    path, folder = out / "flights" / f"{order.name}.parquet", features / order.name
    if not path.exists():
        with redirect_stderr(StringIO()):  # the progress of several processes at once would be no progress
            simulate_file(
                path, profile="ballistic", tracks=order.count, seed=order.seed, severity=order.severity, processes=1
            )
    folder.mkdir()
    with read_tracks(path, labelled=True) as file:
        tracks = (replace(track, track_id=track.track_id + _IDS_OF_A_SEVERITY * order.severity) for track in file)
        return StoredSamples.write(folder, tracks, where=str(path))


def _judged(
    missing: Sequence[str],
    seed: int,
    train: dict[int, StoredSamples],
    unseen: dict[int, StoredSamples],
    config: StudyConfig,
    out: Path,
    number: int,
) -> list[StudyRow]:
    """What one of the missing methods is worth at each severity."""
    method = missing[number]
    started = time.monotonic()
    with one_thread(), threadpool_limits(1):
        parameters, by_severity = _fitted(method, seed, train, unseen, config, out)
        seconds = time.monotonic() - started
        return [
            _row(method, seed, severity, parameters, seconds, partial(by_severity[severity], list(samples)))
            for severity, samples in unseen.items()
        ]


def _fitted(
    method: str,
    seed: int,
    train: dict[int, StoredSamples],
    unseen: dict[int, StoredSamples],
    config: StudyConfig,
    out: Path,
) -> tuple[int, dict[int, Callable[[Sequence[Sample]], list[Prediction]]]]:
    """The numbers that the fit found, and for each severity what predicts."""
    if method == KNOWN_PATH:
        return 0, {severity: partial(known_path, config=_simulation(config, severity)) for severity in unseen}
    if method in (AltitudeThreshold.name, DragThreshold.name):
        thresholds: dict[int, Baseline] = {}
        for severity in unseen:
            thresholds[severity] = AltitudeThreshold() if method == AltitudeThreshold.name else DragThreshold()
            thresholds[severity].fit(train[severity])
        count = next(iter(thresholds.values())).parameters
        return count, {severity: partial(predict_with, fitted) for severity, fitted in thresholds.items()}
    if method == BoostedTrees.name:
        trees = BoostedTrees(config.trees, seed)
        trees.fit([sample for samples in train.values() for sample in samples])
        return trees.parameters, dict.fromkeys(unseen, partial(predict_with, trees))
    flights = [sample for samples in train.values() for sample in shortened(samples, seed)]
    model_config, train_config = networks(config)[method]
    fingerprint = f"study, seed {seed}, severities {', '.join(map(str, train))}, coasts cut"
    trained = fit(flights, model_config, replace(train_config, seed=seed), fingerprint=fingerprint, show_progress=False)
    model = trained.checkpoint.model
    identity = DataIdentity.of(sample.track for samples in train.values() for sample in samples)
    checkpoint = replace(
        trained.checkpoint,
        trained_flights=frozenset(identity.flight_fingerprints),
        trained_rows=identity.sketches,
    )
    name = method.replace(", ", "-").replace(" ", "-")
    save_checkpoint(out / "networks" / f"{name}-{seed}.ckpt", checkpoint)
    return sum(weight.numel() for weight in model.parameters()), dict.fromkeys(unseen, partial(predict, model))


def _simulation(config: StudyConfig, severity: int) -> BallisticConfig:
    """Of the flights that are judged, as `simulate_file` makes them."""
    return BallisticConfig(tracks=config.unseen_flights, seed=_UNSEEN_SEED + severity, sensors=of_severity(severity))


def _row(
    method: str, seed: int, severity: int, parameters: int, seconds: float, predicted: Callable[[], list[Prediction]]
) -> StudyRow:
    started = time.process_time()
    predictions = predicted()
    spent = time.process_time() - started
    bins = reliability(predictions)
    return StudyRow(
        method=method,
        seed=seed,
        severity=severity,
        metrics=without_nan(score(predictions, DecisionConfig()).as_dict()),
        reliability={name: _listed(getattr(bins, name)) for name in ("steps", "predicted", "observed")},
        parameters=parameters,
        training_seconds=seconds,
        step_microseconds=None if method == KNOWN_PATH else 1e6 * spent / sum(len(p.track) for p in predictions),
    )


def _listed(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _line(rows: Sequence[StudyRow]) -> str:
    figures = ", ".join(f"{row.metrics['onset_rmse']:.2f}" for row in rows)
    severities = ", ".join(str(row.severity) for row in rows)
    return (
        f"{rows[0].method}, seed {rows[0].seed}: onset RMSE {figures} s at severity {severities}; "
        f"fitted in {rows[0].training_seconds:.0f} s"
    )
