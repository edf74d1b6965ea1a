"""The connection speaks gRPC with a server of grpcio, and reports every end of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from client.stream.grpc_connection import INVALID_ARGUMENT, OK, UNAVAILABLE, GrpcConnection

METHOD = "/test.Test/Echo"


class Echo(grpc.GenericRpcHandler):
    """Returns each message; `refuse` ends the call with an error."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self.echo) if details.method == METHOD else None

    async def echo(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for message in messages:
            if message == b"refuse":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no, 100 % wrong\n")
            yield message


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", 2**28), ("grpc.max_send_message_length", 2**28)]
    )
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(0)


class Answers:
    """The messages and the end of one call."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.status: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def end(self, code: int, reason: str) -> None:
        self.status.set_result((code, reason))

    async def until(self, count: int) -> list[bytes]:
        async with asyncio.timeout(60):
            while len(self.messages) < count:
                await asyncio.sleep(0.005)
        return self.messages


def connected(use: Callable[[GrpcConnection, grpc.aio.Server], Awaitable[None]]) -> None:
    async def run() -> None:
        async with echo_server() as (address, server):
            connection = await GrpcConnection.open(address)
            try:
                async with asyncio.timeout(60):
                    await use(connection, server)
            finally:
                connection.close()
                await asyncio.sleep(0)

    asyncio.run(run())


def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    async def use(connection: GrpcConnection, _: grpc.aio.Server) -> None:
        answers = Answers()
        call = connection.start(METHOD, answers.messages.append, answers.end)
        sent = [bytes([size % 251]) * size for size in (0, 1, 5, 16_384, 16_385, 1_000_000, 12_000_000, 3)] * 2
        for message in sent:
            connection.send(call, message)
        assert await answers.until(len(sent)) == sent
        connection.send(call, b"last", last=True)
        assert await answers.status == (OK, "")
        assert answers.messages[-1] == b"last"

    connected(use)


def test_thousands_of_messages_share_a_connection_with_other_calls() -> None:
    async def use(connection: GrpcConnection, _: grpc.aio.Server) -> None:
        calls = [Answers() for _ in range(3)]
        for number, answers in enumerate(calls):
            call = connection.start(METHOD, answers.messages.append, answers.end)
            for message in range(3_000):
                connection.send(call, b"%d/%d" % (number, message))
        for number, answers in enumerate(calls):
            assert await answers.until(3_000) == [b"%d/%d" % (number, message) for message in range(3_000)]

    connected(use)


def test_the_status_of_a_refusal_is_given_with_its_reason_and_other_calls_continue() -> None:
    async def use(connection: GrpcConnection, _: grpc.aio.Server) -> None:
        refused, other = Answers(), Answers()
        connection.send(connection.start(METHOD, refused.messages.append, refused.end), b"refuse")
        assert await refused.status == (INVALID_ARGUMENT, "no, 100 % wrong\n")
        connection.send(connection.start(METHOD, other.messages.append, other.end), b"fine")
        assert await other.until(1) == [b"fine"]

    connected(use)


def test_an_unknown_method_ends_the_call() -> None:
    async def use(connection: GrpcConnection, _: grpc.aio.Server) -> None:
        answers = Answers()
        connection.send(connection.start("/test.Test/Other", answers.messages.append, answers.end), b"x", last=True)
        code, _reason = await answers.status
        assert code == grpc.StatusCode.UNIMPLEMENTED.value[0]

    connected(use)


def test_a_cancelled_call_gives_nothing_more() -> None:
    async def use(connection: GrpcConnection, _: grpc.aio.Server) -> None:
        cancelled, other = Answers(), Answers()
        call = connection.start(METHOD, cancelled.messages.append, cancelled.end)
        connection.send(call, b"one")
        await cancelled.until(1)
        connection.cancel(call)
        connection.send(connection.start(METHOD, other.messages.append, other.end), b"fine")
        await other.until(1)
        assert not cancelled.status.done()

    connected(use)


def test_all_calls_end_when_the_server_ends_and_later_ones_at_once() -> None:
    async def use(connection: GrpcConnection, server: grpc.aio.Server) -> None:
        calls = [Answers() for _ in range(2)]
        for answers in calls:
            connection.send(connection.start(METHOD, answers.messages.append, answers.end), b"x")
            await answers.until(1)
        await server.stop(0)
        for answers in calls:
            assert (await answers.status)[0] in (UNAVAILABLE, grpc.StatusCode.CANCELLED.value[0])
        late = Answers()
        deadline = asyncio.get_running_loop().time() + 60
        while not late.status.done():
            assert asyncio.get_running_loop().time() < deadline
            late = Answers()
            connection.start(METHOD, late.messages.append, late.end)
            await asyncio.sleep(0.05)
        assert (await late.status)[0] == UNAVAILABLE

    connected(use)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_what_is_no_grpc_server_ends_the_call(garbage: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            connection = await GrpcConnection.open(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
            answers = Answers()
            connection.start(METHOD, answers.messages.append, answers.end)
            async with asyncio.timeout(60):
                code, reason = await answers.status
            assert code == UNAVAILABLE
            assert reason
            connection.close()
            await asyncio.sleep(0)

    asyncio.run(run())
