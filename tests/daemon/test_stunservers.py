"""With a host name in its URL, a controller's STUN servers are found all the same."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from daemonkit import Lan, _made_before, running, until
from freeport import free_port

from shadowmesh.controller.settings import DataDir, Settings
from shadowmesh.daemon.stunservers import StunServers, host_names, resolve
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Send
from shadowmesh.protocol.signing import IdentityDocument, Signer


async def test_a_controller_by_name_serves_stun_by_address(tmp_path: Path) -> None:
    lan, where, port = Lan(), DataDir(tmp_path / "controller"), free_port()
    first = _made_before("controller", where.path)
    settings = Settings(public_urls=(f"https://localhost:{port}",), listen=f"127.0.0.1:{port}")
    async with running(tmp_path, where, first, lan, settings) as there:
        await there.network("office")
        a = await there.member("a")
        assert a.network().map.head.stun == ()  # type: ignore[union-attr]
        expected = {SockAddr("127.0.0.1", port), SockAddr("127.0.0.1", port + 1)}
        await until(lambda: expected <= set(a.daemon.mesh.node._stun_servers()))
        assert {server.ip for server in expected} <= a.host.outer.held(), "for as long as its network is up"

        def asked() -> set[SockAddr | None]:
            return {c.path.remote for pump in a.pumps for c in pump.applied if isinstance(c, Send)}

        await until(lambda: SockAddr("127.0.0.1", port) in asked())

        (pump,) = a.pumps
        pump.die()
        await until(lambda: a.pumps and a.pumps[0] is not pump)
        assert expected <= set(a.daemon.mesh.node._stun_servers()), "a new node is told, too"
        await a.stop()


def test_addresses_in_urls_arent_names() -> None:
    urls = (
        "https://10.0.0.1:8443",
        "https://vpn.example.org:8443",
        "https://[2001:db8::1]:1",
        "https://vpn.example.org",
    )
    assert host_names(urls) == ["vpn.example.org"]


async def test_a_name_is_resolved_once_for_each_address() -> None:
    found = await resolve("localhost")
    assert ipaddress.ip_address("127.0.0.1") in found and len(found) == len(set(found))


async def test_a_port_that_is_none_is_not_asked() -> None:
    signer, news = Signer.generate().public, asyncio.Event()
    identity = IdentityDocument(
        identity=signer, ca_pem="x", signing_keys=(), urls=("https://localhost:65535",), stun_ports=(65535, 65536)
    )
    servers = StunServers(resolve, lambda _: news.set())
    servers.look("f", identity)
    await asyncio.wait_for(news.wait(), 5)
    assert {server.port for server in servers.of("f")} == {65535}
    await servers.stop()
