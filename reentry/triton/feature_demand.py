"""Robust features: which versions of the network look at them, and how a request says that they were not computed.

Robust features take time, and mostly no installed version looks at one. A version says so in its drift reference; a
version without a reference might look at any feature. Features that were not computed are NaN, never 0, so that the
step after the network sees it and can refuse an answer that was made of them.

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
"""Age at which what the folder said is read again: some network file systems never change a folder's time."""

_ROBUST: Final = slice(len(SIMPLE_FEATURES), None)
"""Columns of the robust features, which follow the simple ones."""


class RobustWanted:
    """Whether any version beside a running server looks at one of `schema.ROBUST_FEATURES`.

    A version counts from its installation on, which is before Triton has loaded it, so that its first request finds
    the features computed.
    """

    def __init__(self, network: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch the folder of reentry_lstm. Where there is none, as of models in a bucket, they are always wanted."""
        self._network = network
        self._clock = clock
        self._changed: int | None = None
        self._read_at = -np.inf
        self._wanted = True

    def __call__(self) -> bool:
        """Whether they are wanted now; reads the versions again when one has come or gone, or after a while."""
        now = self._clock()
        try:
            changed = self._network.stat().st_mtime_ns
            if changed != self._changed or now - self._read_at >= RECHECK_SECONDS:
                versions = [path for path in self._network.iterdir() if path.is_dir() and path.name.isdecimal()]
                self._wanted = not versions or any(map(_looks_at_robust, versions))
                self._changed, self._read_at = changed, now
        except OSError:
            self._wanted, self._changed = True, None
        return self._wanted


class NotComputedError(Exception):
    """A network that looks at robust features answered a request in which they were not computed."""


class RobustUse:
    """Whether one version of the network looks at one of `schema.ROBUST_FEATURES`."""

    def __init__(self, network: Path) -> None:
        """Take the folder of reentry_lstm."""
        self._network = network
        self._known: dict[int, tuple[tuple[int, int], bool]] = {}

    def __call__(self, version: int) -> bool:
        """Read the version's reference, again only when the file is another; True where nothing is known.

        A server may still run a version whose folder is deleted. What was known of it stays true.
        """
        folder = self._network / str(version)
        try:
            found = (folder / REFERENCE_FILE).stat()
        except OSError:
            return folder.is_dir() or self._known.get(version, (None, True))[1]
        state = found.st_ino, found.st_mtime_ns
        if self._known.get(version, (None, True))[0] != state:
            self._known[version] = state, _looks_at_robust(folder)
        return self._known[version][1]

    def require_computed(self, features: npt.NDArray[np.float32], version: int) -> None:
        """Refuse features (B, K, F) whose robust ones were not computed, where `version` looks at one.

        Raises:
            NotComputedError: the version became the first to look at them while the request was on its way. The same
                request is answered a moment later.
        """
        # Those of a request are computed or not as a whole, so its first step tells.
        if np.isnan(features[:, 0, _ROBUST]).any() and self(version):
            raise NotComputedError(
                f"version {version} of the network looks at features that were not computed for this request, "
                "since it was loaded a moment ago; fix: send the request again"
            )


def mark_not_computed(features: npt.NDArray[np.float32]) -> None:
    """Write NaN into the robust features of (B, K, F)."""
    features[..., _ROBUST] = np.nan


def _looks_at_robust(version: Path) -> bool:
    try:
        reference = Reference.load(version)
    except CheckpointError:
        return True
    return reference is None or any(reference.features[name].used for name in ROBUST_FEATURES)
