"""Check that a server gives the answers of the served graph, before it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perf.peers.apps.track_bytes import Array
from perf.scoring import TOLERANCE
from reentry.errors import ClientError
from reentry.schema import ONSET_STEP, PROBABILITY, REENTRY_TRACK

_NAMES: Final = tuple(tensor.name for tensor in REENTRY_TRACK.outputs)


def require_agreement(expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    """Compare the answers for one track: probabilities within `perf.scoring.TOLERANCE`, every other output exactly.

    Raises:
        ClientError: an output is missing, has another shape, or differs. Probabilities that are NaN differ.
    """
    for name in _NAMES:
        if name not in got:
            raise ClientError(f"the answer has no {name}", got=", ".join(got) or "nothing")
        if got[name].shape != expected[name].shape:
            raise ClientError(f"{name} has another shape", expected=str(expected[name].shape), got=str(got[name].shape))
    difference = float(np.abs(got[PROBABILITY.name] - expected[PROBABILITY.name]).max())
    if not difference <= TOLERANCE:
        raise ClientError(
            "the probabilities differ from those of the graph", expected=f"at most {TOLERANCE:g}", got=f"{difference:g}"
        )
    for name in (ONSET_STEP.name, *(name for name in _NAMES if name not in (PROBABILITY.name, ONSET_STEP.name))):
        if not np.array_equal(got[name], expected[name]):
            raise ClientError(
                f"{name} differs from that of the graph",
                expected=str(expected[name].ravel()),
                got=str(got[name].ravel()),
            )
