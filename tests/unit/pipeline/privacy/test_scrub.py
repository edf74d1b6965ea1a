"""Texts that may be logged: masked ids, rounded coordinates, untouched numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest

from cli.logs import logs_on_stderr
from pipeline.privacy.scrub import ScrubbingFilter, masked, rounded, scrubbed


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("4711001", "9999999"),
        ("alice@example.org", "xxxxx@xxxxxxx.xxx"),
        ("Zoë 7", "xxx 9"),
        ("Zoe\u0308", "xxxx"),  # a letter and a combining accent
        ("٣", "9"),  # a digit of another script
        ("a" * 50, "x" * 40 + "..."),
    ],
)
def test_a_masked_text_keeps_only_its_form(text: str, form: str) -> None:
    assert masked(text) == form


@pytest.mark.parametrize(
    ("value", "text"), [(12.3456, "12.5"), (-12.2, "-12.0"), (-0.1, "0.0"), (179.9, "180.0"), (math.nan, "missing")]
)
def test_coordinates_are_rounded_to_half_a_degree(value: float, text: str) -> None:
    assert rounded(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("row of sensor_id=4711001 at latitude=12.3456", "row of sensor_id=9999999 at latitude=12.5"),
        ("{'operator_id': 'alice', 'longitude': -7.81}", "{'operator_id': 'xxxxx', 'longitude': -8.0}"),
        ("sensor 4711001 failed", "sensor 9999999 failed"),
        ("write to alice@example.org", "write to xxxxx@xxxxxxx.xxx"),
    ],
)
def test_named_values_are_scrubbed(text: str, shown: str) -> None:
    assert scrubbed(text) == shown
    assert scrubbed(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "12 of 4711001 rows in 3.25 s",
        "lake:raw@47 from lake:clean@11",
        "onset RMSE 0.125 s, latency=12.34 ms, 85 sensors",
        "the sensor is missing; operator: unknown",
        "2026-12-01T08: files 3, known 1, rows 12,345",
        "http://127.0.0.1:8000/v2/models",
    ],
)
def test_ordinary_numbers_and_words_are_left_alone(text: str) -> None:
    assert scrubbed(text) == text


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    with logs_on_stderr(logging.DEBUG):
        yield logging.getLogger("pipeline.test")


def test_the_log_of_the_command_line_is_scrubbed(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logger.warning("bad row: sensor_id=%d, latitude=%.4f, rows %d", 4711001, 48.1372, 4711)
    assert capsys.readouterr().err == "warning: bad row: sensor_id=9999999, latitude=48.0, rows 4711\n"


def test_tracebacks_are_scrubbed(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("cannot convert operator_id='alice' of alice@example.org")
    logger.error("failed", exc_info=error)
    expected = "error: failed\nValueError: cannot convert operator_id='xxxxx' of xxxxx@xxxxxxx.xxx\n"
    assert capsys.readouterr().err == expected


def test_a_record_without_values_is_unchanged() -> None:
    record = logging.LogRecord("pipeline", logging.INFO, "", 0, "%s rows", (5,), None)
    assert ScrubbingFilter().filter(record)
    assert (record.msg, record.args) == ("%s rows", (5,))
