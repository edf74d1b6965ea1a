"""A client of the gateway's jobs, and a receiver of webhooks, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from gateway.jobs.creation import MEDIA_TYPES

ENDED = ("completed", "failed", "expired", "cancelled")


class JobClient:
    """Jobs of one account through HTTP. It repeats a request while the gateway is away."""

    def __init__(self, url: str, key: str, *, patience: float = 120.0) -> None:
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False)
        self._patience = patience

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Send a request, and repeat it while the gateway does not answer."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._http.request(method, path, **given)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def create(self, source: Path, **parameters: Any) -> dict[str, Any]:
        """Upload a file and return the job."""
        media_type = next(each for each, name in MEDIA_TYPES.items() if name.endswith(source.suffix))
        answer = self._http.post(
            "/v1/jobs", content=source.read_bytes(), params=parameters, headers={"content-type": media_type}
        )
        assert answer.status_code == 202, answer.text
        content: dict[str, Any] = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{content['id']}"
        return content

    def show(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        answer = self.request("GET", f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def wait(self, job_id: str, *states: str, seconds: float = 120.0) -> dict[str, Any]:
        """Poll a job until it has one of these states, or has ended."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.show(job_id)
            if job["state"] in (states or ENDED):
                return job
            assert job["state"] not in ENDED, job
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

    def result(self, job_id: str, file: str = "predictions", accept: str = "text/csv, application/x-ndjson") -> bytes:
        """Return a result file of a job."""
        answer = self.request("GET", f"/v1/jobs/{job_id}/results", params={"file": file}, headers={"accept": accept})
        assert answer.status_code == 200, answer.text
        return answer.content


class Receiver:
    """An HTTP server that keeps the webhooks that it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        """Statuses of the next answers; after them 204."""
        self.headers: dict[str, str] = {}
        """Headers of the answers."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver of webhooks on a free port."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()
