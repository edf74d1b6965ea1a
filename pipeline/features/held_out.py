"""Tracks that no training on the lake uses, so that the gate can score every model on them.

A track is held out by its id alone, in every version of every table. The validation split of a training is not enough
for a comparison: it is another one for each seed and each version of the table, and the weights were chosen on it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from training.data.identity import splitmix64

SHARE: Final = 0.2
"""Share of the tracks that are held out. With another value, old models would be scored on their training tracks."""

_LIMIT: Final = np.uint64(SHARE * 2**64)


def is_held_out(track_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether each track is held out; both arrays have the shape (N,)."""
    return splitmix64(track_ids.astype(np.int64).view(np.uint64)) < _LIMIT
