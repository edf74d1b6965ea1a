"""Which features the installed versions of the network ask for: the robust ones take time, and mostly none does.

A version says so in its reference of drift. One that has none might look at anything.
"""

from __future__ import annotations

from pathlib import Path

from reentry.errors import CheckpointError
from reentry.monitoring import Reference
from reentry.schema import ROBUST_FEATURES


class RobustWanted:
    """Whether any version beside a running server looks at one of `schema.ROBUST_FEATURES`.

    A version counts from its installation on, which is before Triton has loaded it, so that its first request finds
    the features computed.
    """

    def __init__(self, network: Path) -> None:
        """Watch the folder of reentry_lstm. Where there is none, as of models in a bucket, they are always wanted."""
        self._network = network
        self._changed: int | None = None
        self._wanted = True

    def __call__(self) -> bool:
        """Whether they are wanted now; reads the versions again only when one has come or gone."""
        try:
            changed = self._network.stat().st_mtime_ns
            if changed != self._changed:
                versions = [path for path in self._network.iterdir() if path.is_dir() and path.name.isdecimal()]
                self._wanted = not versions or any(map(_looks_at_robust, versions))
                self._changed = changed
        except OSError:
            self._wanted, self._changed = True, None
        return self._wanted


def _looks_at_robust(version: Path) -> bool:
    try:
        reference = Reference.load(version)
    except CheckpointError:
        return True
    return reference is None or any(reference.features[name].used for name in ROBUST_FEATURES)
