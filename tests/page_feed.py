"""Server of the live page and of the events that it shows, with which tests drive a browser."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from gateway.routes.page import page_application
from tests.gateway_servers import free_port, listens, wait_until

KEY = "rk_page_read_0000"
PERSISTED = {"alert", "refinement"}


class Gate:
    """Relay of TCP connections to a port, which a test can cut and open again."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._target = port
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])

    def __enter__(self) -> Gate:
        self._thread.start()
        wait_until(lambda: listens(self.port), what="the gate listening")
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        self._open = False
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: ([writer.transport.abort() for writer in self._writers], done.set()))
        assert done.wait(10)

    def restore(self) -> None:
        """Let connections through again."""
        self._open = True

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._relay(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        await self._end.wait()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        finally:
            self._writers -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


class PageFeed:
    """Serves `/v1/events` and the page in a thread, and publishes events to the readers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = KEY
        self._kept: list[tuple[int, str, str]] = []
        self._readers: set[asyncio.Queue[str]] = set()
        routes = [Route("/v1/events", self._events), Mount("/", page_application())]
        config = uvicorn.Config(Starlette(routes=routes), port=self.port, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._server.serve()])

    def __enter__(self) -> PageFeed:
        self._thread.start()
        wait_until(lambda: listens(self.port), what="the server of the page listening")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._loop.close()

    def publish(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to the readers of now, and keep it for later ones if it is persisted."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self._publish(event, json.dumps(data)), done.set()))
        assert done.wait(10)

    def _publish(self, event: str, data: str) -> None:
        text = f"event: {event}\ndata: {data}\n\n"
        if event in PERSISTED:
            number = len(self._kept) + 1
            text = f"id: {number}\n{text}"
            self._kept.append((number, event, text))
        for reader in self._readers:
            reader.put_nowait(text)

    async def _events(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            problem = {
                "title": "Unauthorized",
                "status": 401,
                "detail": "the key is unknown",
                "fix": "send another key",
            }
            return JSONResponse(problem, 401, media_type="application/problem+json")
        queue: asyncio.Queue[str] = asyncio.Queue()
        after = request.headers.get("last-event-id")
        missed = [text for number, _, text in self._kept if after is not None and number > int(after)]
        self._readers.add(queue)

        async def stream() -> AsyncIterator[str]:
            try:
                yield "retry: 1000\n\n"
                for text in missed:
                    yield text
                while True:
                    try:
                        yield await asyncio.wait_for(queue.get(), 15)
                    except TimeoutError:
                        yield ": keep-alive\n\n"
            finally:
                self._readers.discard(queue)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
