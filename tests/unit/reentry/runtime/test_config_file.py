"""Configuration files are checked against the types of a dataclass's fields."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from reentry.errors import ConfigError
from reentry.runtime.config_file import declared_types, read_settings


@dataclass(kw_only=True)
class FlightSettings:
    count: int = 1
    speed: float = 1.0
    labels: bool = False
    name: str = ""
    steps: tuple[int, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    seed: int = 0


TABLES = {"flight": declared_types(FlightSettings, without=("seed",))}


def read(folder: Path, text: str) -> dict[str, object]:
    path = folder / "settings.toml"
    path.write_text(text)
    return read_settings(path, TABLES)["flight"]


def test_values_of_the_declared_types_are_returned_as_written(tmp_path: Path) -> None:
    text = 'count = 2\nspeed = 3\nlabels = true\nname = "a"\nsteps = [1, 2]\nspan = [1, 2.5]'
    settings = read(tmp_path, f"[flight]\n{text}\n")
    expected = {"count": 2, "speed": 3, "labels": True, "name": "a", "steps": (1, 2), "span": (1, 2.5)}
    assert settings == expected
    assert [type(value) for value in settings.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", '"1"', "a whole number"),
        ("count", "true", "a whole number"),
        ("count", "1.0", "a whole number"),
        ("speed", "false", "a number"),
        ("speed", '"1.5"', "a number"),
        ("labels", "1", "true or false"),
        ("labels", '"true"', "true or false"),
        ("name", "1", "a string"),
        ("name", "2020-01-01", "a string"),
        ("steps", "1", "a list of whole numbers"),
        ("steps", "[1, 2.0]", "a list of whole numbers"),
        ("steps", "[true]", "a list of whole numbers"),
        ("span", "[1.0]", "a list of two numbers"),
        ("span", "[1, 2, 3]", "a list of two numbers"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(
    tmp_path: Path, key: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f"[flight]\n{key} = {value}\n")
    assert (error.value.problem, error.value.expected) == (f"{key} has the wrong type", expected)
    assert error.value.where == str(tmp_path / "settings.toml")


def test_an_integer_beyond_the_range_of_floats_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f"[flight]\nspeed = 1{'0' * 400}\n")
    assert error.value.problem == "speed is too large"


@pytest.mark.parametrize(
    ("text", "problem", "expected", "got"),
    [
        ("[flights]\n", "unknown table", "flight", "flights"),
        ("flight = 1\n", "not a table", "a table [flight]", "1"),
        (
            "[flight]\nseed = 1\n",
            "unknown key in [flight]",
            "count, labels, name, span, speed, steps",
            "seed",
        ),
    ],
)
def test_an_unknown_table_or_key_is_refused(tmp_path: Path, text: str, problem: str, expected: str, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert (error.value.problem, error.value.expected, error.value.got) == (problem, expected, got)


def test_without_a_file_every_table_is_empty() -> None:
    assert read_settings(None, TABLES) == {"flight": {}}


def test_the_module_does_not_import_pydantic_before_a_file_is_read() -> None:
    program = "import sys, reentry.runtime.config_file; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
