"""Decides whether a server must compute the robust features, and marks features that were not computed.

Robust features are slow to compute, and often no installed version of the network uses one. The drift reference of a
version lists the features that it uses; a version without a reference may use all of them. Features that were not
computed are NaN, never 0, so that `track_decision` can reject a prediction that was made from them.

Shapes: B tracks, K steps, F features.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.drift import REFERENCE_FILE, Reference
from reentry.errors import CheckpointError
from reentry.schema import ROBUST_FEATURES, SIMPLE_FEATURES

RECHECK_SECONDS: Final = 1.0
"""Time after which the versions are read again, since some network file systems do not update folder times."""

_ROBUST: Final = slice(len(SIMPLE_FEATURES), None)
"""Columns of the robust features, which follow the simple ones."""


class RobustDemand:
    """Checks whether any installed version of the network uses one of `schema.ROBUST_FEATURES`.

    A version counts from its installation, before Triton loads it, so that the features are already computed for its
    first request.
    """

    def __init__(self, network: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read versions from the folder of reentry_lstm. If it does not exist, all features are computed."""
        self._network = network
        self._clock = clock
        self._modified: int | None = None
        self._read_at = -np.inf
        self._used = True

    def __call__(self) -> bool:
        """Return whether to compute the robust features; reads the versions again if the folder has changed."""
        now = self._clock()
        try:
            modified = self._network.stat().st_mtime_ns
            if modified != self._modified or now - self._read_at >= RECHECK_SECONDS:
                versions = [path for path in self._network.iterdir() if path.is_dir() and path.name.isdecimal()]
                self._used = not versions or any(map(_uses_robust, versions))
                self._modified, self._read_at = modified, now
        except OSError:
            self._used, self._modified = True, None
        return self._used


class NotComputedError(Exception):
    """A network that uses robust features made a prediction from a request in which they were not computed."""


class RobustUse:
    """Checks whether a version of the network uses one of `schema.ROBUST_FEATURES`."""

    def __init__(self, network: Path) -> None:
        """Read versions from the folder of reentry_lstm."""
        self._network = network
        self._known: dict[int, tuple[tuple[int, int], bool]] = {}

    def __call__(self, version: int) -> bool:
        """Return whether a version uses a robust feature, or True if that is unknown; reads changed references again.

        The result for a deleted version is kept, since the server may still run it.
        """
        folder = self._network / str(version)
        try:
            status = (folder / REFERENCE_FILE).stat()
        except OSError:
            return folder.is_dir() or self._known.get(version, (None, True))[1]
        key = status.st_ino, status.st_mtime_ns
        if self._known.get(version, (None, True))[0] != key:
            self._known[version] = key, _uses_robust(folder)
        return self._known[version][1]

    def require_computed(self, features: npt.NDArray[np.float32], version: int) -> None:
        """Reject features (B, K, F) without robust features if `version` uses one.

        Raises:
            NotComputedError: the version is the first one to use robust features and was loaded during the request.
                The same request succeeds a moment later.
        """
        # The robust features of a request are all computed or all missing, so checking its first step suffices.
        if np.isnan(features[:, 0, _ROBUST]).any() and self(version):
            raise NotComputedError(
                f"version {version} of the network uses features that were not computed for this request, because it "
                "was loaded during the request; fix: send the request again"
            )


def mark_not_computed(features: npt.NDArray[np.float32]) -> None:
    """Set the robust features of (B, K, F) to NaN in place."""
    features[..., _ROBUST] = np.nan


def _uses_robust(version: Path) -> bool:
    try:
        reference = Reference.load(version)
    except CheckpointError:
        return True
    return reference is None or any(reference.features[name].used for name in ROBUST_FEATURES)
