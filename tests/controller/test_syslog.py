"""Forwarding to syslog: the lines of RFC 5424, over UDP, TCP and TLS; and a receiver that is away for a while."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freeport import free_port
from receiver import LineReceiver, datagrams
from test_log_exports import verb
from test_webhooks import timing

from shadowmesh.controller.outward.sysloglines import framed, syslog_line
from shadowmesh.model.receivers import SyslogCreate

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture

LINE = re.compile(
    rb"<(\d{1,3})>1 (\S+) (\S+) shadowmesh-controller - (\S{1,32}) \[shadowmesh@32473 ((?:[a-z]+=\"(?:[^\"\\\]]|\\.)*\" ?)+)\] (.*)",
    re.DOTALL,
)


def parsed(line: bytes) -> Any:
    found = LINE.fullmatch(line)
    assert found is not None, line
    return found


async def forward(world: World, url: str, **more: Any) -> Any:
    return await world.call("syslog_create", SyslogCreate(url=url, **more))


def test_a_line_is_as_the_standard_has_it() -> None:
    at = dt.datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=dt.UTC)
    line = syslog_line("audit", "vpn.example.org", "user.create", 7, at, {"actor": 'a"]\n<ä\u202e'}, 8192)
    found = parsed(line)
    assert found[1] == b"109" and found[2] == b"2026-01-31T12:00:00.123Z" and found[3] == b"vpn.example.org"
    assert found[4] == b"user.create" and found[5] == b'stream="audit" number="7"'
    assert line.isascii() and b"\n" not in line and json.loads(found[6]) == {"actor": 'a"]\n<ä\u202e'}
    odd = syslog_line("logs", "h ö", "x y]", 1, at, {}, 8192)
    assert parsed(odd)[1] == b"134" and parsed(odd)[3] == b"h__" and parsed(odd)[4] == b"x_y]"
    cut = syslog_line("audit", "h", "k", 1, at, {"x": "y" * 9000}, 2048)
    assert len(cut) == 2048 and b'cut="true"' in cut
    assert framed(b"abc") == b"3 abc"


async def test_audit_entries_come_over_tcp_also_those_of_before(world: World) -> None:
    receiver = LineReceiver()
    await receiver.start()
    await world.network()
    await forward(world, f"tcp://127.0.0.1:{receiver.port}", backlog=True)
    await world.network("home", "10.43.0.0/24")
    entries = await world.call("audit_list")
    await receiver.until(lambda: len(receiver.lines) >= len(entries))
    found = [json.loads(parsed(line)[6]) for line in receiver.lines]
    assert [e["seq"] for e in found] == [e.seq for e in entries] and found[-1]["hash"] == entries[-1].hash
    assert parsed(receiver.lines[-1])[4] == b"network.create"
    await receiver.stop()


async def test_nothing_is_lost_while_the_receiver_is_away(world: World) -> None:
    receiver = LineReceiver()
    await receiver.start()
    await forward(world, f"tcp://127.0.0.1:{receiver.port}", backlog=True)
    await receiver.until(lambda: receiver.lines)
    await receiver.stop()
    for n in range(5):
        await world.network(f"n{n}", f"10.50.{n}.0/24")
        world.clock.advance(minutes=2)
    await world.at.delivery.turn()
    await receiver.start()
    world.clock.advance(minutes=6)
    entries = await world.call("audit_list")

    def numbers() -> list[int]:
        return [json.loads(parsed(line)[6])["seq"] for line in receiver.lines]

    await receiver.until(lambda: numbers()[-1:] == [entries[-1].seq])
    assert list(dict.fromkeys(numbers())) == [e.seq for e in entries]
    await receiver.stop()


async def test_tls_checks_the_receiver(world: World, data_dir: Path) -> None:
    """With the controller's own certificate for one, which its own authority has signed."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(data_dir / "server.pem")
    receiver = LineReceiver(tls=server)
    await receiver.start()
    ca = await asyncio.to_thread((data_dir / "ca.pem").read_text)
    unknown = await forward(world, f"tls://127.0.0.1:{receiver.port}")
    code, _, err = await verb(world, "syslog", "test", unknown.id)
    assert code == 1 and "its certificate isn't good" in err and receiver.lines == []
    await world.call("syslog_delete", unknown.id)
    known = await forward(world, f"tls://127.0.0.1:{receiver.port}", ca=ca)
    assert (await verb(world, "syslog", "test", known.id))[0] == 0
    await world.network()
    await receiver.until(lambda: any(parsed(line)[4] == b"network.create" for line in receiver.lines))
    await receiver.stop()


async def test_lines_come_as_datagrams_and_a_port_where_nobody_listens_is_noticed(world: World) -> None:
    port = free_port()
    made = await forward(world, f"udp://127.0.0.1:{port}", stream="logs")
    code, _, err = await verb(world, "syslog", "test", made.id)
    assert code == 1 and "connection refused" in err
    coming = asyncio.create_task(datagrams(port, 1))
    await asyncio.sleep(0)
    await world.network()
    world.clock.advance(minutes=6)
    (line,) = await coming
    assert parsed(line)[4] == b"network_changed"
    out = (await verb(world, "syslog", "list"))[1]
    assert f"udp://127.0.0.1:{port}" in out


@pytest.mark.parametrize("url", ["http://h", "tcp://", "tls://h/path", "udp://h:99999", "tcp://u@h"])
async def test_a_url_that_is_none_is_said(world: World, url: str) -> None:
    code, _, err = await verb(world, "syslog", "create", url)
    assert code == 2 and len(err.splitlines()) == 1
