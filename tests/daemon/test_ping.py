"""`ping` goes through the tunnel, and says so when only the way outside answers; `wait` believes it alone."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, Machine, SimEcho, controller, refused

from shadowmesh.dataplane.echo import EchoSocket, echo_request, is_reply
from shadowmesh.dataplane.icmp import checksum
from shadowmesh.engine.node import Node
from shadowmesh.model.errors import Kind


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


async def ping(machine: Machine, peer: str, **params: Any) -> list[dict[str, Any]]:
    return [item async for item in machine.client.stream("ping", peer=peer, **params)]


async def test_an_echo_through_the_tunnel(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    for attempt in await ping(a, "b", count=2):
        assert attempt["ok"] and attempt["path"] == "direct" and attempt["latency_ms"] > 0
    assert (await ping(a, "b", until_direct=True))[-1]["path"] == "direct"
    assert any(packet[9] == 1 for packet in b.delivered), "the request itself came out of the tunnel"
    assert (await a.client.call("wait", target="b", state="direct", timeout_s=5))["state"] == "direct"


@pytest.mark.parametrize("target", ["b", "office"])
async def test_a_state_that_is_none_is_refused_with_those_there_are(there: Controller, target: str) -> None:
    a = await there.member("a")
    error = await refused(a.client.call("wait", target=target, state="online", timeout_s=5))
    assert (error.kind, error.what, error.remedy) == (Kind.USAGE, "no state 'online'", "say up or direct")


async def test_a_dead_tunnel_is_told_though_the_daemon_outside_answers(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    b.answers_echo = False
    (attempt,) = await ping(a, "b", count=1)
    assert not attempt["ok"] and attempt["path"] == "none" and attempt["reason"] == "none.no_echo"
    assert attempt["outer_ms"] > 0
    for state in ("up", "direct"):
        error = await refused(a.client.call("wait", target="b", state=state, timeout_s=0.5))
        assert error.code == "not_reached"


async def test_the_way_outside_is_asked_however_fast_the_echo_is(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = await there.member("a"), await there.member("b")
    asked, ask = [], Node.ping

    async def at_once(_echo: SimEcho, _timeout: float) -> float:
        return 0.0001

    def note(node: Node, *arguments: Any) -> None:
        asked.append(arguments)
        ask(node, *arguments)

    monkeypatch.setattr(SimEcho, "once", at_once)
    monkeypatch.setattr(Node, "ping", note)
    (attempt,) = await ping(a, "b", count=1)
    assert attempt["ok"] and attempt["latency_ms"] == 0.1
    assert len(asked) == 1


async def test_a_peer_that_isnt_there(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    await b.stop()
    (attempt,) = await ping(a, "b", count=1)
    assert not attempt["ok"] and attempt["outer_ms"] is None and attempt["reason"].startswith("none.")
    await a.client.call("down", network="office")
    (attempt,) = await ping(a, "b", count=1)
    assert attempt["reason"] == "none.network_down"


def test_only_the_answer_to_this_very_request_counts() -> None:
    request = echo_request(7, 1, b"0123456789abcdef")
    assert checksum(request) == 0xFFFF, "RFC 1071: nothing is missing from the sum"
    reply = b"\0" + request[1:]
    assert is_reply(reply, 7, 1, b"0123456789abcdef")
    for other in (request, b"", reply[:7], reply[:-1], b"\0" + echo_request(8, 1, b"0123456789abcdef")[1:]):
        assert not is_reply(other, 7, 1, b"0123456789abcdef")
    assert not is_reply(reply, 7, 2, b"0123456789abcdef")


@pytest.mark.root
async def test_a_real_socket_on_loopback() -> None:
    echo = EchoSocket("lo", ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv4Address("127.0.0.1"))
    try:
        for _ in range(2):
            assert (await echo.once(5.0) or 9.0) < 5.0
    finally:
        echo.close()
