"""How IAM decides about a request: statements, wildcards and conditions, as far as `infra/` uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Context = Mapping[str, str]
"""Keys of a request, such as `aws:PrincipalArn`."""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _like(pattern: str, value: str) -> bool:
    """Return whether a value matches a pattern with the wildcards * and ?."""
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, value) is not None


def _one(test: Callable[[str, str], bool]) -> Callable[[list[str], str | None], bool]:
    """Return an operator that holds if the key is present and one of the values fits."""
    return lambda values, actual: actual is not None and any(test(value, actual) for value in values)


def _none(test: Callable[[str, str], bool]) -> Callable[[list[str], str | None], bool]:
    """Return an operator that holds if the key is missing or none of the values fits."""
    return lambda values, actual: not _one(test)(values, actual)


OPERATORS = {
    "StringEquals": _one(str.__eq__),
    "StringNotEquals": _none(str.__eq__),
    "StringLike": _one(_like),
    "ArnEquals": _one(_like),
    "ArnNotEquals": _none(_like),
    "Bool": _one(str.__eq__),
    "NumericLessThan": _one(lambda limit, actual: float(actual) < float(limit)),
    "Null": lambda values, actual: values == ["true" if actual is None else "false"],
}


def _applies(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    principal = statement.get("Principal", {"AWS": "*"})
    return (
        ("AWS" in principal or "Federated" in principal)
        and any(_like(pattern, action) for pattern in _list(statement["Action"]))
        and any(_like(pattern, resource) for pattern in _list(statement.get("Resource", "*")))
        and all(
            OPERATORS[operator](_list(values), context.get(key))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def decide(policy: str, action: str, resource: str = "*", context: Context | None = None) -> bool | None:
    """Return True if a policy allows a request, False if it denies it, and None if it says nothing about it."""
    found = [
        statement["Effect"]
        for statement in json.loads(policy)["Statement"]
        if _applies(statement, action, resource, context or {})
    ]
    return False if "Deny" in found else (True if found else None)
