"""Reading of a request's body within a limit, and the end of work for a client that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from gateway.problems import Problem

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its answer."""


async def read_request_body(request: Request, largest: int) -> bytes:
    """Return the body of a request.

    Args:
        request: the request.
        largest: bytes of the largest body.

    Raises:
        Problem: the body is larger, or compressed.
        ClientGoneError: the client is gone.
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
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > largest:
                raise _too_large(largest, size)
            parts.append(part)
    except ClientDisconnect as error:
        raise ClientGoneError from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work, which is cancelled when the client closes the connection.

    Call it after the body was read.

    Raises:
        ClientGoneError: the client is gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(largest: int, got: int) -> Problem:
    return Problem(
        "body-too-large",
        "the body is too large",
        where="body",
        expected=f"at most {largest:,} bytes",
        got=f"{got:,} bytes or more",
        fix="send fewer tracks in one request, or create a job: POST /v1/jobs",
    )
