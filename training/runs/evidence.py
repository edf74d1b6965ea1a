"""The model card of a fresh training, with its figures by kind of flight and its plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reentry.runtime.files import whole_file
from reentry.simulation.trapezoid import LABEL_RULES, onset_rows
from reentry.tracks import ReadReport, origin_of
from training.data.samples import Counts
from training.evaluation.groups import by_group
from training.evaluation.metrics import reliability
from training.evaluation.plots import errors_figure, reliability_figure
from training.fit.fit import Trained, predict
from training.runs.card import CARD_NAME, ERRORS_NAME, RELIABILITY_NAME, Evidence, markdown


def write_card(out: Path, trained: Trained, read: ReadReport) -> None:
    """Write the card and its two plots into `out`.

    Args:
        out: folder of the checkpoint.
        trained: what came of the training.
        read: of the file it was trained on.
    """
    checkpoint = trained.checkpoint
    predictions = predict(checkpoint.model, trained.validation)
    said = origin_of(read.path)
    # A file put together of several may keep the word of one of them.
    in_file = read.tracks + sum(of.track_id is not None for of in read.set_aside)
    origin = said if said is None or said.get("tracks", in_file) == in_file else None
    evidence = Evidence(
        data=read.path,
        origin=origin,
        origin_of_others=origin != said,
        rows=read.rows,
        train_tracks=len(trained.train),
        set_aside=len(read.set_aside),
        label_rules=_label_rules(Counts.of(trained.train), Counts.of(trained.validation)),
        groups=by_group(predictions, checkpoint.decision, origin),
        reliability=reliability(predictions),
    )
    held_out = "held out"
    figures = {
        ERRORS_NAME: errors_figure({held_out: predictions}, checkpoint.decision, f"seed {checkpoint.seed}"),
        RELIABILITY_NAME: reliability_figure({held_out: evidence.reliability}),
    }
    for name, figure in figures.items():
        with whole_file(out / name) as part:
            figure.savefig(part, format="png")
    with whole_file(out / CARD_NAME) as part:
        part.write_text(markdown(checkpoint, evidence), encoding="utf-8")


def _label_rules(*splits: Counts) -> dict[str, int]:
    """Number of tracks whose labels follow each rule of the public data; empty where no rule fits all of them."""
    steps = np.concatenate([split.steps for split in splits])
    onset = steps - np.concatenate([split.reentry for split in splits])
    found = {rule: int((onset == onset_rows(steps, rule)).sum()) for rule in LABEL_RULES}
    return found if max(found.values()) == len(steps) else {}
