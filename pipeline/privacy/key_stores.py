"""Places that hold the secret with the pseudonym keys.

| reference | where the keys are |
| --- | --- |
| file:PATH | a file that only its owner reads |
| env:NAME | an environment variable, which cannot be changed from here |
| aws-secretsmanager:NAME | a secret of AWS Secrets Manager |
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from reentry.errors import ConfigError
from reentry.runtime.files import writing

_log = logging.getLogger(__name__)

_CURRENT: Final = "AWSCURRENT"
_PENDING: Final = "REENTRY_PENDING"
"""Label of a version of a secret that is not the current one yet."""


class KeyStore(Protocol):
    """A place that holds the text of the secret."""

    @property
    def name(self) -> str:
        """Reference, for messages."""

    def read(self) -> str:
        """Return the text, or raise a ConfigError that does not contain it."""

    def write(self, text: str, /) -> None:
        """Replace the text that was read."""

    def changing(self) -> AbstractContextManager[None]:
        """Keep other processes from changing the text meanwhile, where the place allows that."""


def key_store(reference: str) -> KeyStore:
    """Return the place that a reference names, without access to it.

    Raises:
        ConfigError: The reference has another form. The error does not quote it, because it may be a key.
    """
    scheme, _, name = reference.partition(":")
    if not name or scheme not in _STORES:
        raise ConfigError(
            "the reference to the pseudonym keys has an unknown form",
            expected=" or ".join(f"{each}:NAME" for each in _STORES),
        )
    return _STORES[scheme](name)


def create_key_file(path: Path, text: str) -> None:
    """Write a file that did not exist and that only its owner can read; it appears with its whole content.

    Raises:
        ConfigError: The file exists.
        InputError: The file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _private_file(path, text)
        try:
            os.link(temporary, path)  # unlike a rename, this fails if the path exists
        except FileExistsError as error:
            raise ConfigError(
                "the pseudonym keys exist already",
                where=str(path),
                fix="keep them; `reentry privacy rekey --add-key` adds a key",
            ) from error
        finally:
            temporary.unlink()


class _FileStore:
    def __init__(self, path: str) -> None:
        self.name = f"file:{path}"
        self._path = Path(path)

    def read(self) -> str:
        try:
            with self._path.open(encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    _log.warning("other accounts may read the pseudonym keys; run: chmod 600 %s", self._path)
                return file.read()
        except FileNotFoundError:
            raise ConfigError(
                "the pseudonym keys are missing",
                where=str(self._path),
                fix=f"restore them; for a new lake, create them: reentry privacy new-key {self._path}",
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the pseudonym keys cannot be read", where=str(self._path), got=type(error).__name__
            ) from None

    def write(self, text: str) -> None:
        with writing(self._path):
            _private_file(self._path, text).replace(self._path)

    @contextmanager
    def changing(self) -> Iterator[None]:
        # The lock is on another file, because the file of the keys is replaced.
        lock = self._path.with_name(f".{self._path.name}.lock")
        with writing(lock):
            file = lock.open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _EnvironmentStore:
    def __init__(self, variable: str) -> None:
        self.name = f"env:{variable}"
        self._variable = variable

    def read(self) -> str:
        if self._variable not in os.environ:
            raise ConfigError(
                "the pseudonym keys are missing", where=f"environment variable {self._variable}", fix="set it"
            )
        return os.environ[self._variable]

    def write(self, _text: str) -> None:
        raise ConfigError(
            "an environment variable cannot keep a new key",
            where=self.name,
            fix="add the key to the list where the variable is set, then run the command without --add-key",
        )

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()


class _SecretsManagerStore:
    def __init__(self, secret: str) -> None:
        self.name = f"aws-secretsmanager:{secret}"
        self._secret = secret
        self._version = ""
        """Id of the version that was read last."""

    def read(self) -> str:
        answer = self._call("get_secret_value", "GetSecretValue", VersionStage=_CURRENT)
        self._version = str(answer["VersionId"])
        return str(answer["SecretString"])

    def write(self, text: str) -> None:
        new = self._call("put_secret_value", "PutSecretValue", SecretString=text, VersionStages=[_PENDING])
        self._call(
            "update_secret_version_stage",
            "UpdateSecretVersionStage",
            VersionStage=_CURRENT,
            MoveToVersionId=new["VersionId"],
            RemoveFromVersionId=self._version,
        )

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()  # `write` makes the new text current only if the version that was read still is

    def _call(self, method: str, permission: str, **values: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        try:
            # botocore itself reads AWS_DEFAULT_REGION alone.
            client = Session().create_client("secretsmanager", region_name=os.environ.get("AWS_REGION"))
            answer: dict[str, Any] = getattr(client, method)(SecretId=self._secret, **values)
            if method == "get_secret_value" and "SecretString" not in answer:
                raise ConfigError("the secret of the pseudonym keys is not a text", where=self.name)
        except (BotoCoreError, ClientError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            if method == "update_secret_version_stage" and code == "InvalidParameterException":
                raise ConfigError(
                    "another process has changed the keys",
                    where=self.name,
                    fix="run the command again, one at a time",
                ) from None
            raise ConfigError(
                "the pseudonym keys are unavailable in AWS Secrets Manager",
                where=self.name,
                got=code or type(error).__name__,
                fix=f"check the name of the secret, AWS_REGION, and the permission secretsmanager:{permission}",
            ) from None
        return answer


_STORES: Final[dict[str, Callable[[str], KeyStore]]] = {
    "file": _FileStore,
    "env": _EnvironmentStore,
    "aws-secretsmanager": _SecretsManagerStore,
}


def _private_file(path: Path, text: str) -> Path:
    """Write a text to a new file beside `path` that only its owner can read, and return its path."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)
