"""Comparison of the probabilities of live tracks with those of the whole tracks, from a model of the same server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from client.connection import Array, Connection, Endpoint
from perf.stream.traffic import Traffic
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, MEASUREMENTS, PROBABILITY, REENTRY_TRACK, TRACK_ID_TENSOR, TRACK_LENGTH

TOLERANCE: Final = 1e-5
"""Largest allowed difference in probability."""

_LONGEST: Final = 2_000
"""Largest number of steps of a track that is compared."""
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Result of the comparison."""

    model: str | None
    """Model that scored the whole tracks; None if the server has none."""
    tracks: int = 0
    measurements: int = 0
    """Number of compared measurements of all compared tracks."""
    largest: float = 0.0
    """Largest difference in probability."""

    @property
    def failed(self) -> bool:
        """Whether a difference is too large."""
        return not self.largest <= TOLERANCE


def compare(address: str, traffic: Traffic, samples: Mapping[int, Sequence[float]]) -> Agreement:
    """Compare the probabilities of some live tracks with those of the whole tracks.

    Args:
        address: gRPC address of the server as host:port.
        traffic: the requests that were sent.
        samples: probabilities by track, from its first measurement on.

    Raises:
        ClientError: the server is unreachable, or refuses a whole track.
    """
    return asyncio.run(_compared(Endpoint(scheme="grpc", address=address), traffic, samples))


async def _compared(endpoint: Endpoint, traffic: Traffic, samples: Mapping[int, Sequence[float]]) -> Agreement:
    async with Connection(endpoint, timeout=_TIMEOUT) as connection:
        for model in (REENTRY_TRACK, ENSEMBLE):
            try:
                names = await connection.input_names(model.name)
                break
            except ClientError:  # the server does not serve it
                continue
        else:
            return Agreement(model=None)
        differences = [np.zeros(0)]
        for track, probabilities in samples.items():
            live = np.array(probabilities[:_LONGEST])
            inputs: dict[str, Array] = {
                TRACK_ID_TENSOR.name: np.array([[track]], np.int64),
                TRACK_LENGTH.name: np.array([[len(live)]], np.int32),
                MEASUREMENTS.name: traffic.track(track, len(live))[None],
            }
            whole = await connection.infer(model, {name: inputs[name] for name in names})
            differences.append(np.abs(whole[PROBABILITY.name][0] - live))
    joined = np.concatenate(differences)
    return Agreement(model=model.name, tracks=len(samples), measurements=len(joined), largest=float(joined.max()))
