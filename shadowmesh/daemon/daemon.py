"""The client daemon: composes Node, pump, networks, links and streams, and reacts to what they tell.

What is decided, the Node decides; what is moved, the pump moves. Here their ends are joined, on one event loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from shadowmesh.client_api.link import MapChanged
from shadowmesh.daemon.clock import now
from shadowmesh.daemon.driver import Driver
from shadowmesh.daemon.hostnet import HostNet
from shadowmesh.daemon.join import overlap_error
from shadowmesh.daemon.links import Links
from shadowmesh.daemon.network import INNER_MTU, Interface, Network
from shadowmesh.daemon.relay_stream import RelayStream
from shadowmesh.daemon.state import NetworkRecord, State
from shadowmesh.dataplane.host import Interface as HostInterface
from shadowmesh.dataplane.interface import PumpDied
from shadowmesh.dataplane.process import PumpProcess
from shadowmesh.dataplane.pumps import PumpName, choose_pump
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.engine import (
    CounterReader,
    DropStream,
    EpochHeld,
    Identity,
    NatChanged,
    NeedStream,
    NetworkIdentity,
    Node,
    NodeConfig,
    NodeEvent,
    PathChanged,
    PingResult,
    ReportPresence,
    WantGrant,
    Woke,
)
from shadowmesh.model import link as wire
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.link import Grant, Pending, PresenceUpdate, Removed
from shadowmesh.model.pump import (
    AddSocket,
    AddStream,
    AddTun,
    Command,
    NetIndex,
    RemoveStream,
    RemoveTun,
    SetLocal,
    Slot,
)
from shadowmesh.protocol.signing import Signer

log = structlog.get_logger(__name__)

SOCKET_MARK = 0x534D
_IPV4_SLOT, _IPV6_SLOT, _FIRST_STREAM_SLOT = Slot(0), Slot(1), 16
_OFFSET_NEWS = 5.0  # seconds by which the controller's clock has to move to be noted
_PUMP_RESTARTS = 5  # within a minute; one more, and the daemon gives up


class Daemon:
    """One client process over one state directory, between `start` and `stop`."""

    def __init__(self, state: State, pump: PumpProcess | None = None) -> None:
        """`pump`: one that was started ahead."""
        self.state = state
        private, self._port = state.device()
        self.device = Signer.from_secret(private)
        self.boot_id = secrets.token_hex(8)
        self.networks: dict[NetworkID, Network] = {}
        self.host = HostNet(self._host_changed)
        self.links = Links(self)
        self.stopping = asyncio.Event()
        self.failure: ShadowMeshError | None = None
        self._driver: Driver | None = None
        self._pump = pump
        self._sockets: dict[Slot, socket.socket] = {}
        self._streams: dict[Slot, asyncio.Task[None]] = {}
        self._opening: set[RelayID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_net = 0
        self._next_slot = _FIRST_STREAM_SLOT
        self._pump_deaths: list[float] = []
        self._public: str | None = None
        self._watchers: set[asyncio.Event] = set()
        self._pings: dict[int, asyncio.Future[PingResult]] = {}
        self._next_ping = 0

    # life

    async def start(self) -> None:
        """Raises ShadowMeshError if this host can't carry a network at all."""
        self.host.start()
        self._open_sockets()
        self._start_core()
        for record in self.state.networks():
            self.add(record)
        self.links.refresh()

    async def stop(self) -> None:
        """Undoes all that was changed on the host."""
        await self.links.stop()
        self._stop_core()
        for network in self.networks.values():
            self._remove_interface(network)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.host.stop()
        for sock in self._sockets.values():
            sock.close()

    def spawn(self, work: asyncio.Task[None]) -> None:
        """Keeps a background task until it ends or the daemon stops."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    def _open_sockets(self) -> None:
        port = self._port
        for attempt in range(20):
            try:
                self._sockets[_IPV4_SLOT] = open_udp(ipaddress.IPv4Address(0), port, mark=SOCKET_MARK)
                break
            except OSError as e:
                if attempt == 19:
                    raise ShadowMeshError(
                        "no_port", f"no UDP port is free ({e.strerror})", "end what holds them"
                    ) from e
                port = 20000 + secrets.randbelow(40000)
        if port != self._port:
            log.info("udp port changed", old=self._port, new=port)
            self._port = port
            self.state.set_port(port)
        with suppress(OSError):  # a host without IPv6
            self._sockets[_IPV6_SLOT] = open_udp(ipaddress.IPv6Address(0), port, mark=SOCKET_MARK)

    # Node and pump

    @property
    def node(self) -> Node:
        assert self._driver is not None
        return self._driver.node

    @property
    def pump_name(self) -> PumpName:
        return self._pump.name if self._pump is not None else choose_pump()

    def _start_core(self) -> None:
        """A fresh pump and a fresh Node; sessions are made anew. Descriptors stay, so nothing on the host moves."""
        moment = now()
        self._pump = self._pump or PumpProcess()
        node = Node(Identity(self.device), NodeConfig(timestamp_floor=self.state.timestamp()))
        node.counters = CounterReader(self._pump.counters())
        self._driver = Driver(node, self._pump, self._node_event, self._pump_died)
        self.apply_to_pump(*(AddSocket(slot, sock.fileno()) for slot, sock in self._sockets.items()))
        for slot in self._sockets:
            node.add_socket(slot, self._port, moment, ipv6=slot == _IPV6_SLOT)
        node.set_host_addresses(self.host.addresses(), moment)
        for network in self.networks.values():
            if network.interface is not None:
                self._join_core(network)
        self._driver.poke()

    def _stop_core(self) -> None:
        for task in self._streams.values():
            task.cancel()
        self._streams.clear()
        if self._driver is not None:
            self.state.keep_timestamp(self._driver.node.timestamp)
            self._driver.stop()
        if self._pump is not None:
            self._pump.close()
            self._pump = None

    def _pump_died(self) -> None:
        moment = now().boot
        self._pump_deaths = [t for t in self._pump_deaths if moment - t < 60.0] + [moment]
        log.error("the pump died; starting another", deaths=len(self._pump_deaths))
        self._stop_core()
        for future in self._pings.values():
            future.cancel()
        if len(self._pump_deaths) > _PUMP_RESTARTS:
            self.failure = ShadowMeshError("pump_dies", "the pump dies again and again", "see its last words above")
            self.stopping.set()
            return
        self._start_core()

    def apply_to_pump(self, *commands: Command) -> None:
        """Commands that carry descriptors; the Node's own go through the driver.

        To a pump that has just died they are lost: the driver will hear of it, and its successor is told everything.
        """
        if self._pump is not None:
            with suppress(PumpDied):
                self._pump.apply(commands)

    def poke(self) -> None:
        if self._driver is not None:
            self._driver.poke()

    # networks

    def interface_names(self) -> set[str]:
        return {n.interface.name for n in self.networks.values() if n.interface is not None}

    def add(self, record: NetworkRecord) -> Network:
        """Takes a joined network up. What keeps it from running is kept as its error, not raised."""
        network = Network(self.state, record, NetIndex(self._next_net))
        self._next_net += 1
        self.networks[network.id] = network
        self.bring_up(network)
        return network

    def bring_up(self, network: Network) -> None:
        """Makes the interface of a wanted network and gives it to Node and pump."""
        record = network.record
        if not (record.wanted and record.approved) or network.map is None or network.me is None:
            return
        if network.interface is None:
            try:
                self.check_overlap(network)
                self._make_interface(network)
            except ShadowMeshError as e:
                network.error = str(e)
                log.error("network can't run", network=network.name, why=str(e))
                self._changed()
                return
            network.error = None
            self._join_core(network)
        self._changed()

    def check_overlap(self, network: Network) -> None:
        assert network.map is not None
        self.check_subnet(network.name, network.map.head.subnet, network.id)

    def check_subnet(self, name: str, subnet: ipaddress.IPv4Network, own: NetworkID | None = None) -> None:
        """Raises ShadowMeshError(CONFLICT) if a subnet is another network's or a LAN's of this host."""
        for other in list(self.networks.values()):
            if other.id != own and other.interface is not None and other.map is not None:
                taken = other.map.head.subnet
                if taken.overlaps(subnet):
                    raise overlap_error(name, subnet, f"network {other.name}", taken)
        for interface, lan in self.host.overlaps(subnet, self.interface_names()):
            raise overlap_error(name, subnet, f"interface {interface}", lan)

    def _make_interface(self, network: Network) -> None:
        fd, name = open_tun("shadowmesh%d")
        network.interface = Interface(name, fd)
        try:
            self._configure(network)
        except BaseException:
            self._remove_interface(network)
            raise

    def _configure(self, network: Network) -> None:
        assert network.map is not None and network.me is not None and network.interface is not None
        head, me = network.map.head, network.me
        addresses: tuple[IPAddress, ...] = (me.ip,)
        routes: tuple[IPNetwork, ...] = (head.subnet,)
        if me.ip6 is not None and head.subnet6 is not None:
            addresses, routes = (me.ip, me.ip6), (head.subnet, head.subnet6)
        self.host.configure(HostInterface(network.interface.name, INNER_MTU, addresses, routes))

    def _remove_interface(self, network: Network) -> None:
        interface, network.interface = network.interface, None
        if interface is not None:
            self._close_interface(interface)

    def _close_interface(self, interface: Interface) -> None:
        self.host.forget(interface.name)
        os.close(interface.fd)  # the pump's duplicate goes with RemoveTun; then the device is gone

    def _local(self, network: Network) -> tuple[IPNetwork, ...]:
        assert network.me is not None
        own: list[IPNetwork] = [ipaddress.IPv4Network(network.me.ip)]
        if network.me.ip6 is not None:
            own.append(ipaddress.IPv6Network(network.me.ip6))
        return tuple(own)

    def _join_core(self, network: Network) -> None:
        """Tells Node and pump of a network whose interface stands."""
        assert network.map is not None and network.interface is not None
        moment = now()
        self.apply_to_pump(AddTun(network.net, network.interface.fd, INNER_MTU, self._local(network)))
        node = self.node
        node.add_network(NetworkIdentity(network.net, network.id, network.record.client_id, network.secrets.wg_private))
        node.apply_map(network.id, network.map, moment)
        node.apply_keys(network.id, network.keys, moment)
        self._apply_token(network)
        node.controller_link(network.id, network.connected, moment)
        node.apply_presence(network.id, network.presence.values(), moment)
        node.set_host_addresses(self.host.addresses(), moment)
        self.poke()

    def _apply_token(self, network: Network) -> None:
        try:
            self.node.apply_grant(network.id, network.relay_token, now())
        except MalformedError as e:
            log.warning("relay token refused", network=network.name, why=str(e))

    def take_down(self, network: Network) -> None:
        """Ends the network on this host; its record stays."""
        interface, network.interface = network.interface, None  # first: a pump that dies now has a successor at once
        if interface is not None:
            self.node.remove_network(network.id, now())
            assert self._driver is not None
            self._driver.flush()
            self.apply_to_pump(RemoveTun(network.net))
            self._close_interface(interface)
        network.error = None
        self._changed()

    def forget(self, network: Network) -> None:
        """Takes a network down and deletes its keys."""
        self.take_down(network)
        del self.networks[network.id]
        self.state.forget_network(network.id)
        self.links.refresh()
        self._changed()

    # what the controller says (links)

    def link_changed(self, network: Network, connected: bool, refusal: str | None = None) -> None:
        network.connected = connected
        network.refusal = refusal
        if network.interface is not None:
            self.node.controller_link(network.id, connected, now())
            self.poke()
        self._changed()

    def clock_offset(self, network: Network, offset: float) -> None:
        """The controller's clock minus ours; kept, since expiry is judged by it also after a restart."""
        self.node.set_wall_offset(offset)
        if abs(offset - network.record.controller.clock_offset) > _OFFSET_NEWS:
            network.change(controller=msgspec.structs.replace(network.record.controller, clock_offset=offset))

    def map_changed(self, network: Network, change: MapChanged) -> None:
        before = network.me, None if network.map is None else network.map.head.subnet
        network.accept_map(change.map, change.signature)
        if network.me is None:
            return  # Removed follows
        if network.interface is None:
            self.bring_up(network)
            return
        if before != (network.me, change.map.head.subnet):
            self._configure(network)
            self.apply_to_pump(SetLocal(network.net, self._local(network)))
        self.node.apply_map(network.id, change.map, now())
        self._changed()
        self.poke()

    def message(self, network: Network, message: Grant | PresenceUpdate | Removed | Pending) -> None:
        """What else a network's controller said."""
        match message:
            case Grant():
                network.accept_grant(message)
                if network.interface is not None:
                    self.node.apply_keys(network.id, network.keys, now())
                    self._apply_token(network)
            case PresenceUpdate():
                network.accept_presence(message.changes)
                if network.interface is not None:
                    self.node.apply_presence(network.id, message.changes, now())
            case Removed():
                log.warning("removed from the network", network=network.name, why=message.reason)
                self.forget(network)
            case Pending():
                if network.record.approved:
                    network.change(approved=False)
        self._changed()
        self.poke()

    # what the Node says

    def _node_event(self, event: NodeEvent) -> None:
        match event:
            case NeedStream():
                self._open_stream(event)
            case DropStream():
                self._close_stream(event.slot)
            case ReportPresence():
                report = wire.Report(
                    network_id=event.network_id, home=event.home, standby=event.standby, endpoints=event.endpoints
                )
                self.links.send(event.network_id, report)
            case EpochHeld():
                self.links.send(event.network_id, wire.EpochHeld(network_id=event.network_id, epoch=event.epoch))
            case WantGrant():
                self.links.send(event.network_id, wire.RefreshGrant(network_id=event.network_id))
            case PathChanged():
                log.info(
                    "path", peer=event.name, path=event.path, reason=event.reason.value,
                    endpoint=None if event.endpoint is None else str(event.endpoint), relay=event.relay,
                )  # fmt: skip
                change = wire.PathChange(
                    network_id=event.network_id, peer=event.client_id, path=event.path, reason=event.reason.value
                )
                self.links.send(event.network_id, change)
                self._changed()
            case NatChanged():
                if None not in (self._public, event.nat.public) and self._public != event.nat.public:
                    self.links.kick()  # a NAT that restarted, or another one, knows our connections no more
                self._public = event.nat.public
                self._changed()
            case Woke():
                log.info("woke", slept=round(event.slept))
                self.links.kick()
            case PingResult():
                waiting = self._pings.pop(event.token, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(event)
            case _:
                self._changed()

    # streams to relays

    def _open_stream(self, need: NeedStream) -> None:
        if need.relay_id not in self._opening:
            self._opening.add(need.relay_id)
            self.spawn(asyncio.create_task(self._stream(need)))

    async def _stream(self, need: NeedStream) -> None:
        stream = RelayStream(need.url)
        try:
            fd = await stream.open()
        except OSError as e:
            log.warning("relay stream failed", relay=need.relay_id, why=str(e))
            return
        finally:
            self._opening.discard(need.relay_id)
        slot = Slot(self._next_slot)
        self._next_slot += 1
        self.apply_to_pump(AddStream(slot, fd))
        self.node.add_stream(slot, need.relay_id, now())
        self.poke()
        carrying = asyncio.create_task(stream.run())
        self._streams[slot] = carrying
        try:
            await carrying
        except asyncio.CancelledError:
            carrying.cancel()
        finally:
            if self._streams.pop(slot, None) is not None:
                self.node.remove_stream(slot, now())
                self.apply_to_pump(RemoveStream(slot))
                self.poke()

    def _close_stream(self, slot: Slot) -> None:
        task = self._streams.pop(slot, None)
        if task is not None:
            self.apply_to_pump(RemoveStream(slot))
            task.cancel()

    # the host

    def _host_changed(self) -> None:
        """Addresses or routes of the underlay changed: what hangs on old ones is not waited for."""
        self.node.set_host_addresses(self.host.addresses(), now())
        self.links.kick()
        self.poke()

    # for the local API

    def _changed(self) -> None:
        for event in self._watchers:
            event.set()

    def watch(self, event: asyncio.Event) -> Callable[[], None]:
        """`event` is set at each change of what `status` shows. Returns how to stop."""
        self._watchers.add(event)
        return lambda: self._watchers.discard(event)

    async def ping(self, network: Network, client_id: str, timeout: float) -> PingResult:
        """Raises ShadowMeshError if the peer is gone; a ping that the pump's death ended is an unanswered one."""
        self._next_ping += 1
        token = self._next_ping
        future: asyncio.Future[PingResult] = asyncio.get_running_loop().create_future()
        self._pings[token] = future
        try:
            self.node.ping(network.id, ClientID(client_id), token, now(), timeout)
            self.poke()
            return await asyncio.wait_for(future, timeout + 5.0)
        finally:
            self._pings.pop(token, None)
