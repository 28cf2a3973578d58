"""The client daemon: joins networks, links, interfaces, streams and the mesh, and reacts to what they tell."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import structlog

from shadowmesh.client_api.link import MapChanged
from shadowmesh.daemon.carrier import Carrier
from shadowmesh.daemon.controllerlinks import ControllerLinks
from shadowmesh.daemon.ended import ending
from shadowmesh.daemon.environment import Environment
from shadowmesh.daemon.hostnet import HostEvent, UnderlayChanged
from shadowmesh.daemon.keeper import Keeper
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.daemon.network import LinkRefusal, Network
from shadowmesh.daemon.options import DaemonOptions
from shadowmesh.daemon.outeraddresses import PumpTraffic
from shadowmesh.daemon.reporting import Reporting
from shadowmesh.daemon.routerport import RouterPort, wish_for
from shadowmesh.daemon.state import Ending, FormerNetwork, NetworkRecord, State
from shadowmesh.daemon.streams import Streams
from shadowmesh.daemon.stunservers import StunServers
from shadowmesh.daemon.watching import Watching
from shadowmesh.engine import (
    DropStream,
    HostResumed,
    NatChanged,
    NeedStream,
    NodeEvent,
    PathChanged,
    PeerActive,
    ReportEpochHeld,
    ReportPresence,
    WantGrant,
)
from shadowmesh.model import devicelink as wire
from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.devicelink import AuditCheckpoint, Grant, Pending, PresenceUpdate, Removed
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.pump import NetIndex
from shadowmesh.protocol.noise import public_key
from shadowmesh.protocol.signing import IdentityDocument, Signer

log = structlog.get_logger(__name__)

T = TypeVar("T")

_OFFSET_NEWS = 5.0  # seconds by which the controller's clock has to move to be noted
_CLOCK_LOOK = 10.0  # seconds
ASK_FIRST = 3.0  # seconds in which a controller may tell what couldn't be saved before the old map is used
_ASKING = "the last change couldn't be saved here: the controller is asked before the old map is used"


class Daemon:
    """One client process over one state directory, between `start` and `stop`."""

    def __init__(
        self, state: State, environment: Environment | None = None, options: DaemonOptions | None = None
    ) -> None:
        options = options or DaemonOptions()
        self.environment = environment or Environment()
        self.state = state
        private, _ = state.device()
        self.device = Signer.from_secret(private)
        self.boot_id = secrets.token_hex(8)
        self.networks: dict[NetworkID, Network] = {}
        self.former: dict[NetworkID, FormerNetwork] = {}
        self.keeper = Keeper(state, self.changed)
        self.stopping = asyncio.Event()
        self.failure: ShadowMeshError | None = None
        self.host = self.environment.host(self._host_event, self._is_member, None)
        self._traffic = PumpTraffic(self.host.hold_outer)
        self.links = ControllerLinks(self, self.environment)
        self._watching = Watching(self.links.send)
        self.mesh = Mesh(
            self.environment, state, self.keeper, self.device, on_event=self._node_event, on_start=self._mesh_started,
            on_stop=self._mesh_stopped, on_failure=self._mesh_failed, on_commands=self._traffic.see,
            options=options,
        )  # fmt: skip
        self._reporting = Reporting(self.environment.clock, self.mesh, self.networks, self.links.send)
        self._streams = Streams(self.environment, self.mesh, self.connect)
        self._stun = StunServers(self.environment.resolve, self._stun_changed, options.stun_servers)
        self.carrier = Carrier(
            self.environment,
            self.host,
            self.mesh,
            self._stun,
            self.networks,
            may_run=self._may_run,
            changed=self._carried,
        )
        self._port_wanted = options.p2p and options.port_mapping
        self._router = RouterPort(self.environment, private, self._router_changed)
        self._next_net = 0
        self._enrolments = 0  # that are under way
        self._public: str | None = None
        self._watchers: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: set[NetworkID] = set()  # networks that wait for their controller's word
        self._asked: asyncio.TimerHandle | None = None
        self._clock_looked_at: asyncio.TimerHandle | None = None

    # life

    async def start(self) -> None:
        """Raises ShadowMeshError if this host can't carry a network at all."""
        self._loop = asyncio.get_running_loop()
        records = self.state.networks()
        if not self.state.is_current:  # before anything is saved
            self._ask_first([r.network_id for r in records])
        self.former = {f.record.network_id: f for f in self.state.former_networks()}
        self.host.start()
        self.mesh.start()
        for record in records:
            self.add(record)
        self.links.refresh()
        self._reporting.start()
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        """This machine's clock may be set at any time: what is judged by a controller's goes on undisturbed."""
        moment = self.environment.clock()
        for network in self.networks.values():
            if network.interface is not None:
                self.mesh.node.set_wall_offset(network.id, network.clock_offset(moment))
            self._look_for_stun(network, again=False)
        self._clock_looked_at = asyncio.get_running_loop().call_later(_CLOCK_LOOK, self._look_at_clock)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on whether someone waits for it or not, until the daemon stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ask_first(self, networks: list[NetworkID]) -> None:
        """A removal may be missing in what is on disk."""
        self.keeper.doubt(networks)
        self._asking = set(networks)
        self._asked = asyncio.get_running_loop().call_later(ASK_FIRST, self._ask_no_longer)

    def _ask_no_longer(self) -> None:
        for network_id in list(self._asking):
            self._controller_heard(self.networks[network_id])

    def _is_member(self, address: IPAddress) -> bool:
        return self.mesh.node.is_member(address)

    def _carried(self) -> None:
        """A network is up, or isn't any more; or its interface is another."""
        self.host.members_changed()
        self._aim_at_router()
        self.changed()

    def _aim_at_router(self) -> None:
        """A port is asked for while a network is up."""
        wanted = self._port_wanted and any(n.interface is not None for n in self.networks.values())
        self._router.aim(wish_for(self.host.gateway(), self.mesh.port) if wanted else None)

    def _router_changed(self) -> None:
        opened = self._router.open
        self.mesh.node.set_mapped(() if opened is None else (opened,), self.environment.clock())
        self.mesh.poke()
        self.changed()

    def _may_run(self, network: Network) -> bool:
        if network.id in self._asking:
            network.error = _ASKING
        return network.id not in self._asking

    def _controller_heard(self, network: Network) -> None:
        """The network's controller has spoken of it, or was waited for long enough."""
        if network.id in self._asking:
            self._asking.discard(network.id)
            network.error = None
            self.carrier.bring_up(network)

    async def stop(self) -> None:
        """Undoes all that was changed on the host."""
        await self.links.stop()
        await self._streams.stop()
        await self._stun.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watching.stop()
        self._reporting.stop()
        self._router.stop()
        self.mesh.stop()
        for timer in (self._asked, self._clock_looked_at):
            if timer is not None:
                timer.cancel()
        self.carrier.stop()
        self.host.stop()
        self.keeper.stop()

    def _mesh_started(self) -> None:
        self.mesh.node.set_host_addresses(self.host.addresses(), self.environment.clock())
        self._router_changed()
        self.carrier.rejoin_mesh()

    def _mesh_stopped(self) -> None:
        self._traffic.forget()
        self._streams.abandon()

    def _mesh_failed(self, failure: ShadowMeshError) -> None:
        self.failure = failure
        self.stopping.set()

    # networks

    def add(self, record: NetworkRecord) -> Network:
        """Takes a joined network up. What keeps it from running is kept as its error, not raised."""
        network = Network(self.state, self.keeper, record, NetIndex(self._next_net))
        self._next_net += 1
        self.networks[network.id] = network
        self.former.pop(network.id, None)
        self.carrier.bring_up(network)
        return network

    def end(self, network: Network, state: Ending, what: str = "") -> None:
        """Takes a network down for good and deletes its keys. What is left of it tells people why, or the controller."""
        self.carrier.take_down(network)
        self.networks.pop(network.id, None)
        self._watching.forget(network)
        self._reporting.forget(network)
        self._asking.discard(network.id)
        at, key = self._controller_wall(network), public_key(network.secrets.wg_private)
        former = FormerNetwork(record=network.record, state=state, what=what, at=at, wg_key=key)
        self.keeper.drop(network.id)
        self._keep_former(former)
        self.keeper.confirm(network.id)
        fingerprint = network.record.controller.fingerprint
        if not any(other.record.controller.fingerprint == fingerprint for other in self.networks.values()):
            self.keeper.keep(None, ("checkpoints", fingerprint), lambda: self.state.forget_checkpoints(fingerprint))
        self.links.refresh()
        self.changed()

    def _keep_former(self, former: FormerNetwork) -> None:
        self.former[former.record.network_id] = former
        self.keeper.keep(former.record.network_id, "end", lambda: self.state.end_network(former))

    def forget(self, network_id: NetworkID) -> None:
        """Nothing more is known of a membership that had ended."""
        if self.former.pop(network_id, None) is not None:
            self.keeper.drop(network_id)
            self.keeper.keep(network_id, "forget", lambda: self.state.forget_former(network_id))
            self.links.refresh()
            self.changed()

    def _controller_wall(self, network: Network) -> float:
        """Unix time by the clock of a network's controller."""
        moment = self.environment.clock()
        return moment.wall + network.clock_offset(moment)

    # what the controller says (links)

    def link_changed(
        self, network: Network, connected: bool, refusal: LinkRefusal | None = None, away: str | None = None
    ) -> None:
        network.connected = connected
        network.away = away
        network.refusal = refusal
        network.answered = True
        if refusal is not None and refusal.duplicate:
            self.carrier.take_down(network)
        elif connected:
            self._look_for_stun(network)
            self.carrier.bring_up(network)
            self._reporting.connected(network)
        if network.interface is not None:
            self.mesh.node.controller_link(network.id, connected, self.environment.clock())
            if connected:
                self._watching.connected(network)
            self.mesh.poke()
        self.changed()

    def identity_changed(self, fingerprint: str, identity: IdentityDocument) -> None:
        """A controller has other URLs, certificates or keys: known also after a restart, and when it has moved by then."""
        for network in self.networks.values():
            if network.record.controller.fingerprint == fingerprint:
                network.change(controller=msgspec.structs.replace(network.record.controller, identity=identity))
                if network.interface is not None:
                    self.carrier.hold_outer(network)
        for former in list(self.former.values()):
            if former.state == "left" and former.record.controller.fingerprint == fingerprint:
                controller = msgspec.structs.replace(former.record.controller, identity=identity)
                record = msgspec.structs.replace(former.record, controller=controller)
                self._keep_former(msgspec.structs.replace(former, record=record))

    def _look_for_stun(self, network: Network, *, again: bool = True) -> None:
        fingerprint = network.record.controller.fingerprint
        of_it = [n for n in self.networks.values() if n.record.controller.fingerprint == fingerprint]
        names = dict.fromkeys(name for n in of_it if n.map is not None for name in n.map.head.stun_names)
        self._stun.look(fingerprint, network.identity, tuple(names), again=again)

    def _stun_changed(self, fingerprint: str) -> None:
        for network in self.networks.values():
            if network.record.controller.fingerprint == fingerprint and network.interface is not None:
                self.carrier.hold_outer(network)
                self.mesh.node.set_stun_servers(network.id, self._stun.of(fingerprint), self.environment.clock())
        self.mesh.poke()

    def clock_offset(self, network: Network, offset: float) -> None:
        """The controller's clock minus ours; kept, since expiry is judged by it also after a restart."""
        network.heard_clock(offset, self.environment.clock())
        if network.interface is not None:
            self.mesh.node.set_wall_offset(network.id, offset)
        if abs(offset - network.record.controller.clock_offset) > _OFFSET_NEWS:
            network.change(controller=msgspec.structs.replace(network.record.controller, clock_offset=offset))

    def map_changed(self, network: Network, change: MapChanged) -> None:
        before = network.me, None if network.map is None else network.map.head.subnets
        network.accept_map(change.map)
        if network.me is not None:  # else Removed follows
            self.carrier.use_map(network, before != (network.me, change.map.head.subnets))
            self.host.members_changed()
        self._watching.map_changed(network)
        self._look_for_stun(network, again=False)
        network.keep_map(change.update)
        self.keeper.confirm(network.id)
        self._controller_heard(network)
        if network.interface is None:
            self.carrier.bring_up(network)
        self.changed()

    def message(self, network: Network, message: Grant | PresenceUpdate | Removed | Pending) -> None:
        """What else a network's controller said."""
        moment, node = self.environment.clock(), self.mesh.node
        match message:
            case Grant():
                network.accept_grant(message)
                if network.interface is not None:
                    node.apply_keys(network.id, network.keys, moment)
                    self.carrier.apply_token(network)
                network.keep_grant()
            case PresenceUpdate():
                network.accept_presence(message.changes)
                if network.interface is not None:
                    node.apply_presence(network.id, message.changes, moment)
            case Removed():
                self._removed(network, message)
            case Pending():
                if network.record.approved:
                    self.carrier.take_down(network)
                    network.change(approved=False)
                self.keeper.confirm(network.id)
        self.changed()
        self.mesh.poke()

    def keep_checkpoint(self, fingerprint: str, checkpoint: AuditCheckpoint) -> None:
        """This machine is a witness of its controllers' audit logs, as far as its disk allows."""
        try:
            self.state.keep_checkpoint(fingerprint, checkpoint)
        except ShadowMeshError as e:
            log.warning("a checkpoint of the audit log wasn't kept", controller=fingerprint, why=str(e))

    def checkpoints(self, fingerprint: str) -> tuple[AuditCheckpoint, ...]:
        try:
            return tuple(self.state.checkpoints(fingerprint))
        except ShadowMeshError as e:
            log.warning("kept checkpoints can't be read", controller=fingerprint, why=str(e))
            return ()

    def _removed(self, network: Network, message: Removed) -> None:
        log.warning("no member of the network any more", network=network.name, why=message.reason)
        state, what = ending(message.reason, message.at, self._controller_wall(network))
        self.end(network, state, what)
        if state == "left":
            self.forget(network.id)

    # what the Node says

    def _node_event(self, event: NodeEvent) -> None:
        match event:
            case NeedStream():
                self._streams.open(event)
            case DropStream():
                self._streams.close(event.slot)
            case ReportPresence():
                report = wire.Report(
                    network_id=event.network_id, home=event.home, standby=event.standby, endpoints=event.endpoints
                )
                self.links.send(event.network_id, report)
            case PeerActive():
                spoken_in = self.networks.get(event.network_id)
                if spoken_in is not None:
                    self._watching.active(spoken_in, event.client_id)
            case ReportEpochHeld():
                self.links.send(event.network_id, wire.EpochHeld(network_id=event.network_id, epoch=event.epoch))
            case WantGrant():
                self.links.send(event.network_id, wire.RefreshGrant(network_id=event.network_id))
            case PathChanged():
                log.info(
                    "path", peer=event.name, path=event.path, reason=event.reason.value,
                    endpoint=None if event.endpoint is None else str(event.endpoint), relay=event.relay,
                )  # fmt: skip
                self._reporting.changed(event)
                self.changed()
            case NatChanged():
                if None not in (self._public, event.nat.public) and self._public != event.nat.public:
                    self.links.kick()  # a NAT that restarted, or another one, knows our connections no more
                self._public = event.nat.public
                self.changed()
            case HostResumed():
                log.info("the host resumed", slept=round(event.slept))
                self.links.kick()
            case _:
                self.changed()

    @contextmanager
    def enrolling(self) -> Iterator[None]:
        """While an enrolment of this device's present key is under way."""
        self._enrolments += 1
        try:
            yield
        finally:
            self._enrolments -= 1

    async def reset_identity(self) -> list[str]:
        """Makes this another machine: a new device key, no networks. Returns the names of those it was in. Raises
        ShadowMeshError while a join is under way, whose membership would be the old key's, and where nothing can be saved."""
        self._check_no_enrolment()
        await self.links.stop()  # from here on nobody tells of networks that are about to go
        try:
            self._check_no_enrolment()
            self.state.reset_identity()
        except ShadowMeshError:
            self.links.refresh()
            raise
        names = [n.name for n in self.networks.values()]
        for network in self.networks.values():
            self.carrier.take_down(network)
        self._watching.stop()
        self._reporting.stop()
        self.keeper.forget()
        self.networks.clear()
        self.former.clear()
        self._asking.clear()
        private, _ = self.state.device()
        self.device, self.boot_id = Signer.from_secret(private), secrets.token_hex(8)
        self.mesh.restart(self.device)
        self.changed()
        return names

    def _check_no_enrolment(self) -> None:
        if self._enrolments:
            raise ShadowMeshError(
                "busy", "a join is under way on this machine", "wait until it has ended, and do it again",
                kind=Kind.CONFLICT,
            )  # fmt: skip

    # the host

    async def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connects TCP outside the overlays. Raises OSError, ShadowMeshError."""
        loop = asyncio.get_running_loop()  # of a thread of its own, as often as not

        def reaching(address: IPAddress) -> None:
            if loop is self._loop:
                self.host.reaching(address)
            elif self._loop is not None:
                self._loop.call_soon_threadsafe(self.host.reaching, address)

        return await self.environment.connect(host, port, timeout, reaching)

    def _host_event(self, event: HostEvent) -> None:
        match event:
            case UnderlayChanged(moved=moved):
                self._underlay_changed(moved)
            case _:
                self.carrier.host_event(event)

    def _underlay_changed(self, moved: bool) -> None:
        """Addresses or routes of the underlay changed: what hangs on old ones is not waited for."""
        moment, node = self.environment.clock(), self.mesh.node
        if moved:
            node.set_host_addresses(self.host.addresses(), moment)
        else:
            node.network_changed(moment)
        self._aim_at_router()
        self.links.kick()
        self.mesh.poke()

    # for the local API

    def changed(self) -> None:
        for event in self._watchers:
            event.set()

    def watch(self, event: asyncio.Event) -> Callable[[], None]:
        """`event` is set at each change of what `status` shows. Returns how to stop."""
        self._watchers.add(event)
        return lambda: self._watchers.discard(event)
