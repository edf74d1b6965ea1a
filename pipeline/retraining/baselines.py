"""Simple models beside a network: logistic regression and boosted trees, fitted and measured on the same splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from threadpoolctl import threadpool_limits

from reentry.decision import DecisionConfig
from reentry.tracks.store import TRACKS_PER_PART
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample, sampling_stride, split
from training.data.training_data import TrainingData
from training.evaluation.evaluate import BASELINE_STEPS, EXACT_STEPS
from training.evaluation.metrics import Prediction, score
from training.models.baselines import Baseline, BoostedTrees, Logistic, predict_with

PREFIX: Final = "baseline"
"""Start of the names of the metrics, such as baseline.boosted_trees.onset_rmse."""


def baseline_metrics(data: TrainingData, model: ModelConfig, config: TrainConfig) -> dict[str, float]:
    """Fit the baselines on the training split of a training, and measure them on its validation split.

    Args:
        data: The tracks of the training.
        model: Settings of the network, which name the groups of features.
        config: Settings of the training, which decide the split.

    Returns:
        The metrics of all baselines by name.

    Raises:
        InputError: The data cannot be used.
    """
    baselines: tuple[Baseline, ...] = (Logistic(), BoostedTrees(seed=config.seed))
    found: dict[str, float] = {}
    # The threads of scikit-learn wait for each other in busy loops: on two busy cores, one thread is 20 times as fast.
    with data.open(model.groups) as labelled, threadpool_limits(limits=1):
        train, validation = split(labelled.samples, config.validation_share, config.seed)
        train = train[:: sampling_stride(train, BASELINE_STEPS)]
        for baseline in baselines:
            baseline.fit(train)
            metrics = score(_predicted(baseline, validation), DecisionConfig(), exact_steps=EXACT_STEPS)
            name = f"{PREFIX}.{baseline.name.replace(' ', '_')}"
            found |= {f"{name}.{metric}": value for metric, value in metrics.as_dict().items()}
    return found


def _predicted(baseline: Baseline, samples: Sequence[Sample]) -> Iterator[Prediction]:
    for start in range(0, len(samples), TRACKS_PER_PART):
        yield from predict_with(baseline, samples[start : start + TRACKS_PER_PART])
