"""A real controller on loopback: TLS, WebSockets, SQLite on disk; and devices as the daemon would be."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from cheaper import cheap_passwords, statements_compiled_once  # noqa: F401 - fixtures
from freeport import free_port
from pgserver import Server, empty
from sqlalchemy.engine import URL

from shadowmesh.client_api import enroll as enrolment
from shadowmesh.client_api.link import ControllerLink, MapChanged
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.controller.initialise import InitOptions, InitResult, init
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.outward.mail import Mailer
from shadowmesh.controller.outward.redisbuckets import RedisBuckets
from shadowmesh.controller.process import serving
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.settings import DataDir, Settings, Timing
from shadowmesh.controller.store.database import Store, database_url, open_store
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.model.api import InviteCreate, NetworkCreate
from shadowmesh.model.devicelink import Grant, PresenceUpdate
from shadowmesh.model.enrol import EnrolAnswer
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.noise import generate_private_key, public_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer

FAST = Timing(
    join_gather=0.02,
    presence_gather=0.02,
    watch_every=0.05,
    offline_after=0.1,
    duplicate_probe=0.3,
    testimony=0.5,
    housekeeping=0.1,
    shutdown_grace=1.0,
)
PATIENCE = 8.0


class Clock:
    """The controller's time, moved by hand on top of the real one."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead

    def advance(self, **by: float) -> None:
        self.ahead += dt.timedelta(**by)


@dataclass
class Device:
    """A machine with its keys, and what its link has told it."""

    world: World
    signer: Signer = field(default_factory=Signer.generate)
    boot_id: str = "boot-1"
    wg_private: Secret = field(default_factory=generate_private_key)
    events: list[Any] = field(default_factory=list)
    presence: dict[ClientID, Any] = field(default_factory=dict)
    grants: dict[NetworkID, Grant] = field(default_factory=dict)
    link: ControllerLink | None = None
    answer: EnrolAnswer | None = None
    identity: Any = None
    _task: asyncio.Task[None] | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.sealing_secret, self.sealing_key = generate_sealing_keys()

    @property
    def wg_key(self) -> WireGuardPublicKey:
        return public_key(self.wg_private)

    async def join(self, invite: str, **options: Any) -> EnrolAnswer:
        parsed = enrolment.parse_invite(invite, controller=self.world.url, fingerprint=self.world.fingerprint)
        result = await asyncio.to_thread(
            enrolment.enroll,
            parsed,
            device=self.signer,
            wg_private=self.wg_private,
            sealing_private=self.sealing_secret,
            **({"hostname": "laptop"} | options),
        )
        self.answer, self.identity = result.answer, result.contact.identity
        return result.answer

    async def connect(self, *, maps: tuple[NetworkMap, ...] = (), keys: Mapping[int, Secret] | None = None) -> Self:
        """`keys`: those that it holds of every network, by epoch."""
        if not maps and self.answer is not None and self.answer.map is not None:
            maps = (self.answer.map.apply(None),)
        self.link = ControllerLink(
            urls=(self.world.url,),
            fingerprint=self.world.fingerprint,
            device=self.signer,
            boot_id=self.boot_id,
            identity=self.identity,
            maps=maps,
            networks=() if self.answer is None else (self.answer.network_id,),
            wall=lambda: self.world.clock().timestamp(),
            keys=lambda _: keys or {},
            jitter=lambda most: 0.02 * most / 5.0,
        )
        if self.world.pinned:
            self.link._candidates = lambda: (self.world.url,)  # type: ignore[method-assign]
        self.world.devices.append(self)
        self._task = asyncio.create_task(self._listen(self.link))
        return self

    async def _listen(self, link: ControllerLink) -> None:
        async for event in link.run():
            async with self._news:
                self.events.append(event)
                if isinstance(event, PresenceUpdate):
                    self.presence.update((p.client_id, p) for p in event.changes)
                if isinstance(event, Grant):
                    self.grants[event.network_id] = event
                self._news.notify_all()

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until it is true after some event; returns its value."""
        async with self._news:
            async with asyncio.timeout(PATIENCE):
                await self._news.wait_for(condition)
            return condition()

    async def until_event(self, kind: type, matching: Callable[[Any], bool] = lambda _: True) -> Any:
        return await self.until(lambda: next((e for e in self.events if isinstance(e, kind) and matching(e)), None))

    async def until_map(self, matching: Callable[[NetworkMap], bool]) -> NetworkMap:
        def newest() -> NetworkMap | None:
            assert self.link is not None
            return next((m for m in self.link.maps.values() if matching(m)), None)

        found = await self.until(newest)
        assert isinstance(found, NetworkMap)
        return found

    @property
    def map(self) -> NetworkMap:
        assert self.link is not None
        (found,) = self.link.maps.values()
        return found

    async def settled(self) -> Self:
        """The link is up and has its map."""
        await self.until_event(MapChanged)
        return self

    async def close(self) -> None:
        if self.link is not None:
            await self.link.close()
        if self._task is not None:
            await asyncio.wait_for(self._task, PATIENCE)
            self._task = None


@dataclass
class World:
    """One controller and those who talk to it."""

    at: Services
    url: str
    data_dir: Path
    first: InitResult
    clock: Clock
    devices: list[Device] = field(default_factory=list)
    pinned: bool = False  # its devices know no other node

    @property
    def fingerprint(self) -> str:
        return self.first.fingerprint

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A verb of the local administrator's client, in a thread as it blocks."""

        def run() -> Any:
            with ControllerClient.local(self.data_dir) as client:
                answer = getattr(client, method)(*arguments, **options)
                return list(answer) if isinstance(answer, Iterator) else answer

        return await asyncio.to_thread(run)

    async def network(self, name: str = "office", subnet: str = "10.42.0.0/24", **options: Any) -> Any:
        return await self.call("network_create", NetworkCreate(name=name, subnet=subnet, **options))

    async def invite(self, network: str = "office", **options: Any) -> Any:
        return await self.call("invite_create", network, InviteCreate(**options))

    async def invites(self, network: str = "office") -> list[Any]:
        """Without the one that is made with the network."""
        return [i for i in await self.call("invite_list", network) if not i.standing]

    async def member(self, network: str = "office", **options: Any) -> Device:
        """A device that joined and is connected."""
        device = Device(self)
        await device.join((await self.invite(network)).invite, **options)
        return await (await device.connect()).settled()

    def device(self) -> Device:
        return Device(self)

    def clone(self, of: Device) -> Device:
        """A machine that was copied from that of `of`, and runs beside it."""
        clone = self.device()
        clone.signer, clone.boot_id, clone.identity = of.signer, "boot-2", of.identity
        return clone


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InitResult]:
    """An initialised data directory, made once and copied."""
    path = tmp_path_factory.mktemp("template") / "controller"
    result = init(InitOptions(path, ("https://127.0.0.1:18443",)))
    return path, result


