"""FastAPI with PyTorch: features by numpy, network by PyTorch, decision by numpy, all from the code of the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI, Request, Response

from perf.peers.apps.settings import CHECKPOINT, MODEL
from perf.peers.apps.track_bytes import MEDIA_TYPE, Array, pack_answer, unpack_measurements
from reentry.decision import decide_tracks
from reentry.features.track import track_features
from reentry.schema import (
    MEASUREMENT_COLUMNS,
    MODEL_VERSION,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    TIMESTAMP,
)
from training.checkpoint import load_checkpoint

torch.set_num_threads(1)
app = FastAPI()
network = load_checkpoint(Path(os.environ[CHECKPOINT])).model
groups = network.config.groups
version = int(Path(os.environ[MODEL]).parent.name)
time_column = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)


@app.post("/binary")
async def score_binary(request: Request) -> Response:
    """Score the measurements of one track, as in `track_bytes`."""
    return Response(pack_answer(_run(unpack_measurements(await request.body()))), media_type=MEDIA_TYPE)


def _run(measurements: Array) -> dict[str, Array]:
    features = track_features(measurements, groups=groups)
    with torch.inference_mode():
        logits, _ = network(torch.from_numpy(features))
        probability = torch.sigmoid(logits).numpy()
    length = np.array([measurements.shape[1]])
    phase, step, timestamp = decide_tracks(probability, measurements[:, :, time_column], length)
    return {
        PROBABILITY.name: probability,
        PHASE.name: phase,
        ONSET_STEP.name: step[:, None],
        ONSET_TIMESTAMP.name: timestamp[:, None],
        MODEL_VERSION.name: np.array([[version]]),
    }
