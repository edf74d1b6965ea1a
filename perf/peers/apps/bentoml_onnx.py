"""BentoML with ONNX Runtime and a binary body, which BentoML hands to the service as a file.

BentoML reads the annotations of the methods at run time, so they must not be texts.
"""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from perf.peers.apps.graph import Graph
from perf.peers.apps.settings import WORKERS
from perf.peers.apps.track_bytes import MEDIA_TYPE


@bentoml.service(name="reentry", workers=int(os.environ[WORKERS]), threads=1, logging={"access": {"enabled": False}})
class TrackService:
    """Scores one track in a request, as in `track_bytes`."""

    def __init__(self) -> None:
        self.graph = Graph()

    @bentoml.api(route="/binary")
    async def score(
        self, content: Annotated[Path, ContentType(MEDIA_TYPE)], /
    ) -> Annotated[bytes, ContentType(MEDIA_TYPE)]:
        """Score the track."""
        return self.graph.score(content.read_bytes())
