"""MLServer with ONNX Runtime. Its HTTP interface takes JSON only, so that bytes travel as Base64 text."""

from __future__ import annotations

import base64

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from perf.peers.apps.graph import Graph


class TrackRuntime(MLModel):
    """Scores one track in a request. The tensors `track` and `answer` have one text each, as in `track_bytes`."""

    async def load(self) -> bool:
        """Load the graph in each worker."""
        self.graph = Graph()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the track."""
        answer = self.graph.score(base64.b64decode(payload.inputs[0].data[0]))
        text = base64.b64encode(answer).decode("ascii")
        output = ResponseOutput(name="answer", shape=[1], datatype="BYTES", data=[text])
        return InferenceResponse(model_name=self.name, outputs=[output])
