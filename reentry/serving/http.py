"""The few requests the server's owner makes of it, over its HTTP interface."""

from __future__ import annotations

import http.client
import json
import re
import time
from typing import Final

from reentry.errors import ServerError

CONTROL_HEADER: Final = "reentry-control"
"""Carries the key that the server requires for what changes it."""

ANSWERING: Final = ("READY", "UNLOADING")
"""States of a version that gives answers: to new requests, or to the last ones inside."""

_LARGEST_ANSWER: Final = 2**24
"""Bytes; Triton's own are a few thousand."""

_PART: Final = 2**16
"""Bytes read at once."""

_ANSWER_TIMEOUT: Final = 5.0
"""s for a request that does not work on the server."""


def is_live(url: str) -> bool:
    """Whether the server at host:port answers."""
    try:
        status, _ = _request(url, "GET", "/v2/health/live")
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def is_ready(url: str, model: str) -> bool:
    """Whether the server answers requests to a model."""
    try:
        status, _ = _request(url, "GET", f"/v2/models/{model}/ready")
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def load_model(url: str, name: str, config: str | None, *, key: str, timeout: float) -> None:
    """Load or reload a model; `config` is a whole configuration as JSON and takes the place of its config.pbtxt.

    `key` is the server's control key, empty where it has none; so below.

    Raises:
        ServerError: the server's reason.
        OSError, http.client.HTTPException: the server went away.
    """
    body = {"parameters": {"config": config}} if config is not None else {}
    status, answer = _request(
        url, "POST", f"/v2/repository/models/{name}/load", json.dumps(body), key=key, timeout=timeout
    )
    if status != 200:
        member, reason = cause_of(answer)
        raise ServerError(f"the server cannot load {member or name}: {reason}", fix=_fix_of(status, reason))


def unload_model(url: str, name: str, *, key: str) -> None:
    """Close a model to new requests; it is gone when those inside are answered, see `loaded_models`.

    Raises:
        OSError, http.client.HTTPException: the server went away.
    """
    _request(url, "POST", f"/v2/repository/models/{name}/unload", "{}", key=key)


def loaded_models(url: str, *, key: str) -> set[str]:
    """Names of the models that still answer.

    Raises:
        ServerError: the server does not say so without its key.
        OSError, http.client.HTTPException: the server went away.
    """
    return {model["name"] for model in repository_index(url, key=key) if model.get("state") in ANSWERING}


def repository_index(url: str, *, key: str) -> list[dict[str, str]]:
    """Every version of every model that the server has met: name, version, state, reason.

    Raises:
        ServerError: the server does not say so without its key.
        OSError, http.client.HTTPException: the server went away.
    """
    status, answer = _request(url, "POST", "/v2/repository/index", "{}", key=key)
    if status != 200:
        _, reason = cause_of(answer)
        raise ServerError(f"the server does not say what it serves: {reason}", fix=_fix_of(status, reason))
    index: list[dict[str, str]] = json.loads(answer)
    return index


def model_config(url: str, name: str) -> str:
    """The configuration that the model runs by, as JSON: the file's, an override's, with what Triton fills in.

    Raises:
        ServerError: the server does not serve it.
        OSError, http.client.HTTPException: the server went away.
    """
    status, answer = _request(url, "GET", f"/v2/models/{name}/config")
    if status != 200:
        raise ServerError(f"the server has no configuration of {name}: {cause_of(answer)[1]}")
    return answer


def cause_of(answer: str) -> tuple[str | None, str]:
    """The cause inside Triton's answer to a load request, without the layers it is wrapped in.

    Returns:
        The member of an ensemble that failed, None if it was the model itself, and the reason on one line.
    """
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer
    text = text.split("\n\nAt:")[0]  # a Python traceback follows
    member = re.search(r"Model '([^']+)' loading failed", text)
    causes = re.split(r"version \d+ is at UNAVAILABLE state: |load failed for model '[^']*': ", text)
    reason = re.sub(r"^(Internal|Invalid argument|Unavailable|Not found): ", "", causes[-1].strip())
    reason = " ".join(reason.removeprefix("TritonModelException: ").split()).rstrip("; ")
    return (member.group(1) if member else None), reason


def _fix_of(status: int, reason: str) -> str | None:
    if status == 403:
        return "set REENTRY_CONTROL_KEY to the server's key, or run as its user on its machine, where the key is found"
    if "polling is enabled" in reason:
        return "leave --url away and restart the server afterwards, or serve with --model-control-mode explicit"
    return None


def _request(
    url: str, method: str, path: str, body: str | None = None, *, key: str = "", timeout: float = _ANSWER_TIMEOUT
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url, timeout=timeout)
    end = time.monotonic() + timeout
    try:
        connection.request(method, path, body, {CONTROL_HEADER: key} if key else {})
        with connection.getresponse() as response:
            content = bytearray()
            while part := response.read1(_PART):
                content += part
                if len(content) > _LARGEST_ANSWER:
                    raise http.client.HTTPException(f"the answer is larger than {_LARGEST_ANSWER:,} bytes")
                if time.monotonic() > end:  # the socket's own time-out begins again with each byte
                    raise TimeoutError
            if response.length:
                raise http.client.IncompleteRead(bytes(content), response.length)
            return response.status, content.decode(errors="replace")
    finally:
        connection.close()
