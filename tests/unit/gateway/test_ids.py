"""Ids sort by time, and are written in Crockford's base 32."""

from __future__ import annotations

import re

from gateway import ids


def test_an_id_has_26_letters_that_hold_its_number() -> None:
    assert ids._text(0, 26) == "0" * 26
    assert ids._text(31, 26) == "0" * 25 + "z"
    assert ids._text(2**128 - 1, 26) == "7" + "z" * 25
    assert ids._text(18 << 5 | 19, 4) == "00jk"


def test_ids_are_different_and_sort_by_time() -> None:
    made = [ids.new_id("job") for _ in range(100)]
    assert len(set(made)) == 100
    assert all(re.fullmatch(r"job_[0-9a-hjkmnp-tv-z]{26}", each) for each in made)
    assert ids.first_id("job", 1.7e9) < ids.first_id("job", 1.7e9 + 0.001) < made[0]


def test_a_derived_id_has_the_time_of_its_parent() -> None:
    parent = ids.new_id("job")
    derived = ids.derived_id("whk", parent, "job.completed")
    assert derived == ids.derived_id("whk", parent, "job.completed") != ids.derived_id("whk", parent, "job.failed")
    assert derived.partition("_")[2][:10] == parent.partition("_")[2][:10]
    assert len(derived) == 30
