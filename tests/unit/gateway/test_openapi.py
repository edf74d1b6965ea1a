from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.openapi import default_document, reference
from gateway.problems import MEDIA_TYPE, catalogue_page

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
        assert {"401", "403", "429"} <= set(operation["responses"])


def _has_example(kind: str, content: dict[str, Any]) -> bool:
    if content.get("schema", {}).get("format") == "binary":
        return True
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return "example" in content or "examples" in content or "example" in schema


def test_the_same_routes_are_served_under_both_prefixes() -> None:
    from gateway.app import create_app
    from gateway.settings import GatewaySettings

    paths = {route.path for route in create_app(GatewaySettings()).routes if hasattr(route, "path")}
    versioned = {path for path in DOCUMENT["paths"] if path.startswith("/v1/")}
    assert versioned
    assert {f"/api{path}" for path in versioned} <= paths
