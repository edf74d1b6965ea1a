"""The committed OpenAPI document."""

from __future__ import annotations

import json

from gateway.app import create_app
from gateway.openapi import document
from gateway.settings import GatewaySettings


def default_document() -> str:
    """Return the document as the text of the file gateway/openapi.json."""
    return json.dumps(document(create_app(GatewaySettings())), indent=1, ensure_ascii=False) + "\n"
