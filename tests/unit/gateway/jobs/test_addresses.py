"""Webhooks reach public addresses, and those that the settings name, whatever a host is written as or resolves to."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.jobs.webhooks.addresses import Reachable, RefusedAddressError

PRIVATE = (
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "fec0::1"),
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of 10.0.0.1
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808")


def literal(address: str) -> str:
    return f"https://[{address}]/hook" if ":" in address else f"https://{address}/hook"


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_in_a_url_is_refused(address: str) -> None:
    with pytest.raises(RefusedAddressError, match="do not reach this address"):
        Reachable().parse(literal(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_in_a_url_is_accepted(address: str) -> None:
    assert Reachable().parse(literal(address)).path == "/hook"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "127.0.1"])
def test_a_private_address_in_a_form_that_only_the_system_reads_is_refused(host: str) -> None:
    with pytest.raises(RefusedAddressError, match="do not reach this address"):
        Reachable().parse(f"https://{host}/")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://hooks.example.com/", "not encrypted"),
        ("ftp://hooks.example.com/", "not the URL"),
        ("file:///etc/passwd", "not the URL"),
        ("gopher://127.0.0.1:6379/_", "not the URL"),
        ("hooks.example.com", "not the URL"),
        ("https://", "not the URL"),
        ("https://user:secret@hooks.example.com/", "credentials"),
        ("https://hooks.example.com:port/", "not the URL"),
        ("https://[::1/", "not the URL"),
        ("https://hooks.example.com:0/", "not the URL"),
        ("https://a b/", "not the URL"),
        ("https://hooks..example.com\u2026/", "not the URL"),
        ("https://hooks.example.com/\r\nx: y", "not the URL"),
        ("https://hooks.example.com/" + "x" * 2_048, "not the URL"),
    ],
)
def test_a_url_of_another_form_is_refused(url: str, problem: str) -> None:
    with pytest.raises(RefusedAddressError, match=problem):
        Reachable().parse(url)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every host resolve to these addresses."""

    async def getaddrinfo(_loop: object, _host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("address", [*PRIVATE, "fe80::1%eth0"])
def test_a_host_with_any_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolving(monkeypatch, "8.8.8.8", address)
    reachable = Reachable()
    with pytest.raises(RefusedAddressError, match="do not reach this address"):
        asyncio.run(reachable.resolve(reachable.parse("https://hooks.example.com/")))


def test_the_first_address_of_a_public_host_is_the_one_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, *PUBLIC)
    reachable = Reachable()
    assert str(asyncio.run(reachable.resolve(reachable.parse("https://hooks.example.com/")))) == PUBLIC[0]


def test_the_settings_allow_networks_and_hosts_also_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    reachable = Reachable(["10.1.0.0/16", "hooks.internal"])
    assert reachable.parse("http://10.1.2.3:8080/").port == 8080
    with pytest.raises(RefusedAddressError):
        reachable.parse("http://10.2.0.1/")
    resolving(monkeypatch, "192.168.7.7")
    asyncio.run(reachable.resolve(reachable.parse("http://hooks.internal/")))
    with pytest.raises(RefusedAddressError, match="do not reach this address"):
        asyncio.run(reachable.resolve(reachable.parse("https://other.internal/")))
    resolving(monkeypatch, "8.8.8.8")
    with pytest.raises(RefusedAddressError, match="not encrypted"):
        asyncio.run(reachable.resolve(reachable.parse("http://hooks.example.com/")))
