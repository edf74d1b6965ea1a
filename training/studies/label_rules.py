"""Share of exact onsets under each label rule: `python -m training.studies.label_rules [SEEDS]`.

For each rule and seed, the default network is trained on 90 simulated flights and scored on 1,000 others.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from reentry.runtime.progress import progress
from reentry.simulation import simulate_file
from reentry.simulation.trapezoid import LABEL_RULES
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample, read_labelled
from training.evaluation.metrics import score
from training.evaluation.predictions import predict
from training.fit.fit import fit

SEEDS: Final = 5
TRAINING_TRACKS: Final = 90
TRAINING_SEED: Final = 1
UNSEEN_TRACKS: Final = 1000
UNSEEN_SEED: Final = 90210


def run(seeds: int, model: ModelConfig, config: TrainConfig) -> Iterator[str]:
    """Rows of the Markdown table, each as soon as its network is trained."""
    with progress("label rules", len(LABEL_RULES) * seeds, "trainings") as advance:
        for rule in LABEL_RULES:
            training = _simulated(rule, TRAINING_TRACKS, TRAINING_SEED)
            unseen = _simulated(rule, UNSEEN_TRACKS, UNSEEN_SEED)
            for seed in range(seeds):
                trained = fit(training, model, replace(config, seed=seed), fingerprint="simulated", show_progress=False)
                checkpoint = trained.checkpoint
                figures = score(predict(checkpoint.model, unseen), checkpoint.decision)
                yield (
                    f"| {rule} | {seed} | {checkpoint.metrics['onset_rmse']:.3f} | {figures.onset_rmse:.3f} "
                    f"| {figures.onset_worst:.1f} | {figures.onset_exact:.2%} |"
                )
                advance(1)


def _simulated(rule: str, tracks: int, seed: int) -> Sequence[Sample]:
    with tempfile.TemporaryDirectory(prefix="reentry-label-rules-") as folder:
        settings, path = Path(folder) / "settings.toml", Path(folder) / "tracks.parquet"
        settings.write_text(f'[trapezoid]\nlabel_rule = "{rule}"\n', encoding="utf-8")
        simulate_file(path, tracks=tracks, seed=seed, config=settings)
        return read_labelled(path, groups=ModelConfig().groups)


def main() -> None:
    """Print the table. The first command-line argument is the number of seeds."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    print("| rule | seed | held out, onset RMSE, s | unseen, onset RMSE, s | worst, s | exact step |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for row in run(seeds, ModelConfig(), TrainConfig(accelerator="cpu")):
        print(row, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows the progress
    main()
