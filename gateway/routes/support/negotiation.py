"""The header Accept: which of several media types a client prefers."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.problems import Problem


def preferred(accept: str, offered: Sequence[str]) -> str:
    """Return the offered media type that a client prefers; the first of those it likes equally.

    Args:
        accept: value of the header Accept; empty if there is none.
        offered: media types that the route can send, the default first.

    Raises:
        Problem: the client accepts none of them.
    """
    ranges = [_parsed(each) for each in accept.split(",") if each.strip()] or [("*/*", 1.0)]
    best, most = "", 0.0
    for media_type in offered:
        quality = _quality(media_type, ranges)
        if quality > most:
            best, most = media_type, quality
    if not best:
        raise Problem(
            *("not-acceptable", "no acceptable media type"), where="Accept", expected=", ".join(offered), got=accept
        )
    return best


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality of the most specific range that contains a media type."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0


def _parsed(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                quality = 0.0
    return name, quality
