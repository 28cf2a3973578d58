"""The relay and its controller: registering, revocations in time, and living on without it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import structlog
from fake_controller import FakeController
from freeport import free_port
from live_client import UdpClient
from relay_world import NET_A, World

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.devicelink import LinkError
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import Secret
from shadowmesh.model.relaylink import Alive, ClientUsage, Drain, Revocation, Revocations
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.relay import controllerlink
from shadowmesh.relay.app import RelayOptions, run
from shadowmesh.relay.controllerlink import Advertised, RelayControllerLink
from shadowmesh.relay.metering import Metering
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.server import RelayServer, boottime_clock
from shadowmesh.relay.store import RelayStore

PATIENCE = 5.0


class Running:
    """A relay with its link, as `relay run` puts them together, and a client to try it."""

    def __init__(self, relay: RelayServer, link: RelayControllerLink, task: asyncio.Task[None], world: World) -> None:
        self.relay, self.link, self.task, self.world = relay, link, task, world
        self.clients: list[UdpClient] = []

    async def client(self, ip: str = "10.0.0.1", age: float = 0.0) -> UdpClient:
        device = Signer.generate()
        client = UdpClient(self.relay, ip, self.world.token(device, NET_A, ip, age=age), device)
        await client.open()
        self.clients.append(client)
        return client


@pytest.fixture
async def controller(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeController]:
    monkeypatch.setattr(controllerlink, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(controllerlink, "_LAST_RETRY", 0.1)
    fake = await FakeController(certificate, Signer.generate()).start()
    yield fake
    await fake.stop()


@asynccontextmanager
async def running(
    controller: FakeController, folder: Path, *, token: str | None = None, fingerprint: str | None = None
) -> AsyncIterator[Running]:
    with RelayStore(folder) as store:
        world = World()
        world.controller, world.now = controller.tokens, boottime_clock()
        core = RelayCore(store.signer())
        relay = RelayServer(core, SockAddr("127.0.0.1", 0))
        link = RelayControllerLink(
            core,
            store,
            Advertised("test", "ws://127.0.0.1:9545", port=9545, region="lab", capacity_mbit=100),
            clock=relay.clock,
            send=relay.send,
            url=controller.url,
            token=Secret((token or controller.token).encode()),
            fingerprint=fingerprint or controller.fingerprint,
        )
        async with relay:
            task = asyncio.create_task(link.run())
            site = Running(relay, link, task, world)
            yield site
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for client in site.clients:
                await client.close()


async def test_a_relay_registers_once_and_links_with_what_it_offers(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path) as site:
        hello = await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        assert hello.relay_id == "rly_test"
        assert hello.url == "ws://127.0.0.1:9545"
        assert hello.udp == SockAddr("127.0.0.1", 9545)
        assert (hello.region, hello.capacity_mbit) == ("lab", 100)
        client = await site.client()
        load = await asyncio.wait_for(controller.loads.get(), PATIENCE)
        assert load.sessions == 0
        assert not load.overloaded
        welcome = await client.login()
        assert isinstance(welcome, wire.Welcome)
        assert welcome.fresh
        assert site.link.state.name == "test2"
    async with running(controller, tmp_path, token="used up"):
        again = await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        assert again.key == hello.key
        assert again.boot_id != hello.boot_id
    assert len(controller.registrations) == 1
    for name in ("relay.key", "relay.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


async def test_where_the_controller_says_that_it_will_be_is_kept(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
    controller.announced = ("https://127.0.0.1:1",)
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
    with RelayStore(tmp_path) as store:
        assert store.load().controller_urls == (controller.url, "https://127.0.0.1:1")


async def test_an_identity_played_back_brings_no_old_keys_back(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.signing_keys = (Signer.generate().public,)
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
    refused: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(RelayControllerLink, "_say", lambda _, error: refused.put_nowait(error.code))
    controller.signing_keys, controller.issued_ago = (Signer.generate().public,), 86400.0
    async with running(controller, tmp_path):
        assert await asyncio.wait_for(refused.get(), PATIENCE) == "identity_older"
        assert controller.hellos.empty()
        controller.issued_ago = 0.0  # they are the keys from now on
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)


async def test_a_controller_whose_clock_was_years_ahead_may_renew_its_keys(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.signing_keys, controller.issued_ago = (Signer.generate().public,), -10 * 365 * 86400.0
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
    monkeypatch.setattr(RelayControllerLink, "_say", lambda _, error: pytest.fail(str(error)))
    controller.signing_keys, controller.issued_ago = (Signer.generate().public,), 0.0
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)


async def test_a_wrong_token_ends_it_with_the_controllers_words(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path, token="wrong") as site:
        with pytest.raises(ShadowMeshError, match="wrong or used up; make another") as e:
            await asyncio.wait_for(site.task, PATIENCE)
    assert (e.value.code, e.value.kind) == ("relay_token_invalid", Kind.NOT_ALLOWED)


async def test_another_controller_than_meant_gets_no_token(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path, fingerprint="sha256:" + "0" * 64) as site:
        with pytest.raises(ShadowMeshError) as e:
            await asyncio.wait_for(site.task, PATIENCE)
    assert e.value.code == "fingerprint_mismatch"
    assert controller.registrations == []


async def test_a_revocation_reaches_the_client_within_two_seconds(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path) as site:
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        await asyncio.wait_for(controller.loads.get(), PATIENCE)
        client = await site.client()
        assert isinstance(await client.login(), wire.Welcome)
        wall = controller.wall()
        entry = Revocation(network_id=NET_A, device_key=client.device.device_key, before=wall + 1, until=wall + 1e6)
        await controller.say(Revocations(complete=False, entries=(entry,)))
        bye = await asyncio.wait_for(client.hear_control(), 2.0)
        assert isinstance(bye, wire.Bye)
        assert bye.reason is wire.ByeReason.REVOKED


async def test_draining_and_the_controllers_clock_are_taken_over(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path) as site:
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        await asyncio.wait_for(controller.loads.get(), PATIENCE)
        controller.wall_ahead = 7200.0
        await controller.say(Drain(draining=True))
        await controller.say(Alive(wall=controller.wall()))
        async with asyncio.timeout(PATIENCE):
            while abs(site.relay.core.wall_offset - 7200) > 1:  # noqa: ASYNC110 - another task takes it in
                await asyncio.sleep(0.005)
        refused = await (await site.client()).login()
        assert isinstance(refused, wire.Refuse)
        assert refused.code is wire.Refusal.DRAINING


async def test_restarted_with_the_controller_away_it_serves_and_still_knows_who_was_revoked(
    controller: FakeController, tmp_path: Path
) -> None:
    """Faults 9 and 14: the same (day-old) token counts again at once; a revoked client stays out."""
    async with running(controller, tmp_path) as site:
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        await asyncio.wait_for(controller.loads.get(), PATIENCE)
        bad = await site.client("10.0.0.2")
        entry = Revocation(network_id=NET_A, device_key=bad.device.device_key, before=controller.wall() + 1, until=2e9)
        await controller.say(Revocations(complete=False, entries=(entry,)))
        async with asyncio.timeout(PATIENCE):
            while not site.link.state.revocations:  # noqa: ASYNC110 - another task takes it in
                await asyncio.sleep(0)
    await controller.stop()
    async with running(controller, tmp_path) as site:
        good = await site.client(age=86400.0)
        welcome = await good.login()
        assert isinstance(welcome, wire.Welcome)
        assert not welcome.fresh
        again = UdpClient(site.relay, "10.0.0.2", bad.token, bad.device)
        await again.open()
        site.clients.append(again)
        refused = await again.login()
        assert isinstance(refused, wire.Refuse)
        assert refused.code is wire.Refusal.REVOKED
        assert not site.task.done()
        await controller.start()  # and when it is back, so is the link
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)


async def test_a_registered_relay_goes_on_when_the_controller_will_not_have_it(
    controller: FakeController, tmp_path: Path
) -> None:
    async with running(controller, tmp_path) as site:
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        controller.refuse_links = LinkError(code="relay_unknown", what="this relay was removed")
        for link in list(controller.links):
            await link.close()
        for _ in range(2):  # it asks again
            await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        assert not site.task.done()


async def test_a_removed_relay_registers_anew_with_a_new_token(controller: FakeController, tmp_path: Path) -> None:
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
    controller.refuse_links = LinkError(code="relay_unknown", what="this relay is not registered here")
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        controller.refuse_links = None
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        await asyncio.wait_for(controller.loads.get(), PATIENCE)
    assert len(controller.registrations) == 2
    assert controller.registrations[0].key == controller.registrations[1].key


def options(folder: Path, **more: object) -> RelayOptions:
    port = free_port()
    fields: dict[str, object] = {"data_dir": folder, "public_url": f"ws://127.0.0.1:{port}"}
    return RelayOptions(**(fields | {"listen": f"127.0.0.1:{port}"} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "relay_not_registered"),
        ({"public_url": "http://relay:9545"}, "bad_public_url"),
        ({"listen": "relay:http"}, "bad_listen"),
        ({"listen": "0.0.0.0:65535"}, "bad_listen"),  # the next one is needed, too
        ({"tls_cert": Path("/nowhere")}, "bad_certificate"),
        ({"tls_cert": Path("/nowhere"), "tls_key": Path("/nowhere")}, "bad_certificate"),
        ({"data_dir": Path("/proc/nowhere")}, "state_unwritable"),
    ],
)
def test_what_cannot_work_is_one_clear_error(tmp_path: Path, more: dict[str, object], code: str) -> None:
    with pytest.raises(ShadowMeshError) as e:
        run(options(tmp_path, **more))
    assert e.value.code == code
    assert e.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("relay.json", b"{", "state_unreadable"),
        ("relay.json", b'{"format":99}', "state_newer"),
        ("relay.key", b"no key", "state_unreadable"),
    ],
)
def test_a_damaged_or_newer_state_is_named(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShadowMeshError, match=name) as e:
        run(options(tmp_path, controller="https://127.0.0.1:1", token="t"))
    assert e.value.code == code


async def test_a_mistake_of_ours_ends_neither_the_link_nor_the_relay(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = RelayControllerLink._take
    failures = iter([RuntimeError("nobody thought of this")])

    def take(link: RelayControllerLink, message: object) -> None:
        for error in failures:
            raise error
        taken(link, message)  # type: ignore[arg-type]

    monkeypatch.setattr(RelayControllerLink, "_take", take)
    async with running(controller, tmp_path) as site:
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        assert not site.task.done()


async def test_a_controllers_restart_is_told_as_one(controller: FakeController, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as told:
        async with running(controller, tmp_path):
            await controller.hellos.get()
            await controller.links[0].close(1012)
            await controller.hellos.get()
    (away,) = [entry for entry in told if entry["event"] == "controller away"]
    assert (away["code"], away["what"]) == ("link_lost", f"the controller at {controller.url} restarts")


async def test_a_controller_that_falls_silent_is_said_to_be_silent_and_tried_again(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllerlink, "_SILENCE", 0.2)
    with structlog.testing.capture_logs() as told:
        async with running(controller, tmp_path):
            await controller.hellos.get()
            await controller.hellos.get()
    away = [entry for entry in told if entry["event"] == "controller away"]
    assert {(entry["code"], entry["what"]) for entry in away} == {
        ("link_lost", f"the controller at {controller.url} has said nothing for 0 s")
    }


def test_a_second_relay_in_one_directory_is_refused(tmp_path: Path) -> None:
    with RelayStore(tmp_path), pytest.raises(ShadowMeshError) as e:
        run(options(tmp_path))
    assert (e.value.code, e.value.kind) == ("relay_running", Kind.CONFLICT)


SCRIPT = """
import sys
from pathlib import Path
from shadowmesh.relay.app import RelayOptions, run
folder, listen, url, token, fingerprint = sys.argv[1:]
run(RelayOptions(data_dir=Path(folder), public_url=f"ws://{listen}", listen=listen,
                 controller=url, token=token, fingerprint=fingerprint))
