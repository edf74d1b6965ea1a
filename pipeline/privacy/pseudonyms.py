"""Pseudonyms: 63-bit integers that stand for an id and cannot be traced back without the key."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

SENSOR: Final = "sensor"
OPERATOR: Final = "operator"


def pseudonym(kind: str, name: str, key: bytes) -> int:
    """Return the first 63 bits of the HMAC-SHA256 of an id, as a number that is not negative.

    Args:
        kind: `SENSOR`, `OPERATOR` or another kind, so that equal ids of two kinds have different pseudonyms.
        name: The id as text; of a number, its decimal digits.
        key: Key of the pseudonyms.

    Two of n ids share a pseudonym with a probability of about n**2 / 2**64, see RFC 2104 for HMAC.
    """
    digest = hmac.digest(key, f"{kind}:{name}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big") >> 1


def pseudonyms(kind: str, names: Iterable[str], key: bytes) -> dict[str, int]:
    """Return the pseudonym of each distinct id."""
    return {name: pseudonym(kind, name, key) for name in set(names)}
