"""The table of the transitions is complete, and its drawing in the documentation agrees with it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from gateway.jobs.states import ACTIVE, ENDED, PATH, TRANSITIONS, JobState, before


def test_every_state_has_transitions_and_every_state_but_the_first_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state in JobState if not before(state)} == {JobState.VALIDATING}
    assert {JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED} == ENDED
    assert set(JobState) == ENDED | ACTIVE


def test_the_path_of_a_worker_follows_the_transitions() -> None:
    assert all(following in TRANSITIONS[state] for state, following in pairwise(PATH))
    assert JobState.COMPLETED in TRANSITIONS[PATH[-1]]


def test_the_drawing_in_the_documentation_has_exactly_the_transitions() -> None:
    page = (Path(__file__).parents[4] / "docs" / "jobs.md").read_text()
    drawn = {(before_, after) for before_, after in re.findall(r"^    (\w+) --> (\w+)", page, re.MULTILINE)}
    assert drawn == {(str(state), str(each)) for state, following in TRANSITIONS.items() for each in following}
