"""FastAPI with ONNX Runtime: one path with a binary body, one with a JSON body.

The handlers are coroutines that score in the event loop. A worker has one thread to score with, so handing the work to
a thread pool would only add a switch of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from perf.peers.apps.graph import Graph
from perf.peers.apps.track_bytes import MEDIA_TYPE

app = FastAPI()
graph = Graph()


class TrackBody(BaseModel):
    """JSON body with the measurements of one track, one list per step."""

    measurements: list[list[float]]


@app.post("/binary")
async def score_binary(request: Request) -> Response:
    """Score the measurements of one track, as in `track_bytes`."""
    return Response(graph.score(await request.body()), media_type=MEDIA_TYPE)


@app.post("/json")
async def score_json(track: TrackBody) -> dict[str, list[Any]]:
    """Score the measurements of one track; the answer is the outputs by name."""
    answer = graph.run(np.array(track.measurements)[None])
    return {name: values[0].tolist() for name, values in answer.items()}
