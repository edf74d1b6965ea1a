"""The stream against peers that are no Triton server. The integration tests use a real one."""

from __future__ import annotations

import socket
import threading
from selectors import EVENT_READ, DefaultSelector

import pytest

from client.connection import ServerUnavailableError
from perf.stream.grpc_stream import GrpcStream


def test_an_address_where_nothing_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ServerUnavailableError) as error:
        GrpcStream(address)
    assert error.value.where == address


def test_a_closed_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        stream = GrpcStream(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
        with DefaultSelector() as selector:
            selector.register(stream, EVENT_READ)
            assert selector.select(60.0)
        with pytest.raises(ServerUnavailableError):
            stream.receive()
        stream.close()
