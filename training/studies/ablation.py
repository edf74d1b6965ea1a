"""Ablation of the default settings: `python -m training.studies.ablation > docs/ablation.md`.

Every variant differs from the defaults in one setting. It is trained on simulated flights and scored twice: on its
18 validation tracks, and on flights from another simulation seed. There are enough of the latter to distinguish
variants that make no error on the validation tracks.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from reentry.runtime.progress import progress
from reentry.schema import ROBUST_FEATURES, SIMPLE_FEATURES
from reentry.simulation import simulate_file
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample, read_labelled
from training.evaluation.metrics import score
from training.evaluation.predictions import predict
from training.fit.fit import fit

SEEDS: Final = 3
TRAINING_TRACKS: Final = 90
UNSEEN_TRACKS: Final = 300
UNSEEN_SEED: Final = 4242
_FEATURES: Final = (*SIMPLE_FEATURES, *ROBUST_FEATURES)


def variants() -> dict[str, tuple[ModelConfig, TrainConfig]]:
    """Settings of each variant by name, the defaults first."""
    model, train = ModelConfig(), TrainConfig(accelerator="cpu")
    weighted = replace(train, class_weighting=not train.class_weighting)
    widths = ", ".join(f"{width:g}" for width in model.magnified)
    settings = {f"default: {', '.join(model.features)}; magnified: {widths}; hidden {model.hidden}": (model, train)}
    for name in _FEATURES:
        if name in model.features:
            others = tuple(feature for feature in model.features if feature != name)
            settings[f"without {name}"] = replace(model, features=others), train
        else:
            settings[f"with {name}"] = replace(model, features=(*model.features, name)), train
    settings["with all simple and robust features"] = replace(model, features=_FEATURES), train
    for magnified in ((), (0.01,), (0.01, 0.001)):
        widths = ", ".join(f"{width:g}" for width in magnified) or "none"
        settings[f"magnified: {widths}"] = replace(model, magnified=magnified), train
    settings["harmonics: 16"] = replace(model, harmonics=(16,)), train
    for hidden in (32, 64):
        settings[f"hidden {hidden}"] = replace(model, hidden=hidden), train
    settings["dropout 0.2"] = replace(model, dropout=0.2), train
    settings["layer normalisation"] = replace(model, layer_norm=True), train
    settings["class weighting" if weighted.class_weighting else "no class weighting"] = model, weighted
    settings["no weight on the onset"] = model, replace(train, onset_weight=0.0)
    return settings


def run(seeds: int) -> Iterator[str]:
    """Rows of the Markdown table, each as soon as its variant is trained."""
    with tempfile.TemporaryDirectory(prefix="reentry-ablation-") as folder:
        train = _simulated(Path(folder) / "train.csv", TRAINING_TRACKS, 0)
        unseen = _simulated(Path(folder) / "unseen.csv", UNSEEN_TRACKS, UNSEEN_SEED)
    with progress("ablation", len(variants()) * seeds, "trainings") as advance:
        for name, (model, config) in variants().items():
            held_out, unseen_rmse, exact, seconds = [], [], [], []
            for seed in range(seeds):
                started = time.monotonic()
                trained = fit(train, model, replace(config, seed=seed), fingerprint="simulated", show_progress=False)
                seconds.append(time.monotonic() - started)
                checkpoint = trained.checkpoint
                held_out.append(checkpoint.metrics["onset_rmse"])
                figures = score(predict(checkpoint.model, unseen), checkpoint.decision)
                unseen_rmse.append(figures.onset_rmse)
                exact.append(figures.onset_exact)
                advance(1)
            yield (
                f"| {name} | {np.mean(held_out):.3f} / {max(held_out):.3f} "
                f"| {np.mean(unseen_rmse):.3f} / {max(unseen_rmse):.3f} "
                f"| {np.mean(exact):.1%} / {min(exact):.1%} | {np.mean(seconds):.0f} |"
            )


def _simulated(path: Path, tracks: int, seed: int) -> Sequence[Sample]:
    simulate_file(path, tracks=tracks, seed=seed)
    return read_labelled(path)


def main() -> None:
    """Print the report. The first command-line argument is the number of seeds."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    print(
        f"""# Ablation

`python -m training.studies.ablation {seeds}`: {TRAINING_TRACKS} simulated flights, {seeds} seeds of split and
weights, 80/20 by track; onset RMSE in s, mean / worst over the seeds, on the tracks held out
and on {UNSEEN_TRACKS} flights of another simulation seed. Seconds are the time of one training on one thread.

| variant | held out, RMSE | unseen, RMSE | unseen, exact step | seconds |
| --- | ---: | ---: | ---: | ---: |""",
        flush=True,
    )
    for row in run(seeds):
        print(row, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows the progress
    main()