@pytest.fixture
def data_dir(template: tuple[Path, InitResult], tmp_path: Path) -> Path:
    target = tmp_path / "controller"
    shutil.copytree(template[0], target)
    return target


@pytest.fixture
def timing() -> Timing:
    return FAST


@pytest.fixture
def other_urls() -> tuple[str, ...]:
    """Under which the controller is known, too."""
    return ()


@contextlib.asynccontextmanager
async def served(
    data_dir: Path,
    first: InitResult,
    port: int,
    timing: Timing,
    clock: Clock,
    other_urls: tuple[str, ...] = (),
    mailer: Mailer | None = None,
    redis: RedisBuckets | None = None,
    **told: Any,
) -> AsyncIterator[World]:
    """The controller of a directory, with its SQLite database, while the block lasts. `told`: more of its settings."""
    url = f"https://127.0.0.1:{port}"
    where = DataDir(data_dir)
    settings = Settings(public_urls=(url, *other_urls), listen=f"127.0.0.1:{port}", **told)
    keys, database = KeyRing.load(where.keys), database_url(None, where.database)
    async with serving(where, settings, keys, database, timing, clock, mailer=mailer, redis=redis) as at:
        found = World(at, url, data_dir, first, clock)
        yield found
        for device in found.devices:
            await device.close()


@pytest.fixture
def serve(template: tuple[Path, InitResult], timing: Timing) -> Callable[..., Any]:
    """`async with serve(directory, port) as world` for a controller that is stopped and started again."""
    return lambda data_dir, port, **more: served(data_dir, template[1], port, timing, Clock(), **more)


@pytest.fixture
def dashboard() -> bool:
    """Whether the web dashboard is served."""
    return False


@pytest.fixture
async def world(
    data_dir: Path, template: tuple[Path, InitResult], timing: Timing, other_urls: tuple[str, ...], dashboard: bool
) -> AsyncIterator[World]:
    async with served(data_dir, template[1], free_port(), timing, Clock(), other_urls, web=dashboard) as found:
        yield found


@pytest.fixture
def login_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


# PostgreSQL


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server of our own on a unix socket, without durability, gone afterwards."""
    server = Server(Path("/tmp") / f"shadowmesh-controller-pg-{os.getpid()}")
    server.init()
    server.start()
    try:
        yield f"postgresql://shadowmesh@/postgres?host={server.base}"
    finally:
        server.stop()
        server.remove()


@pytest.fixture
async def pg(postgres: str, tmp_path: Path) -> AsyncIterator[Store]:
    found = open_store(database_url(postgres, tmp_path))
    empty(found.engine)
    migrate(found.engine)
    yield found
    found.close()


@contextlib.asynccontextmanager
async def node(
    directory: Path, first: tuple[Path, InitResult], database: URL, timing: Timing, clock: Clock
) -> AsyncIterator[World]:
    """A controller with the template's keys on this database, with sockets and a directory of its own."""
    where, port = DataDir(directory), free_port()
    shutil.copytree(first[0], where.path)
    settings = Settings(public_urls=(f"https://127.0.0.1:{port}",), listen=f"127.0.0.1:{port}")
    async with serving(where, settings, KeyRing.load(where.keys), database, timing, clock) as at:
        found = World(at, settings.public_urls[0], where.path, first[1], clock, pinned=True)
        yield found
        for device in found.devices:
            await device.close()


@pytest.fixture
async def nodes(
    pg: Store, postgres: str, template: tuple[Path, InitResult], tmp_path: Path, timing: Timing
) -> AsyncIterator[tuple[World, World]]:
    """Two controllers with the same keys on one PostgreSQL, each with its own sockets and directory."""
    clock, database = Clock(), database_url(postgres, tmp_path)
    async with (
        node(tmp_path / "one", template, database, timing, clock) as one,
        node(tmp_path / "two", template, database, timing, clock) as two,
    ):
        yield one, two
