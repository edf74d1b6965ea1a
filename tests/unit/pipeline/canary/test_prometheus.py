"""Queries to a Prometheus, and to what is not one."""

from __future__ import annotations

import json
import socket

import pytest

from pipeline.canary import prometheus
from pipeline.canary.prometheus import NoFiguresError, Prometheus, Series
from tests.garbage_server import AWAY, FINAL, LARGER_THAN_ANY_ANSWER, REFUSED, Answer, garbage_server

GARBAGE = {**FINAL, **AWAY, **REFUSED, **LARGER_THAN_ANY_ANSWER}


def answering(body: object, status: str = "200 OK") -> Answer:
    """Return an answer with a JSON body."""
    text = json.dumps(body).encode()

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    return answer


def vector(*series: object) -> Answer:
    return answering({"status": "success", "data": {"resultType": "vector", "result": series}})


def one(value: str) -> dict[str, object]:
    return {"metric": {"feature": "altitude"}, "value": [1.7e9, value]}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_server_that_is_no_prometheus_has_no_figures(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(prometheus, "TIMEOUT", 0.5)
    with garbage_server(GARBAGE[name]) as address, pytest.raises(NoFiguresError, match=address):
        Prometheus(f"http://{address}").series("up")


@pytest.mark.parametrize(
    "answer",
    [
        answering({"status": "error", "errorType": "bad_data", "error": "parse error"}, "400 Bad Request"),
        answering({"status": "success", "data": {"resultType": "scalar", "result": [1.7e9, "1"]}}),
        answering({"status": "success", "data": {"resultType": "vector", "result": {}}}),
        answering({"status": "success", "data": {"resultType": "vector"}}),
        vector({"metric": {}, "value": ["1"]}),
        vector({"metric": {}, "value": [1.7e9, "many"]}),
        vector({"metric": [], "value": [1.7e9, "1"]}),
        vector(None),
    ],
)
def test_an_answer_without_a_vector_has_no_figures(answer: Answer) -> None:
    with garbage_server(answer) as address, pytest.raises(NoFiguresError, match=address):
        Prometheus(f"http://{address}").series("up")


def test_the_series_of_a_query_have_labels_and_values() -> None:
    with garbage_server(vector(one("0.25"), one("NaN"))) as address:
        server = Prometheus(f"http://{address}/")
        first, second = server.series("reentry_feature_psi")
    assert first == Series({"feature": "altitude"}, 0.25)
    assert second.value != second.value
    assert server.queries == ["reentry_feature_psi"]


@pytest.mark.parametrize(
    ("series", "reason"),
    [((), "no series"), ((one("1"), one("2")), "2 series"), ((one("NaN"),), "nan"), ((one("+Inf"),), "inf")],
)
def test_a_number_needs_exactly_one_finite_series(series: tuple[object, ...], reason: str) -> None:
    with garbage_server(vector(*series)) as address, pytest.raises(NoFiguresError, match=f"{reason} for up"):
        Prometheus(f"http://{address}").number("up")
