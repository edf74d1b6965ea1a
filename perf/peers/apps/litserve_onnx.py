"""LitServe with ONNX Runtime and a binary body: `python -m perf.peers.apps.litserve_onnx`.

LitServe reads the annotations of the methods at run time, so they must not be texts.
"""

import os
from typing import Annotated

import litserve
from fastapi import Body, Response

from perf.peers.apps.graph import Graph
from perf.peers.apps.settings import PORT, WORKERS
from perf.peers.apps.track_bytes import MEDIA_TYPE


class TrackApi(litserve.LitAPI):
    """Scores one track in a request, as in `track_bytes`."""

    def setup(self, device: str) -> None:  # noqa: ARG002, the framework passes it
        """Load the graph in each inference worker."""
        self.graph = Graph()

    def decode_request(self, request: Annotated[bytes, Body(media_type=MEDIA_TYPE)]) -> bytes:
        """Return the body."""
        return request

    def predict(self, content: bytes) -> bytes:
        """Score the track."""
        return self.graph.score(content)

    def encode_response(self, answer: bytes) -> Response:
        """Return the answer as the body."""
        return Response(answer, media_type=MEDIA_TYPE)


def main() -> None:
    """Serve until the process is terminated."""
    workers = int(os.environ[WORKERS])
    server = litserve.LitServer(
        TrackApi(api_path="/binary"), accelerator="cpu", devices=1, workers_per_device=workers, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
