"""With a host name in its URL, a controller's STUN servers are found all the same."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from daemonkit import Lan, _made_before, running, until
from freeport import free_port

from shadowmesh.controller.settings import DataDir, Settings
from shadowmesh.daemon.stunservers import host_names, resolve
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Send


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
