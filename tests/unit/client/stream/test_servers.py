"""Feeds are spread over the servers, and only the feeds of a lost server move."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from client.connection import ServerUnavailableError
from client.stream.servers import addresses_of, grpc_endpoints, ranked
from reentry.errors import ConfigError

SERVERS = [f"10.0.0.{number}:8001" for number in range(4)]


def test_the_order_of_servers_depends_on_the_feed_and_not_on_the_order_given() -> None:
    assert ranked("radar-1", SERVERS) == ranked("radar-1", SERVERS[::-1])
    assert len({tuple(ranked(f"radar-{number}", SERVERS)) for number in range(20)}) > 5


def test_feeds_are_spread_evenly_and_only_those_of_a_lost_server_move() -> None:
    feeds = [f"radar-{number}" for number in range(400)]
    first = {feed: ranked(feed, SERVERS)[0] for feed in feeds}
    for server in SERVERS:
        assert 60 < list(first.values()).count(server) < 140
    left = {feed: ranked(feed, SERVERS[1:])[0] for feed in feeds}
    assert all(left[feed] == server for feed, server in first.items() if server != SERVERS[0])


def test_a_name_with_several_addresses_is_several_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name service is a stand-in: a headless service of Kubernetes cannot exist here."""

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        assert (host, port) == ("reentry-headless", 8001)
        found = [(socket.AF_INET, ("10.0.0.1", port)), (socket.AF_INET, ("10.0.0.2", port))]
        found.append((socket.AF_INET6, ("fd00::1", port, 0, 0)))
        return [(family, socket.SOCK_STREAM, 6, "", place) for family, place in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = asyncio.run(addresses_of(grpc_endpoints(["grpc://reentry-headless:8001"])))
    assert found == ["10.0.0.1:8001", "10.0.0.2:8001", "[fd00::1]:8001"]


def test_a_name_that_cannot_be_resolved_may_be_resolved_later() -> None:
    with pytest.raises(ServerUnavailableError, match="cannot be resolved"):
        asyncio.run(addresses_of(grpc_endpoints(["grpc://no-such-host.invalid:8001"])))


@pytest.mark.parametrize("urls", [[], ["http://127.0.0.1:8000"], ["grpc://a:1", "http://b:2"]])
def test_only_grpc_addresses_are_accepted(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="need the gRPC address"):
        grpc_endpoints(urls)
