"""Keys of the pseudonyms, which stay outside the lake and are named by a reference.

The keys are an ordered list: each rotation adds one at the end, and none is ever removed, because the pseudonym of an
id is computed with all of them (see `pipeline.privacy.pseudonyms`). The content of a secret is JSON, each key 32 random
bytes in base64:

    {"keys": ["...", "..."]}

A row names its last key by an id such as k2-9f86d081: the number of the key, and a part of the SHA-256 of all keys up
to it. Rows of keys that were exchanged, reordered or lost therefore never look like rows of the present keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.privacy.key_stores import KeyStore, create_key_file, key_store
from reentry.errors import ConfigError

KEY_BYTES: Final = 32
_EXPECTED: Final = f'JSON: {{"keys": [{KEY_BYTES} bytes in base64, ...]}}, the oldest key first'


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudonymKeys:
    """The keys, oldest first. They are never printed or logged."""

    keys: tuple[bytes, ...] = field(repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """Id of each key, in the order of the keys."""
        return tuple(
            f"k{count}-{hashlib.sha256(b''.join(self.keys[:count])).hexdigest()[:8]}"
            for count in range(1, len(self.keys) + 1)
        )

    @property
    def current(self) -> str:
        """Id of the key of new rows, which is the newest one."""
        return self.ids[-1]

    def fingerprint(self, text: str) -> str:
        """Return an HMAC-SHA256 of a text in hexadecimal, by the oldest key, so that a rotation does not change it."""
        return hmac.digest(self.keys[0], f"fingerprint:{text}".encode(), "sha256").hex()

    def after(self, key_id: str) -> tuple[bytes, ...]:
        """Return the keys that were added after a key, oldest first.

        Raises:
            ConfigError: No key has this id.
        """
        if key_id not in self.ids:
            raise ConfigError(
                "rows have pseudonyms of an unknown key",
                expected=" or ".join(self.ids),
                got=key_id,
                fix="restore the secret with all keys that the lake has had, in their order",
            )
        return self.keys[self.ids.index(key_id) + 1 :]


def load_keys(reference: str) -> PseudonymKeys:
    """Load the keys that a reference names, see `pipeline.privacy.key_stores`.

    Raises:
        ConfigError: The reference has another form, the keys are unavailable, or their content is invalid. The error
            does not contain the content.
    """
    return _loaded(key_store(reference))


def new_keys(path: Path) -> PseudonymKeys:
    """Write a file with one new key that only its owner can read.

    Raises:
        ConfigError: The file exists; another key would make all earlier pseudonyms unreadable.
        InputError: The file cannot be written.
    """
    keys = PseudonymKeys(keys=(secrets.token_bytes(KEY_BYTES),))
    create_key_file(path, as_text(keys))
    return keys


def add_key(reference: str) -> PseudonymKeys:
    """Add a new key, which is the current one from now on, and return all keys.

    Raises:
        ConfigError: The keys are unavailable, cannot be changed, or another process has changed them meanwhile.
    """
    store = key_store(reference)
    with store.changing():
        old = _loaded(store)
        new = PseudonymKeys(keys=(*old.keys, secrets.token_bytes(KEY_BYTES)))
        store.write(as_text(new))
        if _loaded(store) != new:
            raise ConfigError(
                "another process has changed the keys", where=reference, fix="run the command again, one at a time"
            )
    return new


def as_text(keys: PseudonymKeys) -> str:
    """Return the content of a secret that holds the keys."""
    return json.dumps({"keys": [base64.b64encode(key).decode() for key in keys.keys]}, indent=2) + "\n"


def _loaded(store: KeyStore) -> PseudonymKeys:
    # The cause of an error is left out, because its text may contain a part of a key.
    try:
        content = json.loads(store.read())
        keys = tuple(base64.b64decode(key, validate=True) for key in content["keys"])
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise ConfigError("the pseudonym keys are invalid", where=store.name, expected=_EXPECTED) from None
    if not keys or any(len(key) != KEY_BYTES for key in keys) or len(set(keys)) != len(keys):
        raise ConfigError(
            "the pseudonym keys are invalid",
            where=store.name,
            expected=_EXPECTED,
            got=f"{len(keys)} keys, some of which are equal or of another length" if keys else "no keys",
        )
    return PseudonymKeys(keys=keys)
