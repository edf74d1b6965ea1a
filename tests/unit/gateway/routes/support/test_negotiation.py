from __future__ import annotations

import pytest

from gateway.problems import Problem
from gateway.routes.support.negotiation import preferred

OFFERED = ("text/csv", "application/json", "application/vnd.apache.parquet")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/csv"),
        ("*/*", "text/csv"),
        ("application/*", "application/json"),
        ("application/json;q=0, */*", "text/csv"),
        ("text/csv;q=0, application/json;q=0, */*", "application/vnd.apache.parquet"),
        ("text/*;q=0.5, application/vnd.apache.parquet;q=0.8", "application/vnd.apache.parquet"),
        ("Application/JSON ; Q=0.3, text/html", "application/json"),
    ],
)
def test_the_preferred_type_is_the_best_one_that_the_client_does_not_exclude(accept: str, expected: str) -> None:
    assert preferred(accept, OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/json;q=none"])
def test_a_client_that_accepts_no_type_is_refused(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        preferred(accept, OFFERED)
    assert (caught.value.code, caught.value.fields["expected"]) == ("not-acceptable", ", ".join(OFFERED))
