"""Feed that posts live events to a gateway, and a relay in front of it whose connections a test can cut."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import httpx

from tests.gateway_servers import GatewayProcess, free_port, listens, wait_until


class PageFeed:
    """A new account of a gateway with a key that reads its events, and another one that posts them."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.url = gateway.url
        self.port = gateway.port
        self._admin = {"Authorization": f"Bearer {gateway.key}"}
        self._account = self._post("accounts", self._admin, {"name": uuid.uuid4().hex})["id"]
        self._read = self._key("read")
        self.key: str = self._read["key"]
        self._headers = {"Authorization": f"Bearer {self._key('stream')['key']}"}

    def publish(self, event: str, data: dict[str, Any]) -> None:
        """Post an update, an alert or a refinement."""
        news = {"updates": data["tracks"]} if event == "update" else {"events": [{"event": event, **data}]}
        self._post("events", self._headers, {"feed": data["feed"], **news})

    def revoke(self) -> None:
        """Revoke the key that reads."""
        httpx.delete(f"{self.url}/v1/keys/{self._read['id']}", headers=self._admin, timeout=60).raise_for_status()

    def _key(self, scope: str) -> dict[str, Any]:
        return self._post("keys", self._admin, {"name": scope, "scopes": [scope], "account_id": self._account})

    def _post(self, route: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/v1/{route}", headers=headers, json=body, timeout=60)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found


class Relay:
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

    def __enter__(self) -> Relay:
        self._thread.start()
        wait_until(lambda: listens(self.port), what="the relay listening")
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
        assert done.wait(60)

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
            if not self._open:  # cut while the connection was made
                for end in ends:
                    end.transport.abort()
                return
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
