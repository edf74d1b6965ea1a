"""A running Triton server changed from one version to another, through its model control API and without a gap.

Triton loads the new version beside the old one, moves requests over when it is ready, and lets those inside the old one
finish. What it cannot load changes nothing.
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
from reentry.schema import REENTRY_LSTM
from reentry.serving import http as api
from reentry.serving.config import LOOPBACK
from reentry.serving.run_directory import find_key
from registry import config_pbtxt

_POLL_SECONDS: Final = 0.02

_WITH_BACKEND: Final = ("version_policy", "backend", "platform", "default_model_filename")
"""Fields that say what is served; the others are kept as the server has fitted them, unless the change is of them."""


class LiveServer:
    """A Triton server that somebody else started.

    Example:
        server = LiveServer("http://127.0.0.1:8000")
        before = server.config()
        server.serve(before, file_before, file_after)
    """

    def __init__(self, url: str, *, key: str = "", timeout: float = 120.0) -> None:
        """Name the server; nothing is asked of it yet.

        Args:
            url: http://HOST:PORT.
            key: the server's control key; empty: that of this user's `reentry serve` at this address, if there is one.
            timeout: s for a load with its warm-up, and s for the old version to end after it.

        Raises:
            ConfigError: not such a URL.
        """
        if (split_url(url) or ("",))[0] != "http":
            raise ConfigError(
                "not the HTTP address of a Triton server", expected="http://HOST:8000", got=repr(url), fix="--url"
            )
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._address = parts.netloc
        self._key = key
        if not key:
            local = f"{LOOPBACK if parts.hostname == 'localhost' else parts.hostname}:{parts.port}"
            if found := find_key(local):
                self._address, self._key = local, found  # to this address alone: localhost may be another's, over IPv6
        self._timeout = timeout

    def config(self) -> str:
        """The configuration that the network runs by, as the JSON of the server's answer.

        Raises:
            ServerError: the server does not serve the network.
            ClientError: it does not answer.
        """
        with self._asking():
            answer = api.model_config(self._address, REENTRY_LSTM.name)
            if json.loads(answer)["name"] != REENTRY_LSTM.name:
                raise ValueError(f"it is not the configuration of {REENTRY_LSTM.name}")
            return answer

    def versions(self) -> list[int]:
        """Versions of the network that take requests, or still answer some.

        Raises:
            ServerError: the server wants another key.
            ClientError: it does not answer.
        """
        with self._asking():
            index = api.repository_index(self._address, key=self._key)
            return sorted(
                int(entry["version"])
                for entry in index
                if entry["name"] == REENTRY_LSTM.name and entry.get("state") in api.ANSWERING
            )

    def serve(self, running: str, before: str, after: str) -> None:
        """Change to the version that `after` pins, and wait until it alone answers.

        Args:
            running: the server's own configuration, from `config`.
            before: text of config.pbtxt as it was.
            after: text of config.pbtxt as it will be.

        Raises:
            ServerError: why the server cannot load it; it serves what it served.
            ClientError: it does not answer.
        """
        self.load(overridden(running, before, after))

    def load(self, config: str) -> None:
        """Load the network by a whole configuration, as JSON, and wait until the versions it pins answer alone.

        Raises:
            ServerError: why the server cannot; it serves what it served.
            ClientError: it does not answer.
        """
        with self._asking():
            api.load_model(self._address, REENTRY_LSTM.name, config, key=self._key, timeout=self._timeout)
        policy = json.loads(config).get("version_policy", {})
        pinned = sorted(int(version) for version in policy.get("specific", {}).get("versions", []))
        deadline = time.monotonic() + self._timeout
        while pinned and (answering := self.versions()) != pinned:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{pinned} does not serve alone after {self._timeout:g} s", where=self.url, got=f"{answering}"
                )
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise ClientError(
                f"the server has not answered within {self._timeout:g} s", where=self.url, fix="look at its log"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"no server answers: {error}", where=self.url, fix="start it, or correct --url"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ClientError(
                "no inference server listens there",
                where=self.url,
                got=f"an answer that cannot be read: {type(error).__name__}: {error}",
                fix="check the port in --url: unless changed, 8000 is HTTP",
            ) from error
        except ServerError as error:
            fix = error.fix or "see that the server serves this repository, and look at its log"
            raise ServerError(error.problem, where=self.url, fix=fix) from error


def overridden(running: str, before: str, after: str) -> str:
    """The server's configuration with what changes from one text of config.pbtxt to the other, as JSON.

    What the server was fitted with stays, unless its backend becomes another: then the file's word counts whole.
    """
    from google.protobuf.json_format import MessageToDict

    old, new = (MessageToDict(config_pbtxt.read(text), preserving_proto_field_name=True) for text in (before, after))
    config: dict[str, Any] = json.loads(running)
    if config.get("backend") != new.get("backend"):
        return json.dumps(new)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    for name in changed.union(_WITH_BACKEND):
        config.pop(name, None)
        if name in new:
            config[name] = new[name]
    return json.dumps(config)
