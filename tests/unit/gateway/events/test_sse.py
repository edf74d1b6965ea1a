"""Server-sent events: their form, slow readers, and the three ends of a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from typing import Any

import pytest

from gateway.events.sse import MOST_STREAMS, EventStream, Mailbox, Readers, encode_event
from gateway.problems import Problem

Message = MutableMapping[str, Any]


def test_an_event_has_its_number_kind_and_content_on_lines_of_their_own() -> None:
    assert encode_event("alert", {"text": "a\nb"}, 7) == b'id: 7\nevent: alert\ndata: {"text":"a\\nb"}\n\n'
    assert encode_event("update", {}) == b"event: update\ndata: {}\n\n"


def test_a_slow_reader_loses_the_oldest_events_and_gets_their_number() -> None:
    mailbox = Mailbox(largest=100)
    events = [encode_event("update", {"number": number}) for number in range(10)]
    for event in events:
        mailbox.put(event)
    kept = 100 // len(events[0])
    assert mailbox.filled.is_set()
    assert mailbox.take() == b"".join([encode_event("lost", {"count": 10 - kept}), *events[-kept:]])
    assert not mailbox.filled.is_set()
    assert mailbox.take() == b""
    mailbox.put(events[0])
    assert mailbox.take() == events[0]


def test_an_event_larger_than_the_mailbox_is_delivered() -> None:
    mailbox = Mailbox(largest=10)
    large = encode_event("update", {"text": "x" * 100})
    mailbox.put(b"small")
    mailbox.put(large)
    assert mailbox.take() == encode_event("lost", {"count": 1}) + large


class Client:
    """The server's side of a connection to one client."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        """Wait until the client has gone."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part as soon as the client reads."""
        await self.reads.wait()
        self.messages.append(message)

    @property
    def text(self) -> str:
        """What the client has read."""
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def is_complete(self) -> bool:
        """Whether the answer was ended."""
        return self.messages[-1].get("more_body") is False


class Source:
    """Events that a test gives one after the other."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_closed = False

    async def __call__(self) -> AsyncIterator[bytes]:
        """Yield the events until None is given."""
        try:
            while (event := await self.given.get()) is not None:
                yield event
        finally:
            self.is_closed = True


def streaming(run: Callable[[Client, Source, asyncio.Event, asyncio.Task[None]], Any], keep_alive: float = 60) -> None:
    """Run a test while a stream is open, and wait for its end."""

    async def main() -> None:
        client, source, stopping = Client(), Source(), asyncio.Event()
        response = EventStream(source(), stopping, keep_alive=keep_alive)
        task = asyncio.create_task(response({"type": "http"}, client.receive, client.send))
        async with asyncio.timeout(60):
            await run(client, source, stopping, task)
            await task
        assert source.is_closed

    asyncio.run(main())


async def text_of(client: Client, part: str) -> str:
    """Wait until the client has read a part, and return all that it has read."""
    while part not in client.text:
        await asyncio.sleep(0.002)
    return client.text


def test_the_stream_begins_with_the_time_of_reconnection_and_ends_with_its_source() -> None:
    async def run(client: Client, source: Source, *_: object) -> None:
        source.given.put_nowait(b"one\n\n")
        assert await text_of(client, "one\n\n") == "retry: 1000\n\none\n\n"
        headers = dict(client.messages[0]["headers"])
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"cache-control"] == b"no-store, no-transform"
        assert b"content-length" not in headers
        source.given.put_nowait(None)

    streaming(run)


def test_a_silent_stream_sends_comments() -> None:
    async def run(client: Client, source: Source, *_: object) -> None:
        await text_of(client, ": keep-alive\n\n: keep-alive\n\n")
        source.given.put_nowait(b"one\n\n")
        assert (await text_of(client, "one\n\n")).count("one") == 1
        source.given.put_nowait(None)

    streaming(run, keep_alive=0.02)


def test_the_stream_ends_completely_when_the_process_stops() -> None:
    async def run(client: Client, _: Source, stopping: asyncio.Event, task: asyncio.Task[None]) -> None:
        await text_of(client, "retry: 1000\n\n")
        stopping.set()
        await task
        assert client.is_complete

    streaming(run)


def test_the_stream_ends_when_the_client_goes() -> None:
    async def run(client: Client, _: Source, __: asyncio.Event, task: asyncio.Task[None]) -> None:
        await text_of(client, "retry: 1000\n\n")
        client.gone.set()
        await task
        assert not client.is_complete

    streaming(run)


def test_a_client_that_reads_nothing_does_not_hold_up_the_shutdown() -> None:
    async def run(client: Client, source: Source, stopping: asyncio.Event, task: asyncio.Task[None]) -> None:
        await text_of(client, "retry: 1000\n\n")
        client.reads.clear()
        source.given.put_nowait(b"one\n\n")
        while not source.given.empty():
            await asyncio.sleep(0.002)
        stopping.set()
        await task
        assert client.text == "retry: 1000\n\n"

    streaming(run)


def test_an_error_of_the_source_ends_the_stream_with_it() -> None:
    async def main() -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"one\n\n"
            raise ValueError("broken")

        client = Client()
        with pytest.raises(ValueError, match="broken"):
            await EventStream(broken(), asyncio.Event())({"type": "http"}, client.receive, client.send)
        assert not client.is_complete

    asyncio.run(main())


def test_a_stream_counts_for_its_key_while_it_is_open() -> None:
    async def run() -> None:
        async def source() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        readers = Readers()
        clients = [Client() for _ in range(MOST_STREAMS)]

        def stream(client: Client) -> Coroutine[Any, Any, None]:
            response = EventStream(source(), asyncio.Event(), admission=readers.admit("key"))
            return response({"type": "http"}, client.receive, client.send)

        streams = [asyncio.create_task(stream(client)) for client in clients]
        await asyncio.sleep(0)
        further = Client()
        with pytest.raises(Problem) as refused:
            await stream(further)
        assert (refused.value.code, further.messages) == ("rate-limited", [])
        clients[0].gone.set()
        await streams[0]
        further.gone.set()
        await stream(further)
        for client in clients:
            client.gone.set()
        await asyncio.gather(*streams)

    asyncio.run(run())


def test_the_content_is_json() -> None:
    event = encode_event("update", {"tracks": [1.5, None]})
    assert json.loads(event.split(b"data: ")[1]) == {"tracks": [1.5, None]}
