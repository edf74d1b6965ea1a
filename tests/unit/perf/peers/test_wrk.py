"""Reading of what wrk prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.peers.protocols import HttpRequest
from perf.peers.wrk import read_figures, write_requests
from reentry.errors import ClientError

OUTPUT = """Running 5s test @ http://127.0.0.1:41234/binary
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.01ms    1.02ms  21.11ms   91.20%
    Req/Sec     2.66k   210.11     2.98k    70.00%
  13250 requests in 5.01s, 61.32MB read
Requests/sec:   2644.71
Transfer/sec:     12.24MB

figures {figures}
"""


def output(**changed: int) -> str:
    figures = {"requests": 13250, "microseconds": 5_010_000, "p50": 2870, "p99": 5512}
    figures |= dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    return OUTPUT.replace("{figures}", json.dumps(figures | changed))


def test_the_figures_are_in_milliseconds_and_per_second() -> None:
    figures = read_figures(output(), cpu_seconds=1.5)
    assert (figures.requests, figures.seconds, figures.p50, figures.p99) == (13250, 5.01, 2.87, 5.512)
    assert figures.per_second == pytest.approx(2644.71, abs=0.01)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_a_run_with_a_failed_request_has_no_figures(kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_figures(output(**{kind: 3}), cpu_seconds=1.5)
    assert caught.value.got == f"{kind} 3; 13250 answers"


def test_a_run_without_an_answer_has_no_figures() -> None:
    with pytest.raises(ClientError, match="no request was answered"):
        read_figures(output(requests=0), cpu_seconds=1.5)


def test_output_without_the_line_of_the_script_is_an_error() -> None:
    with pytest.raises(ClientError) as caught:
        read_figures("unable to connect to 127.0.0.1:1 Connection refused", cpu_seconds=0.0)
    assert "Connection refused" in str(caught.value.got)


def test_requests_are_written_as_bodies_and_header_lines(tmp_path: Path) -> None:
    write_requests(tmp_path, [HttpRequest({"Content-Type": "a/b", "X-Length": "7"}, b"\x00\xff"), HttpRequest({}, b"")])
    assert (tmp_path / "0.body").read_bytes() == b"\x00\xff"
    assert (tmp_path / "0.headers").read_text() == "Content-Type: a/b\nX-Length: 7\n"
    assert (tmp_path / "1.body").read_bytes() == b""


def test_refusals_are_counted_as_answers_where_they_are_expected() -> None:
    answered = read_figures(output(status=13249), cpu_seconds=1.5, refused=True)
    assert answered.requests == 13250
    with pytest.raises(ClientError, match="under load") as error:
        read_figures(output(status=13240), cpu_seconds=1.5, refused=True)
    assert "status 9;" in (error.value.got or "")
