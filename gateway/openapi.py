"""The OpenAPI document of the gateway, and the reference page that is generated from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.accounts.principal import Scope
from gateway.problems import MEDIA_TYPE, PROBLEM_SCHEMA, answers

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_SECURITY: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key `rk_...`, or a JSON web token of the configured issuer.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key `rk_...`."},
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Name of the request, such as a random UUID. For 24 hours a repetition gets the stored answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_WITHOUT_IDEMPOTENCY: Final = "/v1/keys"
"""Route whose answers are not stored, because they contain a secret."""
_TAGS: Final = {
    "tracks": "Score tracks at once.",
    "jobs": "Score files in the background.",
    "webhooks": "Secret with which messages about jobs are signed.",
    "models": "What the model server serves.",
    "events": "Live phase changes and alerts.",
    "outcomes": "True onsets, sent after the flight.",
    "experiments": "Comparison of two served versions.",
    "drift": "Change of the tracks from day to day.",
    "usage": "What an account has used.",
    "keys": "Accounts and their keys.",
    "kserve": "The KServe protocol, version 2, for tritonclient and perf_analyzer.",
    "health": "Health of the process, without a key.",
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application. `app.openapi` returns it as well, once this is set up."""
    if app.openapi_schema is None:
        content = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        )
        parts = content.setdefault("components", {})
        parts["securitySchemes"] = _SECURITY
        parts.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
        parts["examples"] = {}
        for path, method, operation in _operations(content):
            responses = operation["responses"] = {str(status): each for status, each in operation["responses"].items()}
            if "422" in responses and MEDIA_TYPE not in responses["422"]["content"]:
                responses["422"] |= answers("invalid-value")[422]
            if not path.startswith("/health"):
                operation["security"] = [{"bearer": []}, {"key": []}]
                _add_problems(responses, *_of_every_route(method, has_body="requestBody" in operation))
            if method == "post" and path != _WITHOUT_IDEMPOTENCY:
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            for answer in responses.values():
                if (problem := answer.get("content", {}).get(MEDIA_TYPE)) is not None:
                    _refer(problem, parts["examples"])
        app.openapi_schema = content
    return app.openapi_schema


def _of_every_route(method: str, *, has_body: bool) -> list[str]:
    """Return the codes of the problems with which the middleware, and the reader of bodies, answer for every route."""
    codes = ["unauthorized", "rate-limited", "database-unavailable", "identity-unavailable"]
    if method != "get":
        codes.append("body-too-large")
    if method == "post":
        codes += ["invalid-request", "request-in-flight", "idempotency-mismatch"]
    elif has_body:
        codes.append("invalid-request")
    return codes


def _add_problems(responses: dict[str, Any], *codes: str) -> None:
    """Add problems to the answers of an operation, beside those that its route names for the same status."""
    for code in codes:
        ((status, new),) = answers(code).items()
        known = responses.setdefault(str(status), new)
        examples = known["content"][MEDIA_TYPE]["examples"]
        if code not in examples:
            known["description"] += f"; {new['description']}"
            examples |= new["content"][MEDIA_TYPE]["examples"]


def _refer(problem: dict[str, Any], examples: dict[str, Any]) -> None:
    """Replace the schema and the examples of a problem by references, which keeps the document small."""
    problem["schema"] = {"$ref": "#/components/schemas/Problem"}
    for code in problem.get("examples", {}):
        examples[code] = problem["examples"][code]
        problem["examples"][code] = {"$ref": f"#/components/examples/{code}"}


def reference(content: Mapping[str, Any]) -> str:
    """Return the page docs/gateway-api.md for a document."""
    lines = [
        "# Routes of the gateway",
        "",
        "This page is generated from [gateway/openapi.json](../gateway/openapi.json). A running gateway serves that",
        "document at `/openapi.json`. Every route under `/v1` is also served under `/api/v1`. All but `/health` need a",
        "key: `Authorization: Bearer rk_...`. [problems.md](problems.md) explains the errors. Scopes of a key: "
        + ", ".join(f"`{scope}`" for scope in Scope)
        + ".",
        "",
    ]
    for tag in content["tags"]:
        operations = [each for each in _operations(content) if tag["name"] in each[2].get("tags", ())]
        if not operations:
            continue
        lines += [
            f"## {tag['name'].capitalize()}",
            "",
            tag["description"],
            "",
            "| route | what it does |",
            "| --- | --- |",
        ]
        lines += [f"| `{method.upper()} {path}` | {operation['summary']} |" for path, method, operation in operations]
        lines.append("")
        for path, method, operation in operations:
            lines += [f"### {method.upper()} {path}", "", " ".join(operation.get("description", "").split()), ""]
            lines += _parameters(operation)
            lines += _body(operation)
            lines += _answers(operation)
    return "\n".join(lines)


def _operations(content: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in content["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _parameters(operation: Mapping[str, Any]) -> list[str]:
    rows = []
    for each in operation.get("parameters", ()):
        required = "required" if each.get("required") else "optional"
        text = " ".join(each.get("description", each.get("schema", {}).get("description", "")).split())
        rows.append(f"| `{each['name']}` | {each['in']} | {required} | {text.replace('|', '/')} |")
    return ["| parameter | in | | meaning |", "| --- | --- | --- | --- |", *rows, ""] if rows else []


def _body(operation: Mapping[str, Any]) -> list[str]:
    if (body := operation.get("requestBody")) is None:
        return []
    return [f"Body: {', '.join(f'`{kind}`' for kind in body['content'])}.", "", *_example(body["content"])]


def _answers(operation: Mapping[str, Any]) -> list[str]:
    lines = ["| status | answer |", "| --- | --- |"]
    examples: list[str] = []
    for status, answer in sorted(operation["responses"].items()):
        text = " ".join(answer.get("description", "").split()).replace("|", "/")
        lines.append(f"| {status} | {text} |")
        if status.startswith("2"):
            examples += _example(answer.get("content", {}))
    return [*lines, "", *examples]


def _example(contents: Mapping[str, Any]) -> list[str]:
    """Return the JSON example of a body, if it has one."""
    content = contents.get("application/json", {})
    example = content.get("example") or content.get("schema", {}).get("example")
    if example is None:
        return []
    return ["```json", json.dumps(example, indent=1, ensure_ascii=False), "```", ""]
