"""Addresses that webhooks may reach: public ones, and those that the settings name.

A webhook is an address that an account chooses, so the gateway must not let it reach into its own network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx

from reentry.errors import InputError

Address = IPv4Address | IPv6Address

_LONGEST_URL: Final = 2_048
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that a gateway translates into the IPv4 address of their last 32 bits (RFC 6052)."""
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All IPv6 addresses that are routed in the internet; some others count as global, such as site-local ones."""


class RefusedAddressError(InputError):
    """A webhook must not be sent to the address."""


class Reachable:
    """Rules for the addresses of webhooks."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Prepare the rules.

        Args:
            allowed: networks such as 10.1.0.0/16, and host names, which may also be private and without TLS.
        """
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._hosts: set[str] = set()
        for each in allowed:
            try:
                self._networks.append(ipaddress.ip_network(each))
            except ValueError:
                self._hosts.add(each.lower().rstrip("."))

    def parse(self, url: str) -> SplitResult:
        """Split the URL of a webhook, and check what is known without its addresses.

        Raises:
            RefusedAddressError: the URL has another scheme, no host, credentials, or a literal address that is refused.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = SplitResult("", "", "", "", ""), None, None
        is_text = url.isprintable() and " " not in url and len(url) <= _LONGEST_URL
        if not host or port == 0 or parts.scheme not in ("http", "https") or not is_text:
            raise _not_a_url(url)
        if parts.username is not None or parts.password is not None:
            raise RefusedAddressError("the URL of a webhook has credentials", expected="https://HOST/PATH")
        literal = _literal(host)
        if literal is not None:
            self.check(literal, host)
        try:
            httpx.URL(url)  # which delivers the message, and encodes the name of the host
        except httpx.InvalidURL as error:
            raise _not_a_url(url) from error
        if parts.scheme == "http" and not self._is_allowed(literal, host) and not self._networks:
            raise RefusedAddressError("the URL of a webhook is not encrypted", expected="https://...", got="http")
        return parts

    async def resolve(self, parts: SplitResult) -> Address:
        """Resolve the host of a URL, and return the address to connect to.

        Every address of the host must be reachable, so that a host with a public and a private one is refused. The
        caller connects to the returned address, because a second resolution might give another one.

        Raises:
            RefusedAddressError: an address is refused.
            OSError: the host has no address.
        """
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        for address in addresses:
            self.check(address, host)
            if parts.scheme == "http" and not self._is_allowed(address, host):
                raise RefusedAddressError("the URL of a webhook is not encrypted", expected="https://...", got="http")
        return addresses[0]

    def check(self, address: Address, host: str) -> None:
        """Check one address of a host.

        Raises:
            RefusedAddressError: the address is private, loopback, link-local, multicast or reserved.
        """
        inner = _inner(address)
        if self._is_allowed(address, host) or self._is_allowed(inner, host):
            return
        is_routed = isinstance(inner, IPv4Address) or inner in _UNICAST
        if not (inner.is_global and is_routed) or inner.is_multicast or inner.is_reserved:
            raise RefusedAddressError(
                "webhooks do not reach this address",
                where=host,
                expected="a public address",
                fix="an operator can allow it in the setting webhooks_to",
            )

    def _is_allowed(self, address: Address | None, host: str) -> bool:
        return host.lower().rstrip(".") in self._hosts or (
            address is not None and any(address in network for network in self._networks)
        )


def _not_a_url(url: str) -> RefusedAddressError:
    return RefusedAddressError("not the URL of a webhook", expected="https://HOST/PATH", got=repr(url[:200]))


def _literal(host: str) -> Address | None:
    """Return the address that a host is written as; also in the short and numeric forms that the system resolves."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _inner(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address that stands for one, or the address itself."""
    if isinstance(address, IPv6Address):
        if address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        teredo = address.teredo
        return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
    return address
