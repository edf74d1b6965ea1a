"""Requests to Triton's HTTP interface: health, configuration, and loading of models."""

from __future__ import annotations

import http.client
import json
import re
import time
from typing import Final

from reentry.errors import ServerError

CONTROL_HEADER: Final = "reentry-control"
"""Header with the key that the server requires for changes."""
ANSWERING: Final = ("READY", "UNLOADING")
"""States of a version that still answers requests, new ones or those in flight."""
_LARGEST_ANSWER: Final = 2**24
"""Bytes of the largest response that is read. Triton's own are a few thousand."""
_CHUNK: Final = 2**16
"""Bytes per read."""
_ANSWER_TIMEOUT: Final = 5.0
"""Seconds for a request that starts no work on the server."""


def is_live(url: str) -> bool:
    """Return whether the server at host:port answers."""
    return _is_ok(url, "/v2/health/live")


def is_ready(url: str, model: str) -> bool:
    """Return whether a model is ready to answer requests."""
    return _is_ok(url, f"/v2/models/{model}/ready")


def _is_ok(url: str, path: str) -> bool:
    try:
        return _request(url, "GET", path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def load_model(url: str, name: str, config: str | None, *, key: str, timeout: float) -> None:
    """Load or reload a model.

    Args:
        url: address of the server as host:port.
        name: name of the model.
        config: complete configuration as JSON, used instead of the model's config.pbtxt; None to use the file.
        key: control key of the server; empty if it requires none.
        timeout: seconds.

    Raises:
        ServerError: the server cannot load the model. The error includes the server's reason.
        OSError, http.client.HTTPException: the connection failed.
    """
    body = {"parameters": {"config": config}} if config is not None else {}
    status, answer = _request(
        url, "POST", f"/v2/repository/models/{name}/load", json.dumps(body), key=key, timeout=timeout
    )
    if status != 200:
        member, reason = cause_of(answer)
        raise ServerError(f"the server cannot load {member or name}: {reason}", fix=_fix_of(status, reason))


def unload_model(url: str, name: str, *, key: str) -> None:
    """Close a model to new requests. It stays in `loaded_models` until its requests in flight are answered.

    Raises:
        OSError, http.client.HTTPException: the connection failed.
    """
    _request(url, "POST", f"/v2/repository/models/{name}/unload", "{}", key=key)


def loaded_models(url: str, *, key: str) -> set[str]:
    """Return the names of the models that still answer requests.

    Raises:
        ServerError: the key is wrong.
        OSError, http.client.HTTPException: the connection failed.
    """
    return {model["name"] for model in repository_index(url, key=key) if model.get("state") in ANSWERING}


def repository_index(url: str, *, key: str) -> list[dict[str, str]]:
    """Return name, version, state and reason of every version of every model that the server knows.

    Raises:
        ServerError: the key is wrong.
        OSError, http.client.HTTPException: the connection failed.
    """
    status, answer = _request(url, "POST", "/v2/repository/index", "{}", key=key)
    if status != 200:
        _, reason = cause_of(answer)
        raise ServerError(f"the server refuses to list its models: {reason}", fix=_fix_of(status, reason))
    index: list[dict[str, str]] = json.loads(answer)
    return index


def model_config(url: str, name: str) -> str:
    """Return the effective configuration of a model as JSON, including Triton's default values.

    Raises:
        ServerError: the server does not serve the model.
        OSError, http.client.HTTPException: the connection failed.
    """
    status, answer = _request(url, "GET", f"/v2/models/{name}/config")
    if status != 200:
        raise ServerError(f"the server has no configuration of {name}: {cause_of(answer)[1]}")
    return answer


def cause_of(answer: str) -> tuple[str | None, str]:
    """Extract the cause of a failure from Triton's response to a load request.

    Returns:
        The ensemble member that failed, or None if the model itself failed, and the reason on one line.
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
        return "set REENTRY_CONTROL_KEY to the server's key, or run on its machine as its user, where the key is found"
    if "polling is enabled" in reason:
        return "omit --url and restart the server afterwards, or serve with --model-control-mode explicit"
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
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > _LARGEST_ANSWER:
                    raise http.client.HTTPException(f"the response is larger than {_LARGEST_ANSWER:,} bytes")
                if time.monotonic() > end:  # the socket's own timeout restarts with each byte
                    raise TimeoutError
            if response.length:
                raise http.client.IncompleteRead(bytes(content), response.length)
            return response.status, content.decode(errors="replace")
    finally:
        connection.close()
