"""Decides which costly groups of features a server must compute, and marks features that were not computed.

Features of a group are slow to compute, and often no installed version of the network uses one. The drift reference of
a version lists the features that it uses; a version without a reference may use all of them. Features that were not
computed are NaN, never 0, so that `track_decision` and `reentry_scan` can reject a prediction that was made from them.

Shapes: B tracks, K steps, F features.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.drift import REFERENCE_FILE, Reference
from reentry.errors import CheckpointError
from reentry.features import orbit
from reentry.features.groups import ALL_GROUPS, ORBIT, WITHOUT_COMPILER, groups_of
from reentry.schema import COSTLY_GROUPS, FEATURES

RECHECK_SECONDS: Final = 1.0
"""Time after which the versions are read again, since some network file systems do not update folder times."""

_COLUMNS: Final = {
    group: slice(FEATURES.index(names[0]), FEATURES.index(names[-1]) + 1) for group, names in COSTLY_GROUPS.items()
}
"""Columns of each group, which are neighbours."""


class FeatureDemand:
    """Finds the groups of `schema.COSTLY_GROUPS` of which any installed version of the network uses a feature.

    A version counts from its installation, before Triton loads it, so that the features are already computed for its
    first request. Groups that this machine cannot compute are left out.
    """

    def __init__(self, network: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read versions from the folder of reentry_lstm. If it does not exist, all groups are computed."""
        self._network = network
        self._clock = clock
        self._modified: int | None = None
        self._read_at = -np.inf
        self._groups: frozenset[str] = frozenset()
        self._called = False
        self._compiling: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self) -> frozenset[str]:
        """Return the groups to compute; reads the versions again if the folder has changed.

        The orbit filter is compiled when it is first needed. The first call waits for this. Later calls let a thread do
        it and leave the group out until it is ready, because requests are waiting.
        """
        with self._lock:
            first, self._called = not self._called, True
            groups = self._demanded()
            return groups if ORBIT not in groups or self._is_compiled(wait=first) else groups - {ORBIT}

    def _demanded(self) -> frozenset[str]:
        """Return the groups that an installed version uses and that this machine can compute."""
        now = self._clock()
        try:
            modified = self._network.stat().st_mtime_ns
            if modified != self._modified or now - self._read_at >= RECHECK_SECONDS:
                versions = [path for path in self._network.iterdir() if path.is_dir() and path.name.isdecimal()]
                used = frozenset().union(*map(_used_groups, versions)) if versions else ALL_GROUPS
                self._groups, self._modified, self._read_at = used & _computable(), modified, now
        except OSError:
            self._groups, self._modified = _computable(), None
        return self._groups

    def _is_compiled(self, *, wait: bool) -> bool:
        """Return whether the orbit filter is compiled; the first call of this method begins to compile it."""
        if self._compiling is None:
            self._compiling = threading.Thread(target=orbit.warm_up, name="orbit filter", daemon=True)
            if wait:
                self._compiling.run()  # here, so that an error is that of the caller
            else:
                self._compiling.start()
        return not self._compiling.is_alive()


class NotComputedError(Exception):
    """A network made a prediction from a request in which features that it uses were not computed."""


class FeatureUse:
    """Finds the groups of `schema.COSTLY_GROUPS` of which a version of the network uses a feature."""

    def __init__(self, network: Path) -> None:
        """Read versions from the folder of reentry_lstm."""
        self._network = network
        self._known: dict[int, tuple[tuple[int, int], frozenset[str]]] = {}

    def __call__(self, version: int) -> frozenset[str]:
        """Return the groups that a version uses, or all that can be computed if they are unknown.

        A changed reference is read again. The result for a deleted version is kept, since the server may still run it.
        """
        folder = self._network / str(version)
        known = self._known.get(version)
        try:
            status = (folder / REFERENCE_FILE).stat()
        except OSError:
            return _computable() if known is None or folder.is_dir() else known[1]
        key = status.st_ino, status.st_mtime_ns
        if known is None or known[0] != key:
            known = self._known[version] = key, _used_groups(folder)
        return known[1]

    def require_computed(self, features: npt.NDArray[np.float32], version: int) -> None:
        """Reject features (B, K, F) without a group that `version` uses.

        Raises:
            NotComputedError: the version is the first one to use the group and was loaded during the request, or while
                the orbit filter is compiled, so that the same request succeeds later; or this machine cannot compute
                the group.
        """
        # The features of a group are all computed or all missing in a request, so checking its first step suffices.
        missing = {group for group, columns in _COLUMNS.items() if np.isnan(features[:, :1, columns]).any()}
        if not missing or not missing & self(version):
            return
        if missing & self(version) <= _computable():
            raise NotComputedError(
                f"version {version} of the network uses features that were not computed for this request, because it "
                "was installed a few seconds ago; fix: send the request again"
            )
        raise NotComputedError(
            f"version {version} of the network uses orbit features, which this server cannot compute; expected: the "
            f"package {orbit.COMPILER} in the server's Python; got: it is not installed; fix: install it, or promote a "
            "version without orbit features"
        )


def mark_not_computed(features: npt.NDArray[np.float32], groups: frozenset[str]) -> None:
    """Set the features (B, K, F) of all groups but the given ones to NaN in place."""
    for group in ALL_GROUPS - groups:
        features[..., _COLUMNS[group]] = np.nan


def _computable() -> frozenset[str]:
    """Return the groups that this machine can compute."""
    return ALL_GROUPS if orbit.is_available() else WITHOUT_COMPILER


def _used_groups(version: Path) -> frozenset[str]:
    """Return the groups that a version uses, or all that can be computed if they are unknown."""
    try:
        reference = Reference.load(version)
    except CheckpointError:
        reference = None
    if reference is None:
        return _computable()
    return groups_of(name for name, feature in reference.features.items() if feature.used)
