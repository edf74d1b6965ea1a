"""The live page: its files, as `make page` builds them from gateway/page."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

BUILT = Path(__file__).parents[1] / "page" / "dist"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # MapLibre's style sheet holds its icons as data. Its worker is a file of its own, so that no blob is needed.
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        # The script of the page reads the form with the key. Without the script, the form must not send it anywhere.
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FOR_EVER = "public, max-age=31536000, immutable"
"""Caching of the assets: their names hold a hash of their content."""

NOT_BUILT = """<!doctype html>
<html lang="en">
<title>The page is not built</title>
<h1>The page is not built</h1>
<p>The gateway runs, but the files of its live page are missing. Run <code>make page</code> in the checkout, which needs
Node 20 or later, and load this page again.</p>
</html>
"""


def page_routes(built: Path = BUILT) -> list[BaseRoute]:
    """Return the routes of the page at `/` and of its files at `/assets/`, which need no key.

    Args:
        built: Folder with index.html and assets/. If it is missing, `/` answers 503 with what to do.
    """
    page = _Page(built)
    # A mount at `/` would hide that a path of another route exists with other methods.
    return [Route("/", page, include_in_schema=False), Route("/assets/{path:path}", page, include_in_schema=False)]


class _Page:
    """ASGI application of the files."""

    def __init__(self, built: Path) -> None:
        self._files = StaticFiles(directory=built, check_dir=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._files.get_path(scope)
        is_asset = path.startswith("assets/")
        if path != "." and not is_asset:
            raise HTTPException(404)
        try:
            response = await self._files.get_response(path if is_asset else "index.html", scope)
        except HTTPException as error:
            if is_asset or error.status_code != 404:
                raise
            response = HTMLResponse(NOT_BUILT, status_code=503)
        response.headers.update(SECURITY_HEADERS)
        response.headers["Cache-Control"] = FOR_EVER if is_asset else "no-cache"
        await response(scope, receive, send)
