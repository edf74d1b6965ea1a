"""Changing the version of a model in a running Triton server, without interruption, through its model control API.

Triton loads the new version beside the old one, sends new requests to it when it is ready, and lets the old one finish
its requests. A version that does not load changes nothing.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from reentry.errors import ClientError, ConfigError, ServerError
from reentry.runtime.arguments import split_url
from reentry.serving import http as api
from reentry.serving.config import LOOPBACK
from reentry.serving.run_directory import find_key
from registry import config_pbtxt
from registry.models import DEFAULT_MODEL

_POLL_SECONDS: Final = 0.02

_VERSION_FIELDS: Final = ("version_policy", "backend", "platform", "default_model_filename")
"""Fields that determine the version served; the others keep the server's values unless the file changes them."""


class LiveServer:
    """A running Triton server that this process did not start, and one model in it.

    Example:
        server = LiveServer("http://127.0.0.1:8000")
        before = server.config()
        server.serve(before, file_before, file_after)
    """

    def __init__(self, url: str, model: str = DEFAULT_MODEL, *, key: str = "", timeout: float = 120.0) -> None:
        """Store the address of the server, without a request to it.

        Args:
            url: http://HOST:PORT.
            model: name of the model.
            key: the server's control key; if empty, that of this user's `reentry serve` at this address, if any.
            timeout: seconds for loading and warming up a version, and again for the old version to end.

        Raises:
            ConfigError: the URL has another form.
        """
        if (split_url(url) or ("",))[0] != "http":
            raise ConfigError(
                "not the HTTP address of a Triton server", expected="http://HOST:8000", got=repr(url), fix="--url"
            )
        address = urlsplit(url)
        self.url = url.rstrip("/")
        self.model = model
        self._address = address.netloc
        self._key = key
        if not key:
            local = f"{LOOPBACK if address.hostname == 'localhost' else address.hostname}:{address.port}"
            if found := find_key(local):
                self._address, self._key = local, found  # not "localhost", which may be another server over IPv6
        self._timeout = timeout

    def for_model(self, model: str) -> LiveServer:
        """Return the same server for another of its models."""
        return LiveServer(self.url, model, key=self._key, timeout=self._timeout)

    def config(self) -> str:
        """Return the model's current configuration, as the JSON of the server's answer.

        Raises:
            ServerError: the server does not serve the model.
            ClientError: the server does not answer.
        """
        with self._request_errors():
            answer = api.model_config(self._address, self.model)
            if json.loads(answer)["name"] != self.model:
                raise ValueError(f"it is not the configuration of {self.model}")
            return answer

    def served_config(self) -> str | None:
        """Return the model's current configuration; None if the server does not serve the model."""
        try:
            return self.config()
        except ServerError:
            return None

    def versions(self) -> list[int]:
        """Return the versions of the model that take requests or still answer earlier ones.

        Raises:
            ServerError: the server requires another key.
            ClientError: the server does not answer.
        """
        with self._request_errors():
            index = api.repository_index(self._address, key=self._key)
            return sorted(
                int(entry["version"])
                for entry in index
                if entry["name"] == self.model and entry.get("state") in api.ANSWERING
            )

    def serve(self, current: str, before: str, after: str) -> None:
        """Change to the version that `after` pins, and wait until only that version answers.

        Args:
            current: the server's current configuration, from `config`.
            before: the old text of config.pbtxt.
            after: the new text of config.pbtxt.

        Raises:
            ServerError: the server cannot load the version; it still serves the old one.
            ClientError: the server does not answer.
        """
        self.load(merged_config(current, before, after))

    def load(self, config: str | None = None, *, wait: bool = True) -> None:
        """Load the model with a complete JSON configuration, and wait until only the versions that it pins answer.

        Without a configuration the server loads the model with the file in its own repository.

        Raises:
            ServerError: the server cannot load it; it still serves the old versions.
            ClientError: the server does not answer.
        """
        with self._request_errors():
            api.load_model(self._address, self.model, config, key=self._key, timeout=self._timeout)
        if wait and config is not None:
            self.wait(config)

    def wait(self, config: str) -> None:
        """Wait until only the versions that a loaded configuration pins answer.

        The versions that a model with sequences had before are not waited for. They refuse every request at once, but
        Triton may keep them until their sequences are idle.

        Raises:
            ServerError: another version still answers after the timeout.
            ClientError: the server does not answer.
        """
        content = json.loads(config)
        if content.get("sequence_batching"):
            return
        policy = content.get("version_policy", {})
        pinned = sorted(int(version) for version in policy.get("specific", {}).get("versions", []))
        deadline = time.monotonic() + self._timeout
        while pinned and (answering := self.versions()) != pinned:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the server did not change to its new version within {self._timeout:g} s",
                    where=self.url,
                    expected=f"versions {pinned}",
                    got=f"versions {answering}",
                )
            time.sleep(_POLL_SECONDS)

    def unload(self) -> None:
        """Close the model to new requests.

        Raises:
            ClientError: the server does not answer.
        """
        with self._request_errors():
            api.unload_model(self._address, self.model, key=self._key)

    @contextmanager
    def _request_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise ClientError(
                f"the server has not answered within {self._timeout:g} s", where=self.url, fix="check its log"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"no server answers: {error}", where=self.url, fix="start it, or correct --url"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ClientError(
                "no inference server listens there",
                where=self.url,
                got=f"unreadable answer: {type(error).__name__}: {error}",
                fix="check the port in --url; Triton's default port for HTTP is 8000",
            ) from error
        except ServerError as error:
            fix = error.fix or "check that the server serves this repository, and check its log"
            raise ServerError(error.problem, where=self.url, fix=fix) from error


def merged_config(current: str, before: str, after: str) -> str:
    """Apply the change from one text of config.pbtxt to another to a server's configuration, and return it as JSON.

    Settings that the server adapted to its machine stay, unless the backend changes; then the file applies as it is.
    """
    old, new = (json.loads(config_pbtxt.as_json(text)) for text in (before, after))
    config: dict[str, Any] = json.loads(current)
    if config.get("backend") != new.get("backend"):
        return json.dumps(new)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    for name in changed.union(_VERSION_FIELDS):
        config.pop(name, None)
        if name in new:
            config[name] = new[name]
    return json.dumps(config)
