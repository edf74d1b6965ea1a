"""Groups of features that are slow to compute, so that only those that a network uses are computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from reentry.schema import COSTLY_GROUPS, FEATURES

ROBUST: Final = "robust"
ORBIT: Final = "orbit"

ALL_GROUPS: Final = frozenset(COSTLY_GROUPS)
WITHOUT_COMPILER: Final = ALL_GROUPS - {ORBIT}
"""Groups that numpy alone computes."""


def groups_of(names: Iterable[str]) -> frozenset[str]:
    """Return the groups that contain one of the named features."""
    chosen = set(names)
    return frozenset(group for group, features in COSTLY_GROUPS.items() if not chosen.isdisjoint(features))


def names_with(groups: frozenset[str]) -> tuple[str, ...]:
    """Return the names of the simple features and of those in the groups, in the order of `schema.FEATURES`."""
    left_out = {name for group in ALL_GROUPS - groups for name in COSTLY_GROUPS[group]}
    return tuple(name for name in FEATURES if name not in left_out)
