"""Experiments: their routes, the assignment of tracks in memory, and their reports, over both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from gateway.accounts.principal import Scope
from gateway.comparison import experiments
from gateway.comparison.assignment import Mode, Target, Variant, position
from gateway.comparison.experiments import Experiments
from gateway.ids import first_id, new_id
from tests.gateway_servers import wait_until
from tests.unit.gateway.comparison.conftest import Api

SHADOW = {"name": "first", "mode": "shadow", "challenger": {"model": "reentry_candidate"}, "share": 0.25}
AB = {"name": "second", "mode": "ab", "challenger": {"model": "reentry_candidate"}, "share": 0.3}


def variants(api: Api, tracks: int = 2_000) -> list[Variant | None]:
    found = [api.services.experiments.variant_of(api.account_id, track) for track in range(tracks)]
    return [None if each is None else each.variant for each in found]


def test_an_ab_experiment_divides_the_tracks_until_it_ends(api: Api) -> None:
    other = api.account("two")
    assert variants(api) == [None] * 2_000
    created = api.send("POST", "/v1/experiments", AB, status=201)
    assert (created["state"], created["control"]) == ("running", {"model": "reentry", "server": "main"})
    chosen = variants(api)
    assert abs(chosen.count(Variant.CHALLENGER) / 2_000 - 0.3) < 0.05
    assert chosen.count(None) == 0
    assert variants(api) == chosen
    assert variants(other) == [None] * 2_000
    index = chosen.index(Variant.CHALLENGER)
    assignment = api.services.experiments.variant_of(api.account_id, index)
    assert assignment is not None
    assert (assignment.experiment_id, assignment.target) == (created["id"], Target(model="reentry_candidate"))
    assert assignment.shadow is None
    ended = api.send("PATCH", f"/v1/experiments/{created['id']}", {"state": "ended"})
    assert ended["state"] == "ended"
    assert ended["ended_at"] > ended["created_at"]
    assert variants(api) == [None] * 2_000
    assert api.send("PATCH", f"/v1/experiments/{created['id']}", {"state": "ended"}) == ended


def test_a_shadow_experiment_answers_with_the_control_and_leaves_other_tracks_out(api: Api) -> None:
    api.send("POST", "/v1/experiments", SHADOW, status=201)
    found = [api.services.experiments.variant_of(api.account_id, track) for track in range(2_000)]
    chosen = [each for each in found if each is not None]
    assert abs(len(chosen) / 2_000 - 0.25) < 0.05
    assert {(each.variant, each.target.model) for each in chosen} == {(Variant.CONTROL, "reentry")}
    assert {each.shadow for each in chosen} == {Target(model="reentry_candidate")}


def test_another_process_learns_of_an_experiment_and_of_its_end_from_the_database(api: Api) -> None:
    elsewhere = Experiments(api.services.database)
    api.portal.call(elsewhere.refresh)
    assert elsewhere.variant_of(api.account_id, 1) is None
    created = api.send("POST", "/v1/experiments", AB | {"share": 1.0}, status=201)
    api.portal.call(elsewhere.refresh)
    assert elsewhere.variant_of(api.account_id, 1) == api.services.experiments.variant_of(api.account_id, 1)

    async def end_unnoticed() -> None:
        await elsewhere.end(api.account_id, created["id"])

    api.portal.call(end_unnoticed)
    wait_until(lambda: variants(api, 10) == [None] * 10, what="the end of the experiment in this process")


def test_an_account_runs_one_experiment_and_names_are_unique(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda number: api.answer("POST", "/v1/experiments", AB | {"name": f"n{number}"}), range(8))
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    (created,) = [answer.json() for answer in answers if answer.status_code == 201]
    conflict = api.send("POST", "/v1/experiments", SHADOW, status=409)
    assert created["id"] in conflict["fix"]
    assert api.send("DELETE", f"/v1/experiments/{created['id']}", status=409)["code"] == "conflict"
    api.send("PATCH", f"/v1/experiments/{created['id']}", {"state": "ended"})
    assert "of the name" in api.send("POST", "/v1/experiments", AB | {"name": created["name"]}, status=409)["detail"]
    api.send("POST", "/v1/experiments", SHADOW, status=201)
    names = [each["name"] for each in api.send("GET", "/v1/experiments")["experiments"]]
    assert names == ["first", created["name"]]
    page = api.send("GET", "/v1/experiments?limit=1")
    rest = api.send("GET", f"/v1/experiments?limit=1&cursor={page['next']}")
    assert [each["name"] for each in (*page["experiments"], *rest["experiments"])] == names
    assert rest["next"] is None
    assert api.send("DELETE", f"/v1/experiments/{created['id']}", status=204) is None
    assert api.send("GET", f"/v1/experiments/{created['id']}", status=404)["code"] == "not-found"


def test_only_keys_of_the_account_with_the_scope_change_an_experiment(api: Api) -> None:
    created = api.send("POST", "/v1/experiments", AB, status=201)
    path = f"/v1/experiments/{created['id']}"
    manager = api.account("manager", [Scope.EXPERIMENTS])
    manager.send("POST", "/v1/experiments", AB, status=201)
    assert manager.send("GET", "/v1/keys", status=403)["code"] == "forbidden"
    reader = api.account("reader", [Scope.READ, Scope.ADMIN])
    assert reader.send("POST", "/v1/experiments", AB, status=403)["code"] == "forbidden"
    stranger = api.account("stranger")
    for method, suffix, body in (("GET", "", None), ("GET", "/report", None), ("PATCH", "", {"state": "ended"})):
        assert stranger.send(method, path + suffix, body, status=404)["code"] == "not-found"
    assert stranger.send("DELETE", path, status=404)["code"] == "not-found"
    assert stranger.send("GET", "/v1/experiments")["experiments"] == []
    assert api.send("GET", path)["state"] == "running"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"mode": "other"}, "body.mode"),
        ({"share": 0.0}, "body.share"),
        ({"share": 1.5}, "body.share"),
        ({"challenger": {"model": "reentry"}}, "body.challenger"),
        ({"challenger": {"model": "another"}}, "body.challenger.model"),
        ({"challenger": {"model": "reentry", "server": "second"}}, "body"),
        ({"name": "a\x00b"}, "body.name"),
        ({"other": 1}, "body.other"),
    ],
)
@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_an_invalid_experiment_is_refused(api: Api, change: dict[str, Any], where: str) -> None:
    problem = api.send("POST", "/v1/experiments", AB | change, status=422)
    assert where in (problem.get("where"), *(fault["where"] for fault in problem.get("faults", [])))
    assert api.send("GET", "/v1/experiments")["experiments"] == []


def logged(experiment: dict[str, Any], track: int, variant: str, error: float, **given: Any) -> dict[str, Any]:
    """Row of an answer whose onset has an error; the true onset of each track is 1,500 s."""
    return {
        "experiment_id": experiment["id"],
        "track_id": track,
        "variant": variant,
        "onset_timestamp": 1_500.0 + error,
        "model_version": 1 if variant == "control" else 2,
        **given,
    }


def pair(
    experiment: dict[str, Any], track: int, control: float, challenger: float, *, ids: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """Rows of the answers of both versions in a shadow experiment, with errors of their onsets."""
    first, second = ids or (new_id("ans"), new_id("ans"))
    return [
        logged(experiment, track, "control", control, id=first),
        logged(experiment, track, "challenger", challenger, shadow=True, id=second, control_id=first),
    ]


def send_outcomes(api: Api, tracks: int) -> None:
    outcomes = [{"track_id": track, "onset_timestamp": 1_500.0} for track in range(tracks)]
    api.send("POST", "/v1/outcomes", {"outcomes": outcomes})


def metrics(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {metric["name"]: metric for metric in report["metrics"]}


def test_the_report_of_an_ab_experiment_finds_the_better_version(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random assignment divides one experiment in three thousand so unevenly that the report warns.
    monkeypatch.setattr(experiments, "position", lambda *names: position("key", "exp_1", "acc_1", names[-1]))
    experiment = api.send("POST", "/v1/experiments", AB | {"share": 0.5}, status=201)
    path = f"/v1/experiments/{experiment['id']}/report"
    empty = api.send("GET", path)
    assert empty["tracks"] == {"control": 0, "challenger": 0}
    assert {metric["verdict"] for metric in empty["metrics"]} == {"undecided"}
    generator = default_rng(1)
    rows = []
    for track in range(2_000):
        assignment = api.services.experiments.variant_of(api.account_id, track)
        assert assignment is not None
        scale = 12.0 if assignment.variant is Variant.CONTROL else 4.0
        rows.append(logged(experiment, track, str(assignment.variant), generator.normal(0.0, scale)))
    api.log(rows)
    api.log([logged(experiment, 5, rows[5]["variant"], 0.0)])  # scored again: the latest answer counts
    api.log([logged(experiment, track, rows[track]["variant"], 59.0, degraded=True) for track in range(100)])
    api.account("stranger").log([logged(experiment, 9, "challenger", 59.0)])
    send_outcomes(api, 1_900)
    report = api.send("GET", path)
    assert sum(report["tracks"].values()) == 2_000
    assert report["versions"] == {"control": [1], "challenger": [2]}
    assert (report["outcomes"], report["agreement"], report["warnings"]) == (1_900, None, [])
    found = metrics(report)["onset_error"]
    errors = {
        variant: np.mean(
            [
                0.0 if row["track_id"] == 5 else abs(row["onset_timestamp"] - 1_500.0)
                for row in rows[:1_900]
                if row["variant"] == variant
            ]
        )
        for variant in ("control", "challenger")
    }
    assert found["control"] == pytest.approx(errors["control"])
    assert found["challenger"] == pytest.approx(errors["challenger"])
    assert found["difference"] == pytest.approx(errors["challenger"] - errors["control"])
    assert found["low"] < found["difference"] < found["high"] < 0.0
    assert found["verdict"] == "better"
    assert found["control_tracks"] + found["challenger_tracks"] == 1_900
    assert metrics(report)["alarm_rate"]["verdict"] in ("undecided", "no difference larger than the margin")


def test_the_report_of_a_shadow_experiment_compares_pairs(api: Api) -> None:
    experiment = api.send("POST", "/v1/experiments", SHADOW, status=201)
    generator = default_rng(2)
    rows = []
    for track in range(1_000):
        hard = generator.normal(0.0, 10.0)  # the error of both versions
        control, challenger = pair(experiment, track, hard, hard + 0.2)
        rows.append(control)
        if track % 50 == 0:
            challenger["onset_timestamp"] = None
        if track % 40 != 1:  # the challenger failed for these
            rows.append(challenger)
    # The same track again: the pair of the second request counts, also if the challenger failed in a third one.
    # All requests have the same id, which clients choose.
    rows += [*pair(experiment, 0, 0.0, 0.1), logged(experiment, 0, "control", 0.0)]
    # The challenger's answer to an earlier request comes after that to a later one.
    ids = [first_id("ans", time.time() + second) for second in range(1, 4)]
    rows += pair(experiment, 3, 0.0, 50.0, ids=(ids[0], ids[2])) + pair(
        experiment, 3, 0.0, 0.1, ids=(ids[1], ids[1] + "0")
    )
    api.log(rows)
    send_outcomes(api, 1_000)
    report = api.send("GET", f"/v1/experiments/{experiment['id']}/report")
    assert report["tracks"] == {"control": 975, "challenger": 975}
    assert report["agreement"] == pytest.approx(1.0 - 19 / 975)
    (warning,) = report["warnings"]
    assert warning.startswith("25 tracks have no answer of the challenger")
    found = metrics(report)
    assert found["alarm_rate"]["difference"] == pytest.approx(-19 / 975)
    assert found["largest_probability"]["difference"] == 0.0
    assert found["onset_error"]["control_tracks"] == 975
    assert found["onset_error"]["verdict"] in ("worse", "undecided")


def test_the_report_warns_of_mixed_versions_and_of_missing_answers(api: Api) -> None:
    experiment = api.send("POST", "/v1/experiments", AB | {"share": 0.5}, status=201)
    rows = [logged(experiment, track, "control", 0.0, model_version=1 + track % 2) for track in range(400)]
    rows += [logged(experiment, track, "challenger", 0.0) for track in range(400, 500)]
    api.log(rows)
    warnings = api.send("GET", f"/v1/experiments/{experiment['id']}/report")["warnings"]
    assert len(warnings) == 2
    assert warnings[0].startswith("several versions answered as control (1, 2)")
    assert warnings[1].startswith("the challenger has 20.0% of the tracks instead of 50.0%")


def test_a_plan_needs_no_database_to_assign(api: Api) -> None:
    plan = api.portal.call(
        lambda: api.services.experiments.create(
            api.account_id,
            name="plan",
            mode=Mode.SHADOW,
            control=Target(model="reentry"),
            challenger=Target(model="reentry_fast"),
            share=1.0,
        )
    )
    assignment = plan.assign(3)
    assert assignment is not None
    assert assignment.shadow == Target(model="reentry_fast")
