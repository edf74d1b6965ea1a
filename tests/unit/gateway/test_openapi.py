from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.openapi import reference
from gateway.openapi_file import default_document
from gateway.problems import MEDIA_TYPE, catalogue_page
from gateway.settings_page import page_with_tables

GATEWAY_PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
ROOT = Path(__file__).parents[3]
DOCUMENT = json.loads(default_document())
OPERATIONS = [
    pytest.param(path, operation, id=f"{method.upper()} {path}")
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
OPEN = ("/health/live", "/health/ready")


@pytest.mark.parametrize(
    ("file", "text", "command"),
    [
        ("gateway/openapi.json", default_document(), "reentry gateway openapi"),
        ("docs/gateway-api.md", reference(DOCUMENT), "reentry gateway openapi --page"),
        ("docs/gateway.md", page_with_tables(GATEWAY_PAGE), "python -m gateway.settings_page"),
        (
            "docs/problems.md",
            catalogue_page(),
            "python -c 'from gateway.problems import *; print(catalogue_page(), end=\"\")'",
        ),
    ],
)
def test_the_committed_documents_are_current(file: str, text: str, command: str) -> None:
    assert (ROOT / file).read_text() == text, f"renew it: {command} > {file}"


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_every_route_is_described_with_an_example_and_its_problems(path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith((".", "`"))
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    for parameter in operation.get("parameters", ()):
        assert parameter.get("description") or parameter["schema"].get("description"), parameter["name"]
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            assert all(_has_example(kind, content) for kind, content in answer.get("content", {}).items()), status
        else:
            assert list(answer["content"]) == [MEDIA_TYPE], status
    if path not in OPEN:
        assert operation["security"]
        assert {"401", "429", "503"} <= set(operation["responses"])


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_every_route_has_the_problems_of_the_middleware_around_it(
    path: str, operation: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    method = request.node.callspec.id.split()[0]
    codes = {code for answer in operation["responses"].values() for code in _problems(answer)}
    assert path in OPEN or {"unauthorized", "rate-limited", "database-unavailable"} <= codes
    assert ("body-too-large" in codes) == (method != "GET")
    assert {"invalid-request", "request-in-flight", "idempotency-mismatch"} <= codes or method != "POST"
    assert "invalid-request" in codes or "requestBody" not in operation
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    assert ("Idempotency-Key" in parameters) == (method == "POST" and path != "/v1/keys")


def _problems(answer: dict[str, Any]) -> list[str]:
    return list(answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}))


def _has_example(kind: str, content: dict[str, Any]) -> bool:
    if content.get("schema", {}).get("format") == "binary":
        return True
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return "example" in content or "examples" in content or "example" in schema