"""


async def test_the_process_registers_serves_and_ends_at_sigterm(controller: FakeController, tmp_path: Path) -> None:
    made = options(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, str(tmp_path), made.listen, controller.url, controller.token,
        controller.fingerprint, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    hello = await asyncio.wait_for(controller.hellos.get(), 10)
    assert str(hello.udp) == made.listen
    process.send_signal(signal.SIGTERM)
    output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, output.decode()
    assert controller.token.encode() not in output
    assert b"Traceback" not in output


async def test_what_clients_used_is_told_until_it_is_taken_and_kept_on_disk_until_then(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllerlink, "Metering", partial(Metering, every=0.02))
    used: list[dict[ClientID, tuple[int, int]]] = []
    monkeypatch.setattr(RelayCore, "take_usage", lambda _: used.pop() if used else {})
    name, controller.takes_usage = ClientID("cli_a"), False
    async with running(controller, tmp_path):
        await asyncio.wait_for(controller.hellos.get(), PATIENCE)
        used.append({name: (10, 1)})
        first = await asyncio.wait_for(controller.usages.get(), PATIENCE)
        used.append({name: (20, 2)})
        again = await asyncio.wait_for(controller.usages.get(), PATIENCE)
        assert (
            again == first
            and first.number == 1
            and first.entries == (ClientUsage(client_id=name, sent=10, received=1),)
        )
        with_the_rest = (tmp_path / "usage.json").read_bytes
        while b"20" not in await asyncio.to_thread(with_the_rest):
            pass
    controller.takes_usage = True
    while not controller.usages.empty():
        controller.usages.get_nowait()
    async with running(controller, tmp_path):  # another process
        told = [await asyncio.wait_for(controller.usages.get(), PATIENCE)]
        while told[-1].number == 1:  # perhaps told again before the answer was there
            told.append(await asyncio.wait_for(controller.usages.get(), PATIENCE))
        assert len(told) > 1 and all(message == first for message in told[:-1]), "as before, so that it counts once"
        assert (told[-1].ledger, told[-1].number) == (first.ledger, 2)
        assert told[-1].entries == (ClientUsage(client_id=name, sent=20, received=2),)
        while b"cli_a" in await asyncio.to_thread((tmp_path / "usage.json").read_bytes):
            pass
