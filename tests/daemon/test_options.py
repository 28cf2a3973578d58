"""What a daemon's configuration says, it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, Lan, Machine, _made_before, controller, running, until
from freeport import free_port

from shadowmesh.controller.settings import DataDir, Settings
from shadowmesh.daemon.daemon import Daemon
from shadowmesh.daemon.options import DaemonOptions
from shadowmesh.daemon.state import State
from shadowmesh.daemon.stunservers import StunServers
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.protocol.signing import IdentityDocument, Signer


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as found:
        await found.network("office")
        yield found


async def ping(machine: Machine, peer: str) -> dict[str, Any]:
    return [item async for item in machine.client.stream("ping", peer=peer, count=1, timeout_s=2.0)][-1]


async def test_without_direct_paths_a_machine_has_none_though_the_others_would(there: Controller) -> None:
    a = await there.member("a", options=DaemonOptions(p2p=False))
    b, c = await there.member("b"), await there.member("c")
    assert (await ping(b, "c"))["path"] == "direct"
    for one, other in ((a, "b"), (b, "a")):
        assert (await ping(one, other))["path"] != "direct"
    (peer,) = (p for p in (await b.network_status()).peers if p.name == "a")
    assert peer.path != "direct" and peer.endpoint is None
    assert not any(p.endpoints for p in c.network().presence.values() if p.client_id == a.network().record.client_id)


async def test_a_chosen_port_is_taken_and_no_other(there: Controller) -> None:
    a = await there.member("a", options=DaemonOptions(port=41641))
    assert a.port == 41641
    await a.stop()
    a.taken_ports = frozenset({41641})
    state = State(a.directory)
    with pytest.raises(ShadowMeshError) as caught:
        await Daemon(state, a.environment(), a.options).start()
    state.close()
    assert caught.value.code == "no_port" and "UDP port 41641 can't be taken" in caught.value.what


async def test_stun_servers_that_the_controller_names_are_looked_up_and_asked(tmp_path: Path) -> None:
    lan, where, port = Lan(), DataDir(tmp_path / "controller"), free_port()
    first = _made_before("controller", where.path)
    settings = Settings(
        public_urls=(f"https://127.0.0.1:{port}",),
        listen=f"127.0.0.1:{port}",
        stun_servers=("stun:localhost:3999", "stun:192.0.2.9:3478"),
    )
    async with running(tmp_path, where, first, lan, settings) as there:
        await there.network("office")
        a = await there.member("a", options=DaemonOptions(stun_servers=("192.0.2.10:3478",)))
        expected = {SockAddr("127.0.0.1", 3999), SockAddr("192.0.2.9", 3478), SockAddr("192.0.2.10", 3478)}
        await until(lambda: expected <= set(a.daemon.mesh.node._stun_servers()))
        assert {server.ip for server in expected} <= a.host.outer.held()
        await a.stop()


async def test_other_names_in_a_map_are_looked_up_again() -> None:
    signer = Signer.generate()
    identity = IdentityDocument(
        identity=signer.public,
        ca_pem="",
        signing_keys=(),
        urls=("https://192.0.2.1:8443",),
        stun_ports=(1, 2),
        issued=0.0,
    )
    told: asyncio.Queue[str] = asyncio.Queue()

    async def resolve(host: str) -> list[Any]:
        import ipaddress

        return [ipaddress.ip_address({"one.example": "192.0.2.1", "two.example": "192.0.2.2"}[host])]

    servers = StunServers(resolve, told.put_nowait)
    for names, expected in (
        (("one.example:1",), (SockAddr("192.0.2.1", 1),)),
        (("two.example:2",), (SockAddr("192.0.2.2", 2),)),
        ((), ()),
    ):
        servers.look("f", identity, names, again=False)
        async with asyncio.timeout(5):
            assert await told.get() == "f"
        assert servers.of("f") == expected
        await asyncio.sleep(0)
    await servers.stop()
