"""JSON bodies that msgspec decodes: reading them, and their place in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from gateway.problems import Problem
from gateway.routes.support.request_body import read_request_body

T = TypeVar("T")


async def read_json(request: Request, decode: Callable[[bytes], T], largest: int) -> T:
    """Read and decode the body of a request.

    Args:
        request: the request.
        decode: decoder of the expected type.
        largest: bytes of the largest body.

    Raises:
        Problem: the body is too large, is not JSON, or has an invalid value.
    """
    body = await read_request_body(request, largest)
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `")
        fault = {"where": place.rstrip("`") or "$", "problem": problem}
        raise Problem("invalid-value", problem, where=fault["where"], faults=[fault]) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem("invalid-request", "the body is not JSON", got=str(error)) from error


def body_of(kind: type, example: Any) -> dict[str, Any]:
    """Return the content of a body of a type for the OpenAPI document, without references."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return whole(parts[value["$ref"]])
            # A mapping of a discriminator would need the references.
            return {name: whole(each) for name, each in value.items() if name != "discriminator"}
        return [whole(each) for each in value] if isinstance(value, list) else value

    return {"content": {"application/json": {"schema": whole(schema), "example": example}}}
