"""Whole daemons without root: a real controller in this process, and machines whose pump, sockets and interfaces are simulated.

    async with controller(tmp_path) as there:             # TLS and WebSockets on loopback, SQLite on disk
        await there.network("office")
        a = await there.machine("a"); b = await there.machine("b")
        await a.join("office"); await b.join("office")
        assert await a.reaches(b)                          # by packets through both pumps

Time is the real one; nothing waits for more than what it waits for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import ipaddress
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from freeport import free_port

from shadowmesh.client_api.link import ControllerLink
from shadowmesh.client_api.local import AsyncDaemonClient
from shadowmesh.client_api.ownenrolment import OwnEnrolment
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.controller import pki
from shadowmesh.controller.initialise import InitOptions, InitResult, init
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.process import serving
from shadowmesh.controller.service.hub import encode
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.settings import DataDir, Settings, Timing
from shadowmesh.controller.store.database import database_url
from shadowmesh.daemon.daemon import Daemon
from shadowmesh.daemon.environment import Environment
from shadowmesh.daemon.hostnet import HostEvent
from shadowmesh.daemon.local_api import LocalApi
from shadowmesh.daemon.methods import Api
from shadowmesh.daemon.network import Network
from shadowmesh.daemon.options import DaemonOptions
from shadowmesh.daemon.outeraddresses import OuterAddresses
from shadowmesh.daemon.state import State
from shadowmesh.daemon.systemclock import now
from shadowmesh.dataplane.interface import PumpDied
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.sim import SimPump
from shadowmesh.host.hostnetwork import InterfaceConfig
from shadowmesh.model.addresses import IPAddress, IPNetwork, SockAddr
from shadowmesh.model.api import InviteCreate, NetworkCreate
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import LinkMessage
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import AddStream, Command, Event, NetIndex, Slot
from shadowmesh.model.status import JoinResult, NetworkStatus, Status

PATIENCE = 10.0
FAST = Timing(
    join_gather=0.02, presence_gather=0.02, offline_after=0.1, duplicate_probe=0.3, housekeeping=0.1, shutdown_grace=0.5
)
_IPV4 = Slot(0)
_MARK = b"to whom it may concern "


async def until(reached: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `reached` returns when that is true for the first time; fails after `patience` seconds."""
    async with asyncio.timeout(patience):
        while not (value := reached()):  # noqa: ASYNC110 - a packet in a simulated pump has no event
            await asyncio.sleep(0.01)
    return value


