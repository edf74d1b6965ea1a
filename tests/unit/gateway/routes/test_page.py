"""The files of the live page: headers, caching, and the answer while the page is not built."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Match, Route

from gateway.app import create_app
from gateway.routes.page import page_routes
from gateway.settings import GatewaySettings


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "assets" / "page-1A2B.js").write_text("export {};")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


Ask = Callable[..., httpx.Response]


def asking(built: Path) -> Ask:
    """Return a function that sends a request to an application with the page."""
    application = Starlette(routes=page_routes(built))

    async def send(path: str, method: str, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.request(method, path, headers=headers)

    def ask(path: str, method: str = "GET", **headers: Any) -> httpx.Response:
        return asyncio.run(send(path, method, {name.replace("_", "-"): value for name, value in headers.items()}))

    return ask


@pytest.fixture
def ask(built: Path) -> Ask:
    return asking(built)


def policy(header: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for words in (directive.split() for directive in header.split(";"))}


@pytest.mark.parametrize("path", ["/", "/assets/page-1A2B.js"])
def test_every_file_has_the_security_headers(ask: Ask, path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 200
    assert policy(answer.headers["content-security-policy"]) == {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_assets_are_kept_for_ever_and_the_page_is_always_checked(ask: Ask) -> None:
    asset = ask("/assets/page-1A2B.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert asset.headers["content-type"].startswith("text/javascript")
    page = ask("/")
    assert page.headers["cache-control"] == "no-cache"
    again = ask("/", if_none_match=page.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


def test_a_page_that_is_not_built_answers_how_to_build_it(built: Path, ask: Ask) -> None:
    (built / "index.html").unlink()
    answer = ask("/")
    assert answer.status_code == 503
    assert "<code>make page</code>" in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    "path", ["/other", "/assets/page-0000.js", "/assets/", "/assets/%2e%2e/%2e%2e/secret.txt", "/assets/%00"]
)
def test_other_paths_are_not_found(ask: Ask, path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_without_a_built_page_its_assets_are_not_found(tmp_path: Path) -> None:
    ask = asking(tmp_path / "none")
    assert ask("/assets/page-1A2B.js").status_code == 404
    assert ask("/").status_code == 503


def test_the_files_can_only_be_read(ask: Ask) -> None:
    assert ask("/", "POST").status_code == 405
    assert ask("/", "HEAD").status_code == 200


def test_a_route_of_the_gateway_keeps_its_answer_to_other_methods() -> None:
    app = create_app(GatewaySettings())
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    assert {"/", "/assets/{path:path}"} <= paths
    matches = [route.matches({"type": "http", "path": "/health/live", "method": "POST"})[0] for route in app.routes]
    assert Match.PARTIAL in matches
    assert Match.FULL not in matches
