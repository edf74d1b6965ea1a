"""Stream, scan, whole track and PyTorch give the same numbers at every step, whatever else a feed contains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch

from export.scan_graph import scan_graph
from reentry.features.track import track_features
from reentry.schema import SCAN_STEP
from reentry.triton.live_feed import LiveFeed
from tests.unit.export.test_stream_graph import column, distinct, stream
from tests.unit.export.test_track_graph import VERSION, ballistic, default, every_feature, run, trapezoids
from training.checkpoint import Checkpoint


@cache
def scan_step(make: Callable[[], Checkpoint]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(scan_graph(make(), VERSION).SerializeToString(), options)


def scanned(make: Callable[[], Checkpoint], feed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each row of a feed of one track, and whether the row was accepted, from scans of several rows."""

    def network(features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        names = [tensor.name for tensor in SCAN_STEP.outputs]
        inputs = dict(zip((tensor.name for tensor in SCAN_STEP.inputs), (features, state), strict=True))
        probability, after, version = scan_step(make).run(names, inputs)
        return probability, after, int(version[0, 0])

    tracks = LiveFeed(network, groups=make().model_config.groups, idle=60.0)
    answers = [tracks.scan(np.full(len(rows), 1), rows) for rows in np.array_split(feed, 1 + len(feed) // 7)]
    return tuple(np.concatenate([getattr(a, name) for a in answers]) for name in ("reentry_probability", "accepted"))


def disturbed(flight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A feed with gaps, repeats, late and invalid rows in the flight, and which of its rows are those of the flight."""
    rng = np.random.default_rng(4)
    feed: list[np.ndarray] = []
    own: list[bool] = []
    for number, row in enumerate(flight):
        feed.append(row)
        own.append(True)
        if rng.random() < 0.1:
            recent = flight[max(0, number - 4) : number + 1]
            same_time = recent[recent[:, 0] == row[0]]
            other = rng.choice(["repeated", "late", "invalid"])
            if other == "repeated":
                feed.append(same_time[rng.integers(len(same_time))])
            elif other == "late":
                feed.append(flight[0] - [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
            else:
                feed.append(np.where(np.arange(6) == rng.integers(6), np.nan, row))
            own.append(False)
    return np.array(feed), np.array(own)


@pytest.mark.parametrize("make", [every_feature, default])
@pytest.mark.parametrize("severity", [0, 1, 2, 3, None])
def test_stream_scan_whole_track_and_pytorch_agree(make: Callable[[], Checkpoint], severity: int | None) -> None:
    flight = distinct(trapezoids()[1] if severity is None else ballistic(severity)[1])
    keep = np.ones(len(flight), bool)
    keep[len(flight) // 3 : len(flight) // 3 + 15] = False  # a gap
    flight = flight[keep]
    feed, own = disturbed(flight)
    with torch.no_grad():
        expected = torch.sigmoid(make().model(torch.from_numpy(track_features(flight[None])))[0])[0].numpy()
    answers = stream(make, feed)
    by_scan, accepted = scanned(make, feed)
    np.testing.assert_array_equal(accepted == 1, own)
    np.testing.assert_array_equal(column(answers, "accepted") == 1, own)
    whole = run(make, flight[None])[0][0]
    for got in (whole, column(answers, "reentry_probability")[own], by_scan[own]):
        np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-5)
