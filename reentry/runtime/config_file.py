"""Settings in a TOML file: which tables and keys it may have, and of which types."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_file

_TYPES: Final[dict[str, tuple[tuple[type, ...], str, str]]] = {
    "int": ((int,), "a whole number", "whole numbers"),
    "float": ((int, float), "a number", "numbers"),
    "bool": ((bool,), "true or false", "true or false"),
    "str": ((str,), "a text", "texts"),
}
"""Of each declared type: what TOML may give, and its name, as one and in a list."""

_LARGEST_FILE: Final = 65_536
"""Bytes. The time that tomllib takes for a dotted key grows with the square of its length."""

_OF_A_TUPLE: Final = re.compile(r"tuple\[(\w+), (\.\.\.|\1)\]")
"""Of any length, or a pair."""


def declared_types(config: type, *, without: Collection[str] = ()) -> dict[str, str]:
    """The types of the fields of a dataclass, as written, of those that a file may set."""
    return {field.name: str(field.type) for field in fields(config) if field.name not in without}


def read_settings(path: Path | None, tables: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file, each checked; one that the file lacks is empty, and without a file all are.

    Args:
        path: of the file.
        tables: of each table that may be there, its keys and their types (see `declared_types`): int, float, bool,
            str, `tuple[int, ...]` or a pair such as `tuple[float, float]`. A list becomes a tuple.

    Raises:
        ConfigError: no such file, not TOML, an unknown table or key, a value of another type.
    """
    given = _read_toml(path) if path else {}
    unknown = sorted(set(given) - set(tables))
    if unknown:
        raise ConfigError("unknown table", where=str(path), expected=", ".join(tables), got=", ".join(unknown))
    settings = {}
    for name, keys in tables.items():
        table = given.get(name, {})
        if not isinstance(table, dict):
            raise ConfigError("not a table", where=str(path), expected=f"a table [{name}]", got=str(table))
        settings[name] = check_table(name, table, keys, where=str(path))
    return settings


def check_table(
    name: str, table: Mapping[str, object], keys: Mapping[str, str], *, where: str | None = None
) -> dict[str, Any]:
    """Check one table against its declared keys and types; a list becomes a tuple.

    Raises:
        ConfigError: an unknown key, or a value of another type.
    """
    strange = sorted(set(table) - set(keys))
    if strange:
        raise ConfigError(
            f"unknown key of [{name}]", where=where, expected=", ".join(sorted(keys)), got=", ".join(strange)
        )
    return {key: _value(key, value, keys[key], where) for key, value in table.items()}


def _value(key: str, value: object, declared: str, where: str | None) -> Any:
    many = _OF_A_TUPLE.fullmatch(declared)
    types, one, several = _TYPES[many[1] if many else declared]
    pair = many is not None and many[2] != "..."
    if not many:
        holds, expected = _is_of(value, types), one
    else:
        holds = isinstance(value, list) and all(_is_of(item, types) for item in value) and (not pair or len(value) == 2)
        expected = f"a list of two {several}" if pair else f"a list of {several}"
    if not holds:
        fault = "too large" if type(value) is int and float in types else "of another type"
        raise ConfigError(f"{key} is {fault}", where=where, expected=expected, got=str(value))
    return tuple(value) if isinstance(value, list) else value


def _is_of(value: object, types: tuple[type, ...]) -> bool:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):  # True is an int, too
        return False
    # TOML has whole numbers of any size, also where a float is expected.
    return float not in types or not isinstance(value, int) or abs(value) <= sys.float_info.max


def _read_toml(path: Path) -> dict[str, Any]:
    require_file(path, error=ConfigError)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError("too large for a file of settings", where=str(path), expected=f"{_LARGEST_FILE:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except RecursionError as error:
        raise ConfigError("not TOML that can be read: nested too deeply", where=str(path)) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"not TOML: {error}", where=str(path)) from error
