"""Groups of costly features."""

from __future__ import annotations

import pytest

from reentry.features.groups import ALL_GROUPS, WITHOUT_COMPILER, groups_of, names_with
from reentry.schema import COSTLY_GROUPS, FEATURES, ORBIT_FEATURES, ROBUST_FEATURES, SIMPLE_FEATURES


def test_every_feature_is_simple_or_in_one_group_whose_columns_are_neighbours() -> None:
    assert (*SIMPLE_FEATURES, *(name for names in COSTLY_GROUPS.values() for name in names)) == FEATURES
    assert len(set(FEATURES)) == len(FEATURES)


def test_the_groups_of_features_are_those_that_contain_one_of_them() -> None:
    assert groups_of(SIMPLE_FEATURES) == frozenset()
    assert groups_of(["altitude", "drag_long"]) == {"robust"}
    assert groups_of(["orbit_known"]) == {"orbit"}
    assert groups_of(FEATURES) == ALL_GROUPS == {"robust", "orbit"}
    assert {"robust"} == WITHOUT_COMPILER


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ((), SIMPLE_FEATURES),
        (("robust",), (*SIMPLE_FEATURES, *ROBUST_FEATURES)),
        (("orbit",), (*SIMPLE_FEATURES, *ORBIT_FEATURES)),
        (("robust", "orbit"), FEATURES),
    ],
)
def test_names_are_those_of_the_simple_features_and_of_the_groups(
    groups: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert names_with(frozenset(groups)) == names