def udp_packet(source: ipaddress.IPv4Address, dest: ipaddress.IPv4Address, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram; checksums are left out, as nothing here looks at them."""
    udp = (9).to_bytes(2) * 2 + (8 + len(payload)).to_bytes(2) + b"\0\0" + payload
    head = b"\x45\0" + (20 + len(udp)).to_bytes(2) + b"\0\0\0\0\x40\x11\0\0" + source.packed + dest.packed
    return head + udp


class Pump(SimPump):
    """A SimPump on the event loop, its sockets on the simulated LAN."""

    name = "python"  # what a status may say

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.clock)
        self._machine = machine
        self._readable = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.dead = self.stuck = False
        self.applied: list[Command] = []
        machine.pumps.append(self)

    def fileno(self) -> int:
        return self._readable

    def apply(self, commands: Any) -> None:
        if self.dead:
            raise PumpDied
        self.applied += commands
        super().apply(commands)
        if self.stuck:
            return
        for command in commands:
            if isinstance(command, AddStream) and _closed(command.fd):
                self.end(command.slot)
        self._moved()

    def receive(self, *arguments: Any, **options: Any) -> None:
        super().receive(*arguments, **options)
        self._moved()

    def inject_tun(self, net: NetIndex, packet: bytes, now: Now | None = None) -> None:
        super().inject_tun(net, packet, now)
        self._moved()

    def drain(self, limit: int = 256) -> list[Event]:
        if self.dead:
            raise PumpDied
        os.eventfd_read(self._readable)
        events = super().drain(limit)
        self._moved()
        return events

    def kill(self) -> None:
        self.die()

    def die(self) -> None:
        """As if its process had been killed."""
        self.dead = True
        os.eventfd_write(self._readable, 1)

    def close(self) -> None:
        super().close()
        if self in self._machine.pumps:
            self._machine.pumps.remove(self)
            os.close(self._readable)

    def _moved(self) -> None:
        for out in self.take_outgoing():
            if out.remote is not None:
                self._machine.lan.carry(self._machine, out.remote, out.data)
        for net, packet in self.take_delivered():
            self._machine.delivered.append(packet)
            self._machine.take_echo(self, net, packet)
        if self.core.events.waiting:
            os.eventfd_write(self._readable, 1)


def _closed(fd: int) -> bool:
    """Whether the other end of a stream is."""
    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            return end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False


class Link(ControllerLink):
    """A link that doesn't get through to some URLs."""

    def __init__(self, cut_off: set[str], **options: Any) -> None:
        super().__init__(**options)
        self._cut_off = cut_off

    async def _connect(self, url: str) -> Any:
        if url in self._cut_off:
            raise ConnectionRefusedError(111, "Connection refused")
        return await super()._connect(url)


class Lan:
    """One Ethernet on which all machines of a test are."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}

    def carry(self, sender: Machine, remote: SockAddr, data: bytes) -> None:
        target = self.machines.get(remote.host)
        if target is not None and target.port == remote.port:
            asyncio.get_running_loop().call_soon(target.hears, SockAddr(sender.address, sender.port), data)


class SimEcho:
    """Echo requests through a simulated interface."""

    def __init__(
        self,
        machine: Machine,
        netns: str | None,
        interface: str,
        source: ipaddress.IPv4Address,
        dest: ipaddress.IPv4Address,
    ) -> None:
        self._machine = machine
        self._network = next(
            n
            for n in machine.daemon.networks.values()
            if n.interface is not None and (n.interface.netns, n.interface.name) == (netns, interface)
        )
        self._head = b"\x45\0\0\x24\0\0\0\0\x40\x01\0\0" + source.packed + dest.packed

    async def once(self, timeout: float) -> float | None:
        payload = os.urandom(8)
        answered = self._machine.echoes[payload] = asyncio.get_running_loop().create_future()
        started = asyncio.get_running_loop().time()
        self._machine.pumps[-1].inject_tun(self._network.net, self._head + b"\x08\0\0\0\0\1\0\1" + payload)
        await asyncio.wait({answered}, timeout=timeout)
        del self._machine.echoes[payload]
        return asyncio.get_running_loop().time() - started if answered.done() else None

    def close(self) -> None: ...


class SimSocket:
    def __init__(self, machine: Machine, address: IPAddress, port: int) -> None:
        if address.version == 6:
            raise OSError("no IPv6 here")
        if port in machine.taken_ports:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        machine.port = port
        machine.open_sockets += 1
        self._machine = machine

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._machine.open_sockets -= 1


class SimHost:
    """The host's network: interfaces as they were asked for."""

    def __init__(
        self,
        machine: Machine,
        tell: Callable[[HostEvent], None],
        is_member: Callable[[IPAddress], bool],
        netns: str | None,
    ) -> None:
        self._machine = machine
        self.tell = tell
        self.interfaces: dict[int, InterfaceConfig] = {}  # by descriptor
        self.outer = OuterAddresses(is_member)
        self.warnings: list[str] = []
        self.lans: list[tuple[str, IPNetwork]] = []
        self.netns = netns
        if netns is None:
            machine.host = self

    def start(self) -> None:
        if self.netns is not None:
            if self.netns not in self._machine.namespaces:
                raise ShadowMeshError(
                    "netns_unknown", f"there is no network namespace {self.netns}", kind=Kind.NOT_FOUND
                )
            self._machine.namespaces[self.netns] = self

    def stop(self) -> None:
        assert not self.interfaces, "an interface was left behind"
        if self.netns is not None and self._machine.namespaces.get(self.netns) is self:
            self._machine.namespaces[self.netns] = None

    def configure(self, fd: int, wanted: InterfaceConfig) -> None:
        self.interfaces[fd] = wanted

    def forget(self, fd: int) -> None:
        self.interfaces.pop(fd, None)

    def hold_outer(self, owner: Hashable, addresses: Iterable[IPAddress]) -> None:
        self.outer.hold(owner, addresses)

    def members_changed(self) -> None: ...

    def reaching(self, address: IPAddress) -> None:
        self.outer.sent_to(address, self._machine.clock().boot)

    def outer_within(self, subnet: IPNetwork) -> list[IPAddress]:
        return [a for a in self.outer.held() if a.version == subnet.version and a in subnet]

    def addresses(self) -> HostAddresses:
        return HostAddresses((ipaddress.IPv4Interface(f"{self._machine.address}/24"),))

    def gateway(self) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | None:
        return self._machine.gateway

    def overlaps(self, subnet: IPNetwork, ignore: Collection[str]) -> list[tuple[str, IPNetwork]]:
        return [(name, lan) for name, lan in self.lans if name not in ignore and lan.overlaps(subnet)]


@dataclass(eq=False)
class Machine:
    """A host with its state directory; `start` and `stop` are those of its daemon."""

    name: str
    lan: Lan
    address: str
    directory: Path
    wall_shift: float = 0.0
    port: int = 0
    open_sockets: int = 0
    taken_ports: frozenset[int] = frozenset()
    tun_error: ShadowMeshError | None = None  # why no interface can be made
    host: SimHost = field(init=False)
    namespaces: dict[str, SimHost | None] = field(
        default_factory=dict
    )  # that this machine has; a daemon looks after those with a host
    pumps: list[Pump] = field(default_factory=list)
    delivered: list[bytes] = field(default_factory=list)
    links: list[ControllerLink] = field(default_factory=list)
    options: DaemonOptions = field(default_factory=DaemonOptions)
    own: OwnEnrolment | None = None  # where it enrols itself
    answers_echo: bool = True
    gateway: tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | None = None
    to_router: socket.socket | None = None  # what asks it
    echoes: dict[bytes, asyncio.Future[None]] = field(default_factory=dict)  # that are waited for, by their payload
    cut_off: set[str] = field(default_factory=set)  # URLs to which nothing gets through
    methods: Api = field(init=False)
    _daemon: Daemon | None = None
    _state: State | None = None
    _local: LocalApi | None = None
    _tuns: int = 0

    def __post_init__(self) -> None:
        self.lan.machines[self.address] = self
        self.directory.mkdir(exist_ok=True)

    # what it stands on

    def clock(self) -> Now:
        moment = now()
        return Now(moment.boot, moment.wall + self.wall_shift)

    def environment(self) -> Environment:
        return Environment(
            clock=self.clock,
            host=partial(SimHost, self),
            start_pump=lambda: Pump(self),
            open_udp=partial(SimSocket, self),
            connect=self._connect,
            open_tun=self._open_tun,
            link=self._link,
            echo=partial(SimEcho, self),
            ask_router=self._ask_router,
        )

    def _ask_router(self, _client: ipaddress.IPv4Address, _gateway: ipaddress.IPv4Address) -> socket.socket:
        assert self.to_router is not None
        return self.to_router.dup()

    def _open_tun(self, _netns: str | None) -> tuple[int, str]:
        self._tuns += 1
        if self.tun_error is not None:
            raise self.tun_error
        return os.memfd_create("simulated-tun"), f"shadowmesh{self._tuns - 1}"

    async def _connect(
        self, host: str, port: int, timeout: float, reaching: Callable[[IPAddress], None]
    ) -> socket.socket:
        return await OuterSockets(required=False, reaching=reaching).connect(host, port, timeout)

    def _link(self, **options: Any) -> ControllerLink:
        link = Link(self.cut_off, **options, jitter=lambda most: 0.02 * most / 5.0)
        self.links.append(link)
        return link

    # its daemon

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    @property
    def running(self) -> bool:
        return self._daemon is not None

    @property
    def client(self) -> AsyncDaemonClient:
        return AsyncDaemonClient(self.directory)

    async def start(self) -> Self:
        self._state = State(self.directory)
        self._daemon = Daemon(self._state, self.environment(), self.options)
        await self._daemon.start()
        self.methods = Api(self._daemon, self.own)
        self._local = LocalApi(self.directory, self.methods.methods)
        await self._local.start()
        self.methods.start()
        return self

    async def stop(self) -> None:
        """As SIGTERM does."""
        assert self._local is not None and self._state is not None
        daemon, self._daemon = self.daemon, None
        await self._local.stop()
        await daemon.stop()
        self._state.close()
        assert not self.pumps and not self.open_sockets, "a pump or a socket was left behind"

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def crash(self) -> None:
        """As kill -9: nothing is on disk but what was at this moment. The daemon isn't running afterwards."""
        kept = self.directory.with_name(f"{self.name}-kept")
        kept.mkdir()
        with sqlite3.connect(self.directory / "state.db") as source, sqlite3.connect(kept / "state.db") as to:
            source.backup(to)
        source.close()
        to.close()
        for entry in self.directory.iterdir():
            if entry.is_dir():
                shutil.copytree(entry, kept / entry.name)
            elif entry.is_file() and not entry.name.startswith("state.db"):
                shutil.copy2(entry, kept / entry.name)
        await self.stop()
        shutil.rmtree(self.directory)
        kept.rename(self.directory)

    # what a person does

    async def join(self, invite: str, **params: Any) -> JoinResult:
        from shadowmesh.model.codec import from_builtins

        return from_builtins(await self.client.call("join", invite=invite, **{"name": self.name} | params), JoinResult)

    async def status(self) -> Status:
        return await self.client.status()

    def network(self, name: str = "office") -> Network:
        (found,) = (n for n in self.daemon.networks.values() if n.name == name)
        return found

    async def network_status(self, name: str = "office") -> NetworkStatus:
        (found,) = (n for n in (await self.status()).networks if n.name == name)
        return found

    # packets

    def hears(self, source: SockAddr, data: bytes) -> None:
        for pump in list(self.pumps):
            if not pump.dead:
                pump.receive(_IPV4, source, data)

    def take_echo(self, pump: Pump, net: NetIndex, packet: bytes) -> None:
        """As its kernel: answers ICMP echo requests, and hands answers to who waits for them."""
        if packet[9] != 1:
            return
        if packet[20] == 8 and self.answers_echo:
            reply = packet[:12] + packet[16:20] + packet[12:16] + b"\0" + packet[21:]
            asyncio.get_running_loop().call_soon(pump.inject_tun, net, reply)
        elif packet[20] == 0 and packet[28:] in self.echoes and not self.echoes[packet[28:]].done():
            self.echoes[packet[28:]].set_result(None)

    def says(self, peer: Machine, word: bytes, network: str = "office") -> None:
        """Sends a packet through the tunnel; the network must be up here."""
        mine = self.network(network)
        theirs = ipaddress.IPv4Address(peer.network(network).record.ip)
        packet = udp_packet(ipaddress.IPv4Address(mine.record.ip), theirs, _MARK + word)
        self.pumps[-1].inject_tun(mine.net, packet)

    def heard(self, word: bytes) -> bool:
        return any(packet.endswith(_MARK + word) for packet in self.delivered)

    async def reaches(self, peer: Machine, network: str = "office", patience: float = PATIENCE) -> bool:
        """Whether a packet sent now gets through the tunnel within `patience` seconds."""
        word = os.urandom(8)
        self.says(peer, word, network)
        try:
            await until(lambda: peer.heard(word), patience)
        except TimeoutError:
            return False
        return True


class Clock:
    """The controller's time, moved by hand on top of the real one."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


@dataclass(eq=False)
class Controller:
    """A running controller, its administrator, and the machines around it."""

    at: Services
    url: str
    data_dir: Path
    first: InitResult
    lan: Lan
    root: Path
    clock: Clock

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

    async def invite(self, network: str = "office", **options: Any) -> str:
        return str((await self.call("invite_create", network, InviteCreate(**options))).invite)

    def say(self, machine: Machine, message: LinkMessage) -> None:
        """Sends it over the machine's link, whatever it is about."""
        self.at.hub.devices[machine.daemon.device.device_key].post(encode(message))

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """No machine gets to it inside the block, and those that were connected aren't any more."""
        for machine in self.lan.machines.values():
            machine.cut_off.add(self.url)
        for link in list(self.at.hub.devices.values()):
            link.close(1001, "away")
        yield
        for machine in self.lan.machines.values():
            machine.cut_off.discard(self.url)

    async def clone(self, machine: Machine, name: str = "clone") -> Machine:
        """Another machine with a copy of this one's state; its daemon isn't started."""
        number = len(self.lan.machines) + 1
        copy = Machine(name, self.lan, f"192.168.7.{number}", self.root / name)
        with (
            sqlite3.connect(machine.directory / "state.db") as source,
            sqlite3.connect(copy.directory / "state.db") as to,
        ):
            source.backup(to)
        source.close()
        to.close()
        (copy.directory / "current").touch()
        shutil.copytree(machine.directory / "maps", copy.directory / "maps")
        return copy

    async def machine(self, name: str, **more: Any) -> Machine:
        """A machine on the LAN whose daemon runs."""
        number = len(self.lan.machines) + 1
        return await Machine(name, self.lan, f"192.168.7.{number}", self.root / name, **more).start()

    async def member(self, name: str, network: str = "office", **more: Any) -> Machine:
        """A machine that joined and whose controller has taken its link."""
        machine = await self.machine(name, **more)
        await machine.join(await self.invite(network))
        await until(lambda: machine.network(network).connected)
        return machine


_made: dict[str, tuple[tempfile.TemporaryDirectory[str], InitResult]] = {}


def _made_before(name: str, target: Path) -> InitResult:
    """A controller's fresh data directory; one of each name is made and copied, as that takes a second."""
    if name not in _made:
        kept = tempfile.TemporaryDirectory(prefix="sm-controller-")
        _made[name] = kept, init(InitOptions(Path(kept.name) / "made", ("https://127.0.0.1:18443",)))
    kept, first = _made[name]
    shutil.copytree(Path(kept.name) / "made", target)
    return first


@asynccontextmanager
async def controller(root: Path, *, lan: Lan | None = None, name: str = "controller") -> AsyncIterator[Controller]:
    """Serves inside the block; at its end all machines of its LAN are stopped and nothing must be left running."""
    lan = lan or Lan()
    port = free_port()
    where = DataDir(root / name)
    first = await asyncio.to_thread(_made_before, name, where.path)
    settings = Settings(public_urls=(f"https://127.0.0.1:{port}",), listen=f"127.0.0.1:{port}")
    async with running(root, where, first, lan, settings) as there:
        before = descriptors(root)
        try:
            yield there
        finally:
            for machine in lan.machines.values():
                if machine.running:
                    await machine.stop()
        await asyncio.sleep(0)
        left = {"tasks": tasks_left(), "timers": timers_left(), "descriptors": descriptors(root)}
        assert left == {"tasks": [], "timers": [], "descriptors": before}, f"left running: {left}, {before} before"


def tasks_left() -> list[str]:
    """Tasks of daemons that still run."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks() if not task.done()]
    frames = [getattr(c, "cr_frame", None) for c in coroutines]
    return [f.f_code.co_qualname for f in frames if f is not None and _is_daemons(f.f_globals["__name__"])]


def timers_left() -> list[str]:
    """Calls that daemons still want made later."""
    handles = [h for h in asyncio.get_running_loop()._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
    callbacks = [h._callback for h in handles]
    return [c.__qualname__ for c in callbacks if _is_daemons(getattr(c, "__module__", None) or "")]


def _is_daemons(module: str) -> bool:
    return module.startswith(("shadowmesh.daemon", "shadowmesh.client_api"))


def descriptors(root: Path) -> list[str]:
    """Those that are open of state directories, of interfaces and of pumps."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            ours = target.startswith(f"{root}/") and Path(target).name.startswith(("state.db", "daemon."))
            if ours or "simulated-tun" in target or target == "anon_inode:[eventfd]":
                found.append(target)
    return sorted(found)


@asynccontextmanager
async def running(
    root: Path, where: DataDir, first: InitResult, lan: Lan, settings: Settings
) -> AsyncIterator[Controller]:
    """A controller that serves inside the block, with what is in its directory; machines go on after it."""
    url = settings.public_urls[0]
    if pki.needs_renewal(where.path, settings, dt.datetime.now(dt.UTC)):
        pki.make_server_certificate(where.path, settings, dt.datetime.now(dt.UTC))
    keys = KeyRing.load(where.keys)
    async with serving(where, settings, keys, database_url(None, where.database), FAST, clock := Clock()) as at:
        yield Controller(at, url, where.path, first, lan, root, clock)


async def refused(what: Any) -> ShadowMeshError:
    """The error that an awaitable ends with."""
    try:
        await what
    except ShadowMeshError as e:
        return e
    raise AssertionError("nothing was refused")
