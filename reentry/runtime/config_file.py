"""Configuration files in TOML, checked against the fields of the dataclasses that they configure."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_file

_TYPE_NAMES: Final[dict[type, tuple[str, str]]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a string", "strings"),
}
"""Singular and plural name of each type in error messages."""

_LARGEST_FILE: Final = 65_536
"""Bytes of the largest file that is read. tomllib's time for a dotted key grows with the square of its length."""


def declared_types(config: type, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Names and types of a dataclass's fields, except those in `without`."""
    types = get_type_hints(config)
    return {field.name: types[field.name] for field in fields(config) if field.name not in without}


def read_settings(path: Path | None, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Read and check the tables of a TOML file. A table that the file lacks is empty; without a file all are empty.

    Args:
        path: the file, or None.
        tables: the keys of each allowed table with their types: int, float, bool, str, a tuple such as
            `tuple[int, ...]`, or a pair such as `tuple[float, float]`. Lists of the file become tuples.

    Raises:
        ConfigError: the file is missing or is not TOML, a table or a key is unknown, or a value has the wrong type.
    """
    content = read_toml(path) if path else {}
    unknown = sorted(set(content) - set(tables))
    if unknown:
        raise ConfigError("unknown table", where=str(path), expected=", ".join(tables), got=", ".join(unknown))
    settings = {}
    for name, types in tables.items():
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise ConfigError("not a table", where=str(path), expected=f"a table [{name}]", got=str(table))
        settings[name] = check_table(name, table, types, where=str(path))
    return settings


def check_table(
    name: str, table: Mapping[str, object], types: Mapping[str, Any], *, where: str | None = None
) -> dict[str, Any]:
    """Return one table after a check of its keys and value types, with tuples in place of lists.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type.
    """
    unknown = sorted(set(table) - set(types))
    if unknown:
        raise ConfigError(
            f"unknown key in [{name}]", where=where, expected=", ".join(sorted(types)), got=", ".join(unknown)
        )
    return {key: _checked(key, value, types[key], where) for key, value in table.items()}


def _checked(key: str, value: object, expected: Any, where: str | None) -> Any:
    from pydantic import TypeAdapter, ValidationError  # slow to import, so only where a file is read

    checked = tuple(value) if isinstance(value, list) else value
    try:
        TypeAdapter(expected).validate_python(checked, strict=True)
    except ValidationError as error:
        # TOML allows integers of any size, also where a float is expected.
        fault = "is too large" if type(value) is int and expected is float else "has the wrong type"
        raise ConfigError(f"{key} {fault}", where=where, expected=_in_words(expected), got=str(value)) from error
    return checked  # not pydantic's copy, which would turn 1 into 1.0 for a float


def _in_words(expected: Any) -> str:
    if expected in _TYPE_NAMES:
        return _TYPE_NAMES[expected][0]
    item, second = get_args(expected)
    return f"a list of {'' if second is ... else 'two '}{_TYPE_NAMES[item][1]}"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        ConfigError: the file is missing, too large, or is not TOML.
    """
    require_file(path, error=ConfigError)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError("file too large", where=str(path), expected=f"at most {_LARGEST_FILE:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except RecursionError as error:
        raise ConfigError("not TOML: nested too deeply", where=str(path)) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"not TOML: {error}", where=str(path)) from error
