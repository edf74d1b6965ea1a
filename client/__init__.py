"""Client of a Triton server: scores files and tables of tracks.

Example:
    from client import Reentry

    scores = Reentry("http://127.0.0.1:8000").score(pandas.read_csv("tracks.csv"))
    print(scores.tracks)

`client.stream` streams live tracks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.dataframe import FrameScores, Reentry

__all__ = ["FrameScores", "Reentry"]


def __getattr__(name: str) -> object:
    """Import pandas and the client only when they are used, so that `import client` is fast."""
    if name == "stream":
        return import_module("client.stream")
    if name in __all__:
        from client import dataframe

        return getattr(dataframe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
