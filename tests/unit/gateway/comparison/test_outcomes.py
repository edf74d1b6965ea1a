"""True onsets: idempotent per track, in their account alone."""

from __future__ import annotations

import pytest

from tests.unit.gateway.comparison.conftest import Api


def test_a_repetition_changes_nothing_and_the_last_value_counts(api: Api) -> None:
    body = {"outcomes": [{"track_id": 7, "onset_timestamp": 100.5}, {"track_id": -8, "onset_timestamp": None}]}
    assert api.send("POST", "/v1/outcomes", body) == {"created": 2, "changed": 0, "unchanged": 0, "faults": []}
    assert api.send("POST", "/v1/outcomes", body) == {"created": 0, "changed": 0, "unchanged": 2, "faults": []}
    body["outcomes"][1]["onset_timestamp"] = 50.0
    assert api.send("POST", "/api/v1/outcomes", body) == {"created": 0, "changed": 1, "unchanged": 1, "faults": []}
    listed = api.send("GET", "/v1/outcomes")["outcomes"]
    assert {row["track_id"]: row["onset_timestamp"] for row in listed} == {7: 100.5, -8: 50.0}
    other = api.account("two")
    assert other.send("GET", "/v1/outcomes") == {"outcomes": [], "next": None}
    assert other.send("POST", "/v1/outcomes", body)["created"] == 2


def test_an_answer_names_its_track_in_its_account_alone(api: Api) -> None:
    (answer,) = api.log([{"track_id": 12}])
    outcomes = [{"answer_id": answer, "onset_timestamp": 9.0}, {"answer_id": "ans_0", "onset_timestamp": 9.0}]
    stored = api.send("POST", "/v1/outcomes", {"outcomes": outcomes})
    assert stored["created"] == 1
    assert [(fault["where"], fault["got"]) for fault in stored["faults"]] == [("outcomes.1.answer_id", "ans_0")]
    assert [row["track_id"] for row in api.send("GET", "/v1/outcomes")["outcomes"]] == [12]
    other = api.account("two").send("POST", "/v1/outcomes", {"outcomes": outcomes[:1]})
    assert (other["created"], len(other["faults"])) == (0, 1)


def test_pages_list_every_outcome_once(api: Api) -> None:
    outcomes = [{"track_id": track, "onset_timestamp": float(track)} for track in range(1_203)]
    assert api.send("POST", "/v1/outcomes", {"outcomes": outcomes})["created"] == 1_203
    seen, cursor = [], ""
    while cursor is not None:
        page = api.send("GET", f"/v1/outcomes?limit=500{cursor}")
        seen += [row["track_id"] for row in page["outcomes"]]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert sorted(seen) == list(range(1_203))


@pytest.mark.parametrize(
    "outcome",
    [
        {"track_id": 1},
        {"onset_timestamp": 1.0},
        {"track_id": 1, "answer_id": "ans_1", "onset_timestamp": 1.0},
        {"track_id": 2**63, "onset_timestamp": 1.0},
        {"track_id": 1, "onset_timestamp": -1.0},
        {"track_id": 1, "onset_timestamp": 1e12},
        {"answer_id": "a\x00b", "onset_timestamp": 1.0},
        {"track_id": 1, "onset_timestamp": 1.0, "other": 1},
    ],
)
@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_an_invalid_outcome_is_refused_with_its_place(api: Api, outcome: dict[str, object]) -> None:
    good = {"track_id": 5, "onset_timestamp": 1.0}
    problem = api.send("POST", "/v1/outcomes", {"outcomes": [good, outcome]}, status=422)
    assert problem["code"] == "invalid-value"
    assert {fault["where"].rpartition("outcomes.")[2][0] for fault in problem["faults"]} == {"1"}
    assert api.send("GET", "/v1/outcomes")["outcomes"] == []
