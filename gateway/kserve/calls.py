"""Calls of whole KServe requests: those that wait are bounded in number, and each error becomes a problem."""

from __future__ import annotations

from client.connection import Array, RefusedError
from gateway import metrics
from gateway.kserve.requests import InferRequest
from gateway.problems import Problem
from gateway.scoring.triton import Triton
from gateway.settings import GatewaySettings
from gateway.traces import current_span
from reentry.errors import ClientError


class KServeCalls:
    """Requests that go to Triton as they are, without being gathered."""

    def __init__(self, triton: Triton, settings: GatewaySettings) -> None:
        self._triton = triton
        self._most = settings.queue + settings.calls_in_flight
        self._pending = 0

    async def infer(self, request: InferRequest) -> dict[str, Array]:
        """Send a request and return the outputs of Triton by tensor name.

        Raises:
            Problem: too many requests wait, Triton refuses the request, or Triton does not answer.
        """
        if self._pending >= self._most:
            metrics.QUEUE_REFUSED.inc()
            raise Problem(
                "overloaded",
                "too many requests wait for the model server",
                expected=f"at most {self._most} requests",
                got=f"{self._pending} requests",
                fix="send fewer requests at once, or repeat later",
            )
        self._pending += 1
        span = current_span()
        try:
            answer = await self._triton.infer(request.model, request.inputs, () if span is None else (span,))
        except RefusedError as error:
            metrics.TRACKS.labels("refused").inc(request.tracks)
            raise Problem.of("invalid-request", error, where="inputs") from error
        except ClientError as error:
            raise Problem.of_model_server(error) from error
        finally:
            self._pending -= 1
        metrics.TRACKS.labels("scored").inc(request.tracks)
        metrics.STEPS.inc(request.steps)
        return answer
