"""Pseudonyms: 63-bit integers that stand for an id and cannot be traced back without all keys.

    id --k1--> pseudonym of k1 --k2--> pseudonym of k2 --k3--> ...

Each key of the list turns the pseudonym of the key before it into another one by HMAC-SHA256. A rotation therefore
needs no plain ids: it applies the new key to the stored pseudonyms, and gives exactly what new rows of the same id get,
so that old and new rows of a sensor still join. The price is that the older keys are needed for new rows and cannot be
forgotten. Someone who knows all keys but the newest one cannot trace back the pseudonyms of the newest one.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from pipeline.privacy.keys import PseudonymKeys

SENSOR: Final = "sensor"
OPERATOR: Final = "operator"
EXTRA_TEXT: Final = "extra"
"""Kind of the texts in unknown columns of a file."""


def pseudonyms(kind: str, names: Iterable[str], keys: PseudonymKeys) -> dict[str, int]:
    """Return the pseudonym of each distinct id, for rows whose `key_id` is `keys.current`.

    Args:
        kind: `SENSOR`, `OPERATOR`, `EXTRA_TEXT` or another kind; equal ids of two kinds have different pseudonyms.
        names: The ids as texts; of a number, its decimal digits.
        keys: The keys.
    """
    return {name: _chain(kind, name, keys.keys)[-1] for name in set(names)}


def pseudonyms_by_key(kind: str, name: str, keys: PseudonymKeys) -> dict[str, int]:
    """Return the pseudonyms that rows of each key have for an id, by key id, oldest first."""
    return dict(zip(keys.ids, _chain(kind, name, keys.keys), strict=True))


def rotated(kind: str, values: Iterable[int], key_id: str, keys: PseudonymKeys) -> dict[int, int]:
    """Return the pseudonym of the current key for each distinct pseudonym of another key.

    Raises:
        ConfigError: No key has this id.
    """
    newer = keys.after(key_id)
    return {value: _chain(kind, str(value), newer)[-1] if newer else value for value in set(values)}


def usual_form(text: str) -> str:
    """Return a whole number, such as 007 or 7.0, by its decimal digits, and other texts unchanged."""
    with suppress(ValueError):
        return str(int(text))
    with suppress(ValueError):
        number = float(text)
        return str(int(number)) if number.is_integer() else text
    return text


def _chain(kind: str, text: str, keys: Iterable[bytes]) -> list[int]:
    """Return the results of applying one key after the other, each the first 63 bits of an HMAC-SHA256 (RFC 2104).

    Two of n texts have the same result with a probability of about n**2 / 2**64 for each key.
    """
    results = []
    for key in keys:
        digest = hmac.digest(key, f"{kind}:{text}".encode(), "sha256")
        results.append(int.from_bytes(digest[:8], "big") >> 1)
        text = str(results[-1])
    return results
