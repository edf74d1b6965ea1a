"""Ids of rows: text that sorts by the time of its creation and cannot be guessed."""

from __future__ import annotations

import secrets
import time
from hashlib import blake2b
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, without letters that are mistaken for others."""
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
"""Texts of the numbers below 1,024."""


def new_id(prefix: str) -> str:
    """Return an id such as job_01h9x..., with 48 bits of the time in milliseconds and 80 random bits."""
    return _id(prefix, int(time.time() * 1000) << 80 | secrets.randbits(80))


def first_id(prefix: str, at: float) -> str:
    """Return the smallest id that is created at a Unix time or later."""
    return _id(prefix, int(at * 1000) << 80)


def derived_id(prefix: str, parent: str, name: str) -> str:
    """Return the id that follows from the id of another row and a name. It has the time of that row."""
    digest = int.from_bytes(blake2b(f"{parent} {name}".encode(), digest_size=10).digest())
    time_of_parent = parent.partition("_")[2][:10]
    return f"{prefix}_{time_of_parent}{_text(digest, 16)}"


def _id(prefix: str, number: int) -> str:
    return f"{prefix}_{_text(number, 26)}"


def _text(number: int, digits: int) -> str:
    """Write a number with an even number of digits of base 32."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * digits - 10, -1, -10)])
