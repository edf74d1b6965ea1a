"""The few requests the server's owner makes of it, over its HTTP interface."""

from __future__ import annotations

import http.client
import json
import re
from typing import Final

from reentry.errors import ServerError

_ANSWER_TIMEOUT: Final = 5.0
"""s for a request that does not work on the server."""


def is_live(url: str) -> bool:
    """Whether the server at host:port answers."""
    try:
        status, _ = _request(url, "GET", "/v2/health/live")
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def is_ready(url: str) -> bool:
    """Whether every model that the server has loaded is ready."""
    try:
        status, _ = _request(url, "GET", "/v2/health/ready")
    except (OSError, http.client.HTTPException):
        return False
    return status == 200


def load_model(url: str, name: str, config: str | None, *, timeout: float) -> None:
    """Load or reload a model; `config` is a whole configuration as JSON and takes the place of its config.pbtxt.

    Raises:
        ServerError: the server's reason.
        OSError, http.client.HTTPException: the server went away.
    """
    body = {"parameters": {"config": config}} if config is not None else {}
    status, answer = _request(url, "POST", f"/v2/repository/models/{name}/load", json.dumps(body), timeout=timeout)
    if status != 200:
        raise ServerError(f"the server cannot load {name}: {reason_of(answer)}")


def reason_of(answer: str) -> str:
    """The cause inside Triton's error, without the layers it is wrapped in and without the Python traceback."""
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer
    text = text.split("\n\nAt:")[0]
    causes = re.findall(r"version \d+ is at UNAVAILABLE state: (.*)", text, flags=re.DOTALL)
    text = causes[-1] if causes else text
    text = re.sub(r"^(Internal|Invalid argument|Unavailable|Not found): ", "", text.strip())
    return " ".join(text.removeprefix("TritonModelException: ").split()).rstrip("; ")


def _request(
    url: str, method: str, path: str, body: str | None = None, *, timeout: float = _ANSWER_TIMEOUT
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url, timeout=timeout)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()
