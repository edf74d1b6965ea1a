"""The servers that a feed may use, in the feed's own order.

Each feed prefers one server and knows the order of the others (rendezvous hashing). Feeds are spread evenly, and if a
server is lost, only its feeds move.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Iterable, Sequence

from client.connection import Endpoint, ServerUnavailableError
from reentry.errors import ConfigError


def ranked(feed: str, addresses: Iterable[str]) -> list[str]:
    """Return addresses in the order in which a feed prefers them. The order of the argument does not matter."""
    return sorted(set(addresses), key=lambda address: _weight(feed, address), reverse=True)


def _weight(feed: str, address: str) -> bytes:
    return hashlib.blake2b(f"{feed}\0{address}".encode(), digest_size=8).digest()


def grpc_endpoints(urls: Sequence[str]) -> list[Endpoint]:
    """Parse the URLs of servers.

    Raises:
        ConfigError: no URL is given, or one is not a grpc:// URL.
    """
    endpoints = [Endpoint.parse(url) for url in urls]
    if not endpoints or any(endpoint.scheme != "grpc" for endpoint in endpoints):
        raise ConfigError(
            "streams need the gRPC address of a server",
            expected="grpc://HOST:PORT",
            got=", ".join(urls) or "no URL",
            fix="use the gRPC port of the server, by default 8001",
        )
    return endpoints


async def addresses_of(endpoints: Iterable[Endpoint]) -> list[str]:
    """Resolve endpoints to addresses, several for a name such as that of a headless service of Kubernetes.

    Raises:
        ServerUnavailableError: no name can be resolved now.
    """
    loop = asyncio.get_running_loop()
    found: list[str] = []
    reason = ""
    for endpoint in endpoints:
        host, _, port = endpoint.address.rpartition(":")
        try:
            infos = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            reason = f"{host} cannot be resolved: {error.strerror}"
            continue
        for family, *_, place in infos:
            found.append(f"[{place[0]}]:{port}" if family == socket.AF_INET6 else f"{place[0]}:{port}")
    if not found:
        raise ServerUnavailableError(reason)
    return found
