"""Reading of a request's body within a limit."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request

from gateway.problems import Problem
from gateway.traces import note, step_span


async def read_request_body(request: Request, largest: int) -> bytes:
    """Return the body of a request.

    Args:
        request: the request.
        largest: bytes of the largest body.

    Raises:
        Problem: the body is larger, or compressed, or the bodies of all requests take too much memory.
        ClientDisconnect: the client is gone.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem(
            "unsupported-media-type",
            "the body is compressed",
            where="Content-Encoding",
            expected="no Content-Encoding",
            got=encoding,
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > largest:
        raise _too_large(largest, int(declared))
    hold: Callable[[int], None] = request.scope["state"]["hold_body"]  # of the middleware, which also releases it
    parts, size = [], 0
    with step_span("read body"):
        async for part in request.stream():
            size += len(part)
            if size > largest:
                raise _too_large(largest, size)
            if part:  # the last one is often empty
                hold(len(part))
                parts.append(part)
        note({"http.request.body.size": size})
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(largest: int, got: int) -> Problem:
    return Problem(
        "body-too-large",
        "the body is too large",
        where="body",
        expected=f"at most {largest:,} bytes",
        got=f"{got:,} bytes or more",
        fix="send fewer tracks in one request, or create a job: POST /v1/jobs",
    )
