"""Queries to a Prometheus server."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

TIMEOUT: Final = 10.0
"""Longest wait for the beginning of an answer, and for the rest of it, s."""
_LARGEST_ANSWER: Final = 4 * 2**20
"""Bytes of the largest answer that is read; the answers to the judge's queries have a few kilobytes."""


class NoFiguresError(Exception):
    """A figure is unknown: Prometheus does not answer, or has no series or only NaN. The message gives the reason."""


@dataclass(frozen=True, slots=True)
class Series:
    """The current value of one series."""

    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class Prometheus:
    """A Prometheus server, and the queries that were sent to it."""

    url: str
    """Address of the server, with its path if it has one."""
    queries: list[str] = field(default_factory=list)
    """Queries sent so far."""

    def series(self, query: str) -> list[Series]:
        """Return the current series of an expression; an empty list if no series matches.

        Raises:
            NoFiguresError: the server does not answer, does not accept the query, or is not a Prometheus.
        """
        self.queries.append(query)
        address = f"{self.url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                text = _read(answer)
        except urllib.error.HTTPError as error:
            with error:
                reason = f"{error.code} {error.reason}"
            raise NoFiguresError(f"Prometheus at {self.url} answers {reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NoFiguresError(f"Prometheus at {self.url} does not answer: {error}") from error
        try:
            return list(map(_series, _vector(text)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise NoFiguresError(f"the answer of {self.url} is not that of a Prometheus: {error!r}") from error

    def number(self, query: str) -> float:
        """Return the value of an expression that has one series at most.

        Raises:
            NoFiguresError: there is no series, several, or its value is not finite; or see `series`.
        """
        found = self.series(query)
        if len(found) != 1:
            raise NoFiguresError(f"{'no' if not found else len(found)} series for {query}")
        if not math.isfinite(found[0].value):
            raise NoFiguresError(f"{found[0].value} for {query}")
        return found[0].value


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Read an answer, whose parts may each arrive just before the timeout of the connection."""
    deadline = time.monotonic() + TIMEOUT
    text = b""
    while part := answer.read1(65_536):
        text += part
        if len(text) > _LARGEST_ANSWER or time.monotonic() > deadline:
            raise ValueError(f"the answer is longer than {_LARGEST_ANSWER:,} bytes or {TIMEOUT:g} s")
    return text


def _vector(text: bytes) -> list[Any]:
    answer = json.loads(text)
    if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
        raise ValueError("it is not a successful instant vector")
    found: list[Any] = answer["data"]["result"]
    if not isinstance(found, list):
        raise TypeError("its result is not a list")
    return found


def _series(entry: Any) -> Series:
    _, value = entry["value"]
    return Series({str(name): str(label) for name, label in entry["metric"].items()}, float(value))
