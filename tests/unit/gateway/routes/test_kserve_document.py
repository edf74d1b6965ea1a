"""The OpenAPI document of the KServe routes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.app import create_app
from gateway.kserve.requests import decode
from gateway.settings import GatewaySettings
from reentry.schema import ENSEMBLE


def test_each_route_has_a_summary_a_description_and_its_problems(tmp_path: Path) -> None:
    paths = create_app(GatewaySettings(data=tmp_path)).openapi()["paths"]
    routes = {
        (path, method): route for path in paths if path.startswith("/v2") for method, route in paths[path].items()
    }
    model = ("", "/ready", "/config")
    of_model = {f"/v2/models/{{name}}{place}{end}" for place in ("", "/versions/{version}") for end in model}
    infer = {f"/v2/models/{{name}}{place}/infer" for place in ("", "/versions/{version}")}
    assert {path for path, method in routes if method == "get"} == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
    } | of_model
    assert {path for path, method in routes if method == "post"} == infer
    for (path, _), route in routes.items():
        assert route["summary"]
        assert route["description"]
        assert "404" in route["responses"] or "/models/" not in path


def test_the_example_of_a_request_is_valid(tmp_path: Path) -> None:
    paths = create_app(GatewaySettings(data=tmp_path)).openapi()["paths"]
    example = paths["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]["example"]
    request = decode(msgspec.json.encode(example), None, ENSEMBLE)
    assert request.measurements.shape == (1, 2, 6)
    assert [tensor.name for tensor, _ in request.outputs] == ["onset_timestamp"]
