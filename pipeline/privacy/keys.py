"""Keys of the pseudonyms, which stay outside the lake and are named by a reference.

| reference | where the keys are |
| --- | --- |
| file:PATH | a file that only its owner reads |
| env:NAME | an environment variable |
| aws-secretsmanager:NAME | a secret of AWS Secrets Manager |

The content is JSON: {"current": "k2", "keys": {"k1": "...", "k2": "..."}}, each key 32 random bytes in base64. New rows
get the current key; `reentry privacy rekey` replaces the pseudonyms of older ones.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reentry.errors import ConfigError
from reentry.runtime.files import writing

KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudonymKeys:
    """The keys by name. They are never printed or logged."""

    current: str
    """Name of the key for new rows."""
    keys: dict[str, bytes] = field(repr=False)

    @property
    def current_key(self) -> bytes:
        """Key for new rows."""
        return self.keys[self.current]


def load_keys(reference: str) -> PseudonymKeys:
    """Load the keys that a reference names.

    Raises:
        ConfigError: The reference has another form, the keys are unavailable, or their content is invalid. The error
            does not contain the content.
    """
    scheme, separator, name = reference.partition(":")
    if not separator or not name or scheme not in _READERS:
        raise ConfigError(
            "unknown reference to pseudonym keys", expected=" or ".join(f"{each}:NAME" for each in _READERS), got=scheme
        )
    return _parsed(_READERS[scheme](name), where=reference)


def new_keys(path: Path) -> PseudonymKeys:
    """Write a file with one new key that only its owner can read.

    Raises:
        ConfigError: The file exists; another key would make all earlier pseudonyms unreadable.
        InputError: The file cannot be written.
    """
    keys = PseudonymKeys(current="k1", keys={"k1": secrets.token_bytes(KEY_BYTES)})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ConfigError(
                "the keys exist already", where=str(path), fix="keep them, or add a key with `reentry privacy rekey`"
            ) from error
        with os.fdopen(descriptor, "w") as file:
            file.write(as_text(keys))
    return keys


def as_text(keys: PseudonymKeys) -> str:
    """Return the content of a secret that holds the keys."""
    encoded = {name: base64.b64encode(key).decode() for name, key in keys.keys.items()}
    return json.dumps({"current": keys.current, "keys": encoded}, indent=2) + "\n"


def _parsed(text: str, *, where: str) -> PseudonymKeys:
    try:
        content = json.loads(text)
        keys = {str(name): base64.b64decode(key, validate=True) for name, key in content["keys"].items()}
        current = content["current"]
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, RecursionError):
        # The cause is left out, because its text may contain a part of a key.
        raise ConfigError(
            "the pseudonym keys are invalid",
            where=where,
            expected='JSON: {"current": NAME, "keys": {NAME: 32 bytes in base64}}',
        ) from None
    short = [name for name, key in keys.items() if len(key) != KEY_BYTES or not _NAME.fullmatch(name)]
    if current not in keys or short:
        raise ConfigError(
            "the pseudonym keys are invalid",
            where=where,
            expected=f"keys of {KEY_BYTES} bytes, and the name of one of them as current",
            got=f"keys that are not: {', '.join(short)[:200]}" if short else "a current key that is missing",
        )
    return PseudonymKeys(current=current, keys=keys)


def _from_file(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "the pseudonym keys are missing", where=name, fix=f"create them: reentry privacy new-key {name}"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError("the pseudonym keys cannot be read", where=name, got=type(error).__name__) from None


def _from_environment(name: str) -> str:
    if name not in os.environ:
        raise ConfigError("the pseudonym keys are missing", where=f"environment variable {name}", fix="set it")
    return os.environ[name]


def _from_secrets_manager(name: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    try:
        client = Session().create_client("secretsmanager")
        return str(client.get_secret_value(SecretId=name)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        answer = getattr(error, "response", {}).get("Error", {}).get("Code")
        raise ConfigError(
            "the pseudonym keys cannot be read from AWS Secrets Manager",
            where=name,
            got=answer or type(error).__name__,
            fix="check the name of the secret, AWS_REGION, and the permission secretsmanager:GetSecretValue",
        ) from None


_READERS: Final = {"file": _from_file, "env": _from_environment, "aws-secretsmanager": _from_secrets_manager}
