"""Pure ASGI middleware around every route."""
