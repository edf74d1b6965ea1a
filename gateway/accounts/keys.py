"""Keys: their form, creation and hash.

A key is `rk_<id>_<secret>_<checksum>`. The id finds its row, the secret has 256 random bits, and the checksum
distinguishes a mistyped key from an unknown one without the database. Secret scanners recognise the checksum, too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final

_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SECRET_BYTES: Final = 32
_SECRET_LENGTH: Final = 43  # digits of base 62 for 256 bits
_CHECKSUM_LENGTH: Final = 6  # digits of base 62 for 32 bits
_FORM: Final = re.compile(
    rf"rk_([0-9a-z]{{12}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created. It is shown once."""

    id: str
    text: str = field(repr=False)
    hash: bytes = field(repr=False)
    """SHA-256 of the text. A slow hash would protect guessable secrets; 256 random bits cannot be guessed."""


def create_key() -> NewKey:
    """Return a new key."""
    key_id = "".join(secrets.choice(_ALPHABET[:36]) for _ in range(12))
    secret = _base62(int.from_bytes(secrets.token_bytes(_SECRET_BYTES), "big"), _SECRET_LENGTH)
    text = f"rk_{key_id}_{secret}"
    text = f"{text}_{_checksum(text)}"
    return NewKey(key_id, text, hash_of(text))


def id_of(text: str) -> str | None:
    """Return the id of a key, or None if the text is not a key: its form or its checksum is wrong."""
    match = _FORM.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(text.rpartition("_")[0]), match[3]):
        return None
    return match[1]


def hash_of(text: str) -> bytes:
    """Return the hash that is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def matches(text: str, stored: bytes) -> bool:
    """Whether a key has a stored hash, in constant time."""
    return hmac.compare_digest(hash_of(text), stored)


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
