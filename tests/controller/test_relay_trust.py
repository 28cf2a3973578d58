"""How controller and relay know each other beside the relay's own key: certificates of the controller's authority, and tokens for networks."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from people import person
from test_relays import linked, register

from shadowmesh.client_api.clientcertificate import renewal
from shadowmesh.model import api
from shadowmesh.model.clock import Now
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import LinkError
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.relaylink import ClientUsage, RelayRegistered, Revocations, Serves, TokenKeys, Usage, UsageTaken
from shadowmesh.protocol.signing import Signer
from shadowmesh.relay.controllerlink import Advertised, RelayControllerLink
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.store import RelayStore

if TYPE_CHECKING:
    from tests.controller.conftest import World

PATIENCE = 8.0


async def token(world: World, **wish: Any) -> str:
    return str((await world.call("relay_token", api.RelayTokenCreate(**wish))).token)


@asynccontextmanager
async def relay(
    world: World, folder: Path, given: str | None = None, *, mtls: bool = True
) -> AsyncIterator[RelayControllerLink]:
    """A relay's link, as its process holds it."""
    import time

    with RelayStore(folder) as store:
        core = RelayCore(store.signer())
        link = RelayControllerLink(
            core,
            store,
            Advertised("r1", "ws://127.0.0.1:9545", udp=False, port=9545),
            clock=lambda: Now(time.monotonic(), time.time()),
            send=lambda _: None,
            url=world.url,
            token=None if given is None else Secret(given.encode()),
            fingerprint=world.fingerprint,
            mtls=mtls,
        )
        task = asyncio.create_task(link.run())
        yield link
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_linked(world: World) -> None:
    async with asyncio.timeout(PATIENCE):
        while not world.at.hub.relays:  # noqa: ASYNC110 - a plain table
            await asyncio.sleep(0.01)


async def until_gone(world: World) -> None:
    async with asyncio.timeout(PATIENCE):
        while world.at.hub.relays:  # noqa: ASYNC110 - a plain table
            await asyncio.sleep(0.01)


async def test_a_relay_gets_a_certificate_by_its_token_and_is_linked_by_that_alone(
    world: World, tmp_path: Path
) -> None:
    async with relay(world, tmp_path, await token(world)) as link:
        await until_linked(world)
        assert (tmp_path / "client.crt").exists() and (tmp_path / "client.key").stat().st_mode & 0o777 == 0o600
        state, signer = link.state, link._core.signer
    await until_gone(world)
    async with relay(world, tmp_path):  # without any secret of before
        await until_linked(world)
    await until_gone(world)
    # who stole its key alone, and not the certificate's, is not linked
    known = RelayRegistered(relay_id=state.relay_id, name=state.name, token_keys=(), controller_urls=())  # type: ignore[arg-type]
    async with linked(world, signer, known) as end:
        refused = await end.next(LinkError)
        assert refused.code == "relay_uncertified"
    assert not world.at.hub.relays


