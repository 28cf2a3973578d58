"""Outer sockets: marked before they send anything, or said not to be; TCP to the first address that answers."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest

from shadowmesh.dataplane import outer
from shadowmesh.dataplane.outer import FirewallMark, OuterSockets
from shadowmesh.model.errors import Kind, ShadowMeshError

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets can't be marked, as without CAP_NET_ADMIN."""

    class Socket(socket.socket):
        def setsockopt(self, level: int, option: int, *value: Any) -> None:  # type: ignore[override]
            if (level, option) == (socket.SOL_SOCKET, socket.SO_MARK):
                raise PermissionError
            super().setsockopt(level, option, *value)

    monkeypatch.setattr(socket, "socket", Socket)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
async def test_udp_and_tcp_sockets_carry_the_mark_and_accepted_ones_inherit_it() -> None:
    made = OuterSockets(FirewallMark(0x7, 0xF), required=True)
    with closing(made.udp(LOOPBACK)) as udp, socket.create_server(("127.0.0.1", 0)) as server:
        made.mark(server)
        with (
            closing(await made.connect("127.0.0.1", server.getsockname()[1], 5.0)) as client,
            server.accept()[0] as inside,
        ):
            marks = {s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for s in (udp, server, client, inside)}
    assert marks == {0x7}


def test_without_the_privilege_a_daemon_refuses(unprivileged: None) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        OuterSockets(required=True).udp(LOOPBACK)
    assert caught.value.code == "mark_not_allowed" and caught.value.kind is Kind.NOT_ALLOWED


def test_without_the_privilege_a_relay_says_once_what_it_means(
    unprivileged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(outer.log, "warning", lambda event, **fields: said.append(fields))
    made = OuterSockets(required=False)
    for _ in range(3):
        made.udp(LOOPBACK).close()
    (fields,) = said
    assert "CAP_NET_ADMIN" in fields["why"] and "client daemon" in fields["means"]


async def test_an_address_that_is_silent_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a host has whose IPv6 leads nowhere (RFC 8305)."""
    reached = []
    made = OuterSockets(required=False, reaching=reached.append)
    silent = asyncio.Event()
    loop = asyncio.get_running_loop()
    connect: Callable[..., Any] = loop.sock_connect

    async def sock_connect(sock: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.2":
            await silent.wait()
        await connect(sock, address)

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        began = time.monotonic()
        with closing(await made.connect("two.example", port, 5.0)) as client:
            assert client.getpeername() == ("127.0.0.1", port)
        assert time.monotonic() - began < 3.0
    assert reached == [ip_address("127.0.0.2"), LOOPBACK]


async def test_where_nobody_answers_the_reason_is_the_networks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await OuterSockets(required=False).connect("127.0.0.1", port, 5.0)


@pytest.mark.parametrize(
    "text", ["", "0", "0x100/0xff", "x", "1/2/3", "-1/0xff", "0x1ffffffff", "1_0", "+5", "0x1_0", "5/+7"]
)
def test_what_is_no_mark_is_said(text: str) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        FirewallMark.parse(text)
    assert caught.value.kind is Kind.USAGE


def test_a_mark_may_be_set_for_all_of_shadowmesh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(FirewallMark.from_environment()) == "0x53000000/0xff000000"
    monkeypatch.setenv("SHADOWMESH_FWMARK", "0x10/0xf0")
    assert OuterSockets(required=False).fwmark == FirewallMark(0x10, 0xF0)