async def test_another_relays_certificate_is_none(world: World, tmp_path: Path) -> None:
    for name in ("one", "two"):
        async with relay(world, tmp_path / name, await token(world)):
            await until_linked(world)
        await until_gone(world)
    for name in ("client.crt", "client.key"):
        (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    with RelayStore(tmp_path / "two") as store:
        assert renewal(store.certificate, dt.datetime.now(dt.UTC), "relay")[0] != store.load().relay_id
    async with relay(world, tmp_path / "two") as link:
        async with asyncio.timeout(PATIENCE):
            while "certificate" not in link._said:  # noqa: ASYNC110 - what is logged
                await asyncio.sleep(0.01)
        assert not world.at.hub.relays


async def test_it_is_renewed_by_itself_with_the_relays_key(world: World, tmp_path: Path) -> None:
    world.clock.advance(days=-62)  # what is signed now has passed two thirds of its life by the relay's clock
    given = await token(world, expires_in=90 * 86400)
    async with relay(world, tmp_path, given):
        async with asyncio.timeout(PATIENCE):
            while not (tmp_path / "client.crt").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        before = (tmp_path / "client.crt").read_text()
        assert renewal(tmp_path / "client.crt", dt.datetime.now(dt.UTC), "relay")[1] < 0
        world.clock.ahead = dt.timedelta()
        await until_linked(world)
        world.at.hub.relays.popitem()[1].close(1012, "again")
        async with asyncio.timeout(20):
            while (tmp_path / "client.crt").read_text() == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert renewal(tmp_path / "client.crt", dt.datetime.now(dt.UTC), "relay")[1] > 50 * 86400
    told = [e for e in await world.call("audit_list") if e.action == "relay.certificate"]
    assert len(told) >= 2 and all("until" in e.detail["after"] for e in told)


async def test_a_relay_without_a_certificate_is_linked_as_before(world: World, tmp_path: Path) -> None:
    async with relay(world, tmp_path, await token(world), mtls=False):
        await until_linked(world)
    assert not (tmp_path / "client.crt").exists()


async def test_a_certificate_is_renewed_for_who_shows_it_alone(world: World) -> None:
    from people import web
    from test_matrix import CSR

    async with web(world) as client:
        answer = await client.post("/api/v1/relays/certificate", json={"csr": CSR})
        assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")


async def test_a_relay_of_a_networks_token_is_told_of_there_alone_and_knows_it(world: World) -> None:
    await world.network("office")
    await world.network("home", subnet="10.43.0.0/24")
    signer = Signer.generate()
    answer = await register(world, signer, await token(world, networks=["home"]), url="ws://one.example:9545")
    made = from_json(answer.content, RelayRegistered)
    home = await world.call("network_show", "home")
    async with linked(world, signer, made) as end:
        assert (await end.next(Serves)).networks == (NetworkID.parse(home.wire_id),)
        for network, expected in (("office", []), ("home", [made.relay_id])):
            device = await world.member(network)
            assert [r.relay_id for r in device.map.head.relays] == expected, network


async def test_of_a_relay_for_one_network_others_hear_nothing_and_it_nothing_of_them(world: World) -> None:
    await world.network("office")
    await world.network("home", subnet="10.43.0.0/24")
    signer, people = Signer.generate(), [await person(world, n, {n: "owner"}) for n in ("office", "home")]
    answer = await register(world, signer, await token(world, networks=["home"]), url="ws://one.example:9545")
    made = from_json(answer.content, RelayRegistered)
    clients = {n: (await world.device().join((await world.invite(n)).invite)).client_id for n in ("office", "home")}
    async with linked(world, signer, made) as end:
        first = await end.next(Revocations)
        assert first.complete and first.entries == ()
        entries = tuple(ClientUsage(client_id=client, sent=5, received=7) for client in clients.values())
        usage = Usage(ledger="ab" * 16, number=1, at=world.at.context.now().timestamp(), entries=entries)
        await end.socket.send(to_json(usage).decode())
        await end.next(UsageTaken)
        assert [(row.network, row.relayed_sent) for row in await world.call("usage")] == [("home", 5)]
        for network in ("office", "home"):
            await world.call("client_remove", network, clients[network])
        assert [entry.client_id for entry in (await end.next(Revocations)).entries] == [clients["home"]]
    async with linked(world, signer, made) as end:
        assert [entry.client_id for entry in (await end.next(Revocations)).entries] == [clients["home"]]
    await world.at.events.flush()
    seen = []
    for who in people:
        relays = (await who.ask("GET", "/relays")).json()["items"]
        logs = (await who.ask("GET", f"/networks/{who.email.partition('@')[0]}/logs?source=relay")).json()["items"]
        seen.append((len(relays), len(logs) > 0))
    assert seen == [(0, False), (1, True)]
    refused = await people[0].ask("PATCH", "/networks/office", {"relay": made.name})
    unknown = await people[0].ask("PATCH", "/networks/office", {"relay": "none"})
    assert refused.status_code == unknown.status_code == 404
    assert refused.text.replace(made.name, "none") == unknown.text
    assert (await people[1].ask("PATCH", "/networks/home", {"relay": made.name})).status_code == 200
    with pytest.raises(ShadowMeshError) as told:
        await world.call("network_set", "office", api.NetworkPatch(relay=made.name))
    assert told.value.code == "relay_elsewhere", "an administrator may know"


async def test_a_relay_of_a_plain_token_is_for_all(world: World) -> None:
    await world.network()
    signer = Signer.generate()
    made = from_json((await register(world, signer, await token(world))).content, RelayRegistered)
    async with linked(world, signer, made) as end:
        assert (await end.next(Serves)).networks is None
        assert (await end.next(TokenKeys)).keys
    assert [r.relay_id for r in (await world.member()).map.head.relays] == [made.relay_id]


async def test_a_token_for_a_network_that_isnt_there_is_not_made(world: World) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        await token(world, networks=["nowhere"])
    assert caught.value.code == "network_unknown"
