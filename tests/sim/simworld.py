"""A whole internet in virtual time: sites behind NATs, hosts (a Node and a SimPump each), relays and a controller.

    world = World(seed=1)
    relay = world.relay("relay1")
    a = world.host("a", "port_restricted"); b = world.host("b", "symmetric")
    world.start()
    world.run(2.0)
    world.stream(a, b, every=0.1, count=50); world.run(10)
    world.flow(a, b).received …

Everything random comes from the seed: the same seed gives the same `world.log`. `world.story(a, b)` is the log of a pair.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
from array import array
from collections.abc import Callable
from math import inf
from typing import Any

from closed import Closed, ownerless
from simnat import Nat, build

from shadowmesh.dataplane.aead import AeadFactory, ChaCha20Poly1305
from shadowmesh.dataplane.sim import SimPump
from shadowmesh.engine import (
    CounterReader,
    DropStream,
    HandshakeDone,
    HostResumed,
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
    TurnFailed,
    WantGrant,
    WarmStart,
    report,
)
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import EpochInfo, MapHead, Member, NetworkMap, RelayInfo
from shadowmesh.model.pump import AddSocket, AddStream, AddTun, NetIndex, RemoveStream, SetLocal, Slot
from shadowmesh.model.status import PeerStatus
from shadowmesh.protocol import stun
from shadowmesh.protocol.primitives import REAL, Primitives
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.token import RelayTokenBody, sign_token
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.sessiontable import StreamAddr

NET = NetIndex(0)
UDP = Slot(1)
START_WALL = 1_700_000_000.0
SUBNET = ipaddress.ip_network("10.77.0.0/16")
Transmit = Callable[[SockAddr, SockAddr, bytes], None]


class Flow:
    """Numbered packets from one host to another. `silence` is the longest time from a packet that the sender sent after
    its receiver had last heard it until the receiver heard it again; `silence_at` is when it ended."""

    __slots__ = ("_arrived", "_sent_at", "_waiting_since", "doubled", "silence", "silence_at")

    def __init__(self) -> None:
        self.doubled: list[int] = []
        self.silence = 0.0
        self.silence_at = 0.0
        self._sent_at = array("d")  # by number
        self._arrived = array("d")  # likewise, 0 for not yet
        self._waiting_since = inf

    @property
    def received(self) -> dict[int, float]:
        """When each packet arrived, by its number."""
        return {number: at for number, at in enumerate(self._arrived) if at}

    @property
    def lost(self) -> list[int]:
        return [number for number in range(self.sent) if not self._arrived[number]]

    @property
    def all_arrived(self) -> bool:
        """Whether the newest packet is there."""
        return bool(self._arrived and self._arrived[-1])

    @property
    def sent(self) -> int:
        return len(self._sent_at)

    def delay(self, number: int) -> float:
        """Seconds from sending to delivery."""
        return self._arrived[number] - self._sent_at[number]

    def next_number(self, now: float) -> int:
        self._sent_at.append(now)
        self._arrived.append(0.0)
        self._waiting_since = min(self._waiting_since, now)
        return len(self._sent_at) - 1

    def pause(self, now: float) -> None:
        """Nothing more is sent for now: nobody waits for the last packet to be followed by another."""
        self._heard(now)

    def arrived(self, number: int, now: float) -> None:
        while number >= len(self._arrived):
            self._arrived.append(0.0)  # of a packet that the world's own senders didn't make
        if self._arrived[number]:
            self.doubled.append(number)
        self._arrived[number] = now
        self._heard(now)

    def _heard(self, now: float) -> None:
        if now - self._waiting_since > self.silence:
            self.silence, self.silence_at = now - self._waiting_since, now
        self._waiting_since = inf


IP_UDP = 28  # bytes of IPv4's and UDP's headers


class Site:
    """A place with a NAT (or none), a link to the internet and hosts on one LAN."""

    def __init__(self, world: World, name: str, kind: str, number: int, *, timeout: float = 120.0) -> None:
        self.name = name
        self.kind = kind
        self.delay = world.rng.uniform(0.005, 0.04)
        self.mtu = 1500  # of its link to the internet: longer packets vanish
        self.loss = world.loss / 2  # a way through the internet crosses two sites
        self.public_ip = f"198.18.{number // 250}.{number % 250 + 1}"
        self.lan = f"192.168.{number % 200}"
        self.nats: list[Nat] = build(kind, self.public_ip, world.rng, timeout=timeout)
        self.hosts: dict[str, Host] = {}
        self.udp_out = kind != "udp_blocked"
        self.isolated = False  # hosts don't reach each other on the LAN
        for nat in self.nats[-1:]:
            world.owners[nat.public_ip] = self

    def restart(self, world: World, *, new_ip: str | None = None) -> None:
        """The router restarts; with a new public address if one is given."""
        outer = self.nats[-1]
        if new_ip is not None:
            del world.owners[outer.public_ip]
            world.owners[new_ip] = self
        for nat in self.nats:
            nat.restart(new_ip if nat is outer else None)
        world.note(self.name, f"NAT restarted{' as ' + new_ip if new_ip else ''}")


class Host:
    """One machine: Node, SimPump, a UDP socket, a place in the network."""

    def __init__(self, world: World, name: str, site: Site, index: int) -> None:
        self.world = world
        self.name = name
        self.site = site
        self.index = index
        self.port = world.rng.randrange(20000, 60000)
        self.ip = ""
        self.addr: SockAddr  # where it is on its LAN
        self.tunnels: tuple[ipaddress.IPv4Interface, ...] = ()  # of another program's VPN: `World.vpn`
        self.vpn_ip = ""
        self.nested: tuple[ipaddress.IPv4Network, ...] = ()
        self.overlay = ipaddress.IPv4Address(int(SUBNET.network_address) + index + 1)
        self.device = Signer(Secret(world.rng.randbytes(32)))
        self.private = world.primitives.generate_private_key()
        self.public = WireGuardPublicKey(world.primitives.key_pair(self.private).public)
        self.client_id = ClientID(f"cli_{name}")
        self.rng = random.Random(world.rng.getrandbits(64))
        self.streams: dict[Slot, tuple[Relay, StreamAddr]] = {}
        self.stream_free_at: dict[Slot, float] = {}
        self.next_slot = 100
        self.timer_at = inf
        self.running = False
        self.pings: dict[int, PingResult] = {}
        self.grants_wanted = 0
        self.wall_shift = 0.0
        self.closed: list[Closed] = []
        self.node: Node
        self.pump: SimPump

    def clock(self) -> Now:
        if not self.wall_shift:
            world = self.world
            now = world.moment
            return now if now.boot == world.time else world.now()
        t = self.world.time
        return Now(t, START_WALL + t + self.wall_shift)

    def start(self, *, timestamp_floor: float = 0.0, warm_start: WarmStart | None = None) -> None:
        """The daemon starts (again): a new Node, a new pump."""
        world = self.world
        self.pump = SimPump(self.clock, aead=world.aead, max_peers=max(64, len(world.hosts) + 4))
        config = NodeConfig(
            rng=self.rng, primitives=world.primitives, timestamp_floor=timestamp_floor, warm_start=warm_start
        )
        self.node = Node(Identity(self.device), config)
        self.node.counters = CounterReader(self.pump.counters())
        now = self.clock()
        host_net = ipaddress.ip_network(f"{self.overlay}/32")
        self.pump.apply([AddTun(NET, -1, 1376, (host_net,)), AddSocket(UDP, -1)])
        self.running = True
        self.closed.clear()
        self.timer_at = inf
        self.node.add_socket(UDP, self.port, now)
        self.node.set_host_addresses(self.addresses(), now)
        self.node.add_network(NetworkIdentity(NET, world.network_id, self.client_id, self.private))
        world.controller.welcome(self, now)
        self.settle(now)

    def stop(self) -> None:
        self.running = False
        for slot in self.streams:
            self.world.hang_up(self, slot)
        self.streams.clear()

    def restart(self, *, after: float = 1.0, warm: bool = True) -> None:
        """The daemon is killed and starts again `after` seconds; `warm`: with what it keeps on disk of its peers."""
        kept = self.node.warm_start(self.clock()) if warm else None
        floor = self.node.timestamp
        self.stop()
        self.world.run(after)
        self.start(timestamp_floor=floor, warm_start=kept)

    def leave(self) -> None:
        """The network is taken down here: from now on not one datagram may leave the host."""
        now = self.clock()
        self.node.remove_network(self.world.network_id, now)
        self.settle(now)
        self.close("it left its network")
        assert self.node.next_deadline() is None

    def join(self) -> None:
        """The network comes up again, within the same daemon."""
        now = self.clock()
        self.closed.clear()
        self.node.add_network(NetworkIdentity(NET, self.world.network_id, self.client_id, self.private))
        self.world.controller.welcome(self, now)
        self.settle(now)

    def close(self, why: str, **what: Any) -> None:
        """Something ended here: what is named (all, if nothing is) may be sent no more, and nothing of it may wait."""
        self.closed.append(Closed(self.world.time, why, **what))
        left = ownerless(self.node)
        assert not left, f"{self.name}: {why}, and this still waits: {left}"

    def readdress(self, overlay: ipaddress.IPv4Address) -> None:
        """The controller gives it another address: a new map, then a token for it."""
        world, old = self.world, self.overlay
        del world._by_overlay[old.packed]
        self.overlay = overlay
        world._by_overlay[overlay.packed] = self
        world.controller.push_map()
        self.apply_readdressed(world.controller.netmap())
        self.close("it got another address", source=old)

    def apply_readdressed(self, netmap: NetworkMap) -> None:
        """What the daemon does with a map in which this host has another address, and with the grant that follows."""
        now = self.clock()
        self.node.apply_map(self.world.network_id, netmap, now)
        self.pump.apply([SetLocal(NET, (ipaddress.ip_network(f"{self.overlay}/32"),))])
        self.node.apply_grant(self.world.network_id, self.world.controller.token(self), now)
        self.settle(now)

    def own_addrs(self) -> frozenset[SockAddr]:
        """Where nobody else is."""
        return frozenset({self.addr})

    def addresses(self) -> HostAddresses:
        real = (ipaddress.IPv4Interface(f"{self.ip}/{24 if self.site.nats else 32}"),)
        return HostAddresses(real, self.tunnels, (), self.nested)

    def move(self, site: Site) -> None:
        """To another network: another site, another address."""
        del self.site.hosts[self.ip]
        self.world.place(self, site)
        now = self.clock()
        self.node.set_host_addresses(self.addresses(), now)
        self.settle(now)
        self.world.note(self.name, f"moved to {site.name}")

    # packets

    def arrive(self, src: SockAddr, data: bytes) -> None:
        """A datagram for this host's socket."""
        if self.running:
            now = self.clock()
            self.pump.receive(UDP, src, data, now)
            self.settle_pump(now)

    def arrive_stream(self, slot: Slot, data: bytes) -> None:
        if self.running and slot in self.streams:
            now = self.clock()
            self.pump.receive_stream(slot, data, now)
            self.settle(now)

    def send(self, packet: bytes) -> None:
        if self.running:
            now = self.clock()
            self.pump.inject_tun(NET, packet, now)
            self.settle_pump(now)

    def settle_pump(self, now: Now) -> None:
        """After the pump alone did something: most packets mean nothing to the Node."""
        if self.pump.core.events.waiting:
            self.settle(now)
        else:
            self.let_out()

    def settle(self, now: Now) -> None:
        """Lets Node and pump talk until both are silent; then what they want happens."""
        node, pump = self.node, self.pump
        rings = pump.core.events
        while True:
            commands = node.pump_commands()
            if commands:
                pump.apply(commands)
            elif not rings.waiting:
                break
            if rings.waiting:
                for event in pump.drain():
                    node.receive(event, now)
        self.let_out()
        for told in node.events():
            self.told(told, now)
        self.set_timer()

    def let_out(self) -> None:
        """Hands the pump's packets to the internet and to this host's own programs."""
        world = self.world
        for slot, remote, _, data in self.pump.take_outgoing():
            for closed in self.closed:
                if closed.forbids(remote, data):
                    raise AssertionError(
                        f"{self.name} sends {data[:5].hex()} to {remote}, {world.time - closed.since:.1f} s after {closed.why}"
                        f"; the log's end:\n{world.tail()}"
                    )
            if remote is not None:
                world.transmit(self, self.addr, remote, data)
            else:
                world.stream_up(self, slot, data)
        for _, packet in self.pump.take_delivered():
            world.delivered(self, packet)

    def set_timer(self) -> None:
        at = self.node.next_deadline()
        if at is not None and at < self.timer_at:
            self.timer_at = at
            self.world.at(at, self.timer, at)

    def timer(self, at: float) -> None:
        if at != self.timer_at or not self.running:
            return
        self.timer_at = inf
        due = self.node.next_deadline()
        if due is None or due > at:  # what was due has moved back since
            self.set_timer()
            return
        now = self.clock()
        self.node.tick(now)
        self.settle(now)

    def told(self, event: NodeEvent, now: Now) -> None:
        """What the daemon does about an event."""
        world = self.world
        match event:
            case PathChanged():
                where = event.endpoint or event.relay or "-"
                world.note(self.name, f"→ {event.name}: {event.path} {event.reason.value} {where}")
            case HandshakeDone():
                role = "initiator" if event.initiator else "responder"
                world.note(self.name, f"→ {event.client_id[4:]}: handshake done, {role}, epoch {event.epoch}")
            case NatChanged():
                world.note(self.name, f"nat {event.nat.type} {event.nat.public}")
            case NeedStream():
                world.note(self.name, f"needs a stream to {event.relay.relay_id}")
                world.open_stream(self, event.relay)
            case DropStream():
                self.streams.pop(event.slot, None)
                self.pump.apply([RemoveStream(event.slot)])
            case ReportPresence():
                world.controller.report(self, event)
            case WantGrant():
                self.grants_wanted += 1
                world.note(self.name, f"wants a grant: {event.why}")
            case HostResumed():
                world.note(self.name, f"woke after {event.slept:.0f} s")
            case PingResult():
                self.pings[event.token] = event
            case TurnFailed():
                raise event.error
            case _:
                pass

    # questions

    def to(self, other: Host) -> PeerStatus:
        """This host's status of another one."""
        peer = self.node.engines[self.world.network_id].peers[other.client_id]
        return report.status(peer, self.clock(), self.node.counters)

    def ping(self, other: Host, *, timeout: float = 2.0) -> PingResult:
        """Pings, and lets time pass until the result is there."""
        token = self.rng.getrandbits(32)
        now = self.clock()
        self.node.ping(self.world.network_id, other.client_id, token, now, timeout)
        self.settle(now)
        self.world.run_until(lambda: token in self.pings, timeout + 1.0)
        return self.pings[token]


class Relay:
    """A relay with STUN on its port and the next."""

    def __init__(self, world: World, name: str, ip: str) -> None:
        self.world = world
        self.name = name
        self.relay_id = RelayID(f"rly_{name}")
        self.addr = SockAddr(ip, 9545)
        self.signer = Signer(Secret(world.rng.randbytes(32)))
        self.delay = world.rng.uniform(0.002, 0.01)
        self.alive = True
        self.udp = True
        self.streams: dict[StreamAddr, tuple[Host, Slot]] = {}
        self._stun = stun.StunServer([self.addr, SockAddr(ip, 9546)])
        self._streams_made = 0
        self.core = self._new_core()
        world.servers[ip] = self

    def _new_core(self) -> RelayCore:
        rng = random.Random(self.world.rng.getrandbits(64))
        return RelayCore(self.signer, token_keys=[self.world.controller.signer.public], random_bytes=rng.randbytes)

    @property
    def info(self) -> RelayInfo:
        url = f"ws://{self.addr.host}:9545"
        udp = self.addr if self.udp else None
        return RelayInfo(relay_id=self.relay_id, name=self.name, key=self.signer.public, udp=udp, url=url)

    def arrive(self, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        if not self.alive or not self.udp:
            return
        if stun.is_stun(data):
            answer_stun(self.world, self._stun, self.addr, src, dst, data)
        elif dst == self.addr:
            self.receive(src, data)

    def receive(self, source: SockAddr | StreamAddr, data: bytes) -> None:
        world = self.world
        for transport, out in self.core.receive(source, data, world.now()):
            self.send(transport, out)

    def send(self, transport: SockAddr | StreamAddr, data: bytes) -> None:
        world = self.world
        if isinstance(transport, StreamAddr):
            entry = self.streams.get(transport)
            if entry is not None:
                world.stream_down(entry[0], entry[1], data, self)
        else:
            world.deliver(self.addr, transport, data, self.delay, 0.0)

    def restart(self) -> None:
        """Down and up again within one moment: all sessions forgotten."""
        self.core = self._new_core()
        self.drop_streams()
        self.world.note(self.name, "restarted")

    def kill(self) -> None:
        self.alive = False
        self.drop_streams()
        self.world.note(self.name, "killed")

    def revive(self) -> None:
        self.alive = True
        self.restart()

    def drop_streams(self) -> None:
        for host, slot in self.streams.values():
            self.world.after(0.05, self.world.close_stream, host, slot)
        self.streams.clear()

    def stream_ended(self, addr: StreamAddr) -> None:
        if self.streams.pop(addr, None) is not None:
            self.core.gone(addr)

    def accept(self, host: Host, slot: Slot) -> StreamAddr:
        self._streams_made += 1
        addr = StreamAddr(self._streams_made, SockAddr(host.site.public_ip, 40000))
        self.streams[addr] = (host, slot)
        return addr


def answer_stun(
    world: World, server: stun.StunServer, first: SockAddr, src: SockAddr, dst: SockAddr, data: bytes
) -> None:
    """A STUN server on two neighbouring ports of one host."""
    answer = server.answer(data, src, dst.port - first.port)
    if answer is not None:
        out, index = answer
        world.deliver(SockAddr(first.host, first.port + index), src, out, 0.002, 0.0)


class Controller:
    """Hands out maps, keys, tokens and presence, without a wire: what a daemon's link would bring."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.signer = Signer(Secret(world.rng.randbytes(32)))
        self.keys: dict[int, Secret] = {0: Secret(world.rng.randbytes(32))}
        self.epochs = [EpochInfo(epoch=0, current_from=0.0)]
        self.serial = 1
        self.p2p = True
        self.relay_fallback = True
        self.removed: set[ClientID] = set()
        self.presence: dict[ClientID, Presence] = {}
        self.withheld: set[ClientID] = set()  # who gets no new keys
        self.alive = True
        self.addr = SockAddr("198.19.0.1", 8443)
        self._stun = stun.StunServer([self.addr, SockAddr(self.addr.host, 8444)])
        self._map: NetworkMap | None = None
        world.servers[self.addr.host] = self

    def arrive(self, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        if self.alive:
            answer_stun(self.world, self._stun, self.addr, src, dst, data)

    def kill(self) -> None:
        """Away, as far as anybody can tell."""
        self.alive = False
        for host in self.world.hosts.values():
            now = host.clock()
            host.node.controller_link(self.world.network_id, False, now)
            host.settle(now)

    def netmap(self) -> NetworkMap:
        world = self.world
        if self._map is None:
            members = [
                Member(
                    client_id=h.client_id, name=h.name, ip=h.overlay, wg_key=h.public, device_key=h.device.device_key
                )
                for h in world.hosts.values()
                if h.client_id not in self.removed
            ]
            self._map = NetworkMap(
                generation=1,
                serial=self.serial,
                head=MapHead(
                    network_id=world.network_id,
                    network_ref=NetworkRef("net_sim"),
                    name="sim",
                    subnet=SUBNET,
                    epochs=tuple(self.epochs),
                    p2p=self.p2p,
                    relay_fallback=self.relay_fallback,
                    relays=tuple(r.info for r in world.relays.values()),
                    stun=(self.addr, SockAddr(self.addr.host, 8444)),
                ),
                members=tuple(sorted(members, key=lambda m: m.client_id)),
            )
        return self._map

    def welcome(self, host: Host, now: Now) -> None:
        """All that a daemon gets on its link; while the controller is away, what it has on disk."""
        node, net = host.node, self.world.network_id
        node.apply_map(net, self.netmap(), now)
        node.apply_keys(net, self.keys, now)
        if self.alive:
            node.controller_link(net, True, now)
            node.apply_presence(net, self.presence.values(), now)
        node.apply_grant(net, self.token(host), now)

    def token(self, host: Host) -> str:
        body = RelayTokenBody(
            device_key=host.device.device_key,
            network_id=self.world.network_id,
            ip=host.overlay,
            issued=START_WALL + self.world.time,
            renew_after=START_WALL + self.world.time + 86400,
            valid_until=START_WALL + self.world.time + 30 * 86400,
        )
        return sign_token(body, self.signer)

    def push_map(self) -> None:
        """A changed map reaches everybody who is still in it within half a second."""
        self.serial += 1
        self._map = None
        netmap = self.netmap()
        for host in self.world.hosts.values():
            if host.running and host.client_id not in self.removed:
                self.world.after(self.world.rng.uniform(0.02, 0.5), self._give_map, host, netmap)

    def _give_map(self, host: Host, netmap: NetworkMap) -> None:
        if host.running and host.node.engines:
            now = host.clock()
            before = set(host.node.engines[self.world.network_id].peers)
            host.node.apply_map(self.world.network_id, netmap, now)
            host.settle(now)
            for other in self.world.hosts.values():
                if other.client_id in before and other.client_id in self.removed:
                    host.close(f"{other.name} was removed", dest=other.overlay, addrs=other.own_addrs())

    def rotate(self) -> None:
        """A new epoch: handed out first, current 30 s later."""
        epoch = max(self.keys) + 1
        self.keys[epoch] = Secret(self.world.rng.randbytes(32))
        self.epochs.append(EpochInfo(epoch=epoch, current_from=START_WALL + self.world.time + 30.0))
        self.world.note("controller", f"epoch {epoch} handed out")
        for host in self.world.hosts.values():
            if host.running and host.client_id not in self.removed | self.withheld:
                self.world.after(self.world.rng.uniform(0.1, 5.0), self._give_key, host, epoch)
        self.push_map()

    def _give_key(self, host: Host, epoch: int) -> None:
        if not host.node.engines:
            return
        now = host.clock()
        host.node.apply_keys(self.world.network_id, {epoch: self.keys[epoch]}, now)
        host.settle(now)

    def end_epoch(self, epoch: int) -> None:
        """An old epoch ends."""
        self.epochs = [e for e in self.epochs if e.epoch != epoch]
        self.push_map()

    def remove(self, host: Host) -> None:
        self.removed.add(host.client_id)
        self.world.note("controller", f"removed {host.name}")
        self.push_map()

    def report(self, host: Host, report: ReportPresence) -> None:
        if not self.alive:
            return
        presence = Presence(client_id=host.client_id, online=True, home=report.home, standby=report.standby)
        self.presence[host.client_id] = presence
        self.world.after(0.1, self._spread, presence)

    def _spread(self, presence: Presence) -> None:
        if self.presence.get(presence.client_id) is not presence:
            return
        for host in self.world.hosts.values():
            if not host.running or not host.node.engines:
                continue
            if host.client_id != presence.client_id and host.client_id not in self.removed:
                now = host.clock()
                host.node.apply_presence(self.world.network_id, [presence], now)
                host.settle(now)


class World:
    """See the module."""

    def __init__(
        self,
        seed: int,
        *,
        primitives: Primitives = REAL,
        aead: AeadFactory = ChaCha20Poly1305,
        loss: float = 0.0,
        keep_log: bool = True,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.primitives = primitives
        self.aead = aead
        self.loss = loss
        self.packet_size = 28
        self.time = 1000.0
        self.moment = Now(self.time, START_WALL + self.time)
        self.log: list[tuple[float, str, str]] = []
        self.events = 0
        self._vpn: dict[str, Host] = {}  # by address inside
        self.datagrams = 0
        self.owners: dict[str, Site] = {}  # public address → the site behind it
        self.publics: dict[str, Host] = {}  # hosts without a NAT
        self.servers: dict[str, Relay | Controller] = {}
        self.sites: dict[str, Site] = {}
        self.hosts: dict[str, Host] = {}
        self.relays: dict[str, Relay] = {}
        self.flows: dict[tuple[str, str], Flow] = {}
        self.cuts: set[tuple[str, str]] = set()  # site → site: datagrams vanish
        self.controller = Controller(self)
        self.network_id = NetworkID.of(self.controller.keys[0])
        self._by_overlay: dict[bytes, Host] = {}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def now(self) -> Now:
        now = self.moment
        if now.boot != self.time:
            now = self.moment = Now(self.time, START_WALL + self.time)
        return now

    # building

    def site(self, kind: str, name: str | None = None, *, timeout: float = 120.0) -> Site:
        number = len(self.sites)
        site = Site(self, name or f"s{number + 1}", kind, number, timeout=timeout)
        self.sites[site.name] = site
        return site

    def host(self, name: str, where: str | Site) -> Host:
        """A host at a site, or at a new site of that NAT type."""
        site = self.site(where) if isinstance(where, str) else where
        host = Host(self, name, site, len(self.hosts))
        self.hosts[name] = host
        self._by_overlay[host.overlay.packed] = host
        self.place(host, site)
        return host

    def place(self, host: Host, site: Site) -> None:
        self.publics.pop(host.ip, None)
        host.site = site
        host.ip = f"{site.lan}.{len(site.hosts) + 10}" if site.nats else site.public_ip
        host.addr = SockAddr(host.ip, host.port)
        site.hosts[host.ip] = host
        if not site.nats:
            self.publics[host.ip] = host

    def relay(self, name: str) -> Relay:
        relay = Relay(self, name, f"198.19.1.{len(self.relays) + 1}")
        self.relays[name] = relay
        return relay

    def start(self) -> None:
        for host in self.hosts.values():
            host.start()

    # time

    def at(self, when: float, action: Callable[..., None], *args: object) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, action, args))

    def after(self, seconds: float, action: Callable[..., None], *args: object) -> None:
        self.at(self.time + seconds, action, *args)

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self._run_to(self.time + seconds)

    def _run_to(self, end: float) -> None:
        queue = self._queue
        pop = heapq.heappop
        while queue and queue[0][0] <= end:
            when, _, action, args = pop(queue)
            if when > self.time:
                self.time = when
            self.events += 1
            action(*args)
        self.time = end

    def run_until(self, condition: Callable[[], bool], limit: float, step: float = 0.05) -> float:
        """Lets time pass until the condition holds; returns the seconds it took. Fails with the whole log's end."""
        began = self.time
        while not condition():
            if self.time - began >= limit:
                raise AssertionError(f"not within {limit} s of {began:.3f}; the log's end:\n{self.tail()}")
            self._run_to(self.time + step)
        return self.time - began

    # the log

    def note(self, who: str, what: str) -> None:
        self.log.append((round(self.time, 4), who, what))

    def story(self, a: Host, b: Host) -> str:
        """What happened to a pair, for people."""
        about = []
        for at, who, what in self.log:
            mine = who in (a.name, b.name) and (not what.startswith("→") or a.name in what or b.name in what)
            if mine or who in (a.site.name, b.site.name, "controller", *self.relays):
                about.append(f"{at:10.3f} {who:>12} {what}")
        head = f"seed {self.seed}: {a.name} ({a.site.kind}) ↔ {b.name} ({b.site.kind})"
        state = f"{a.name}: {a.to(b)}\n{b.name}: {b.to(a)}"
        return "\n".join([head, *about[-80:], state])

    def tail(self, lines: int = 60) -> str:
        return "\n".join(f"{at:10.3f} {who:>12} {what}" for at, who, what in self.log[-lines:])

    # the internet

    def vpn(self, *hosts: Host, network: str = "10.99.0.0/24") -> None:
        """Another program's VPN over these hosts, faster than any other way."""
        net = ipaddress.IPv4Network(network)
        for number, host in enumerate(hosts, 1):
            host.vpn_ip = str(net[number])
            self._vpn[host.vpn_ip] = host
            host.tunnels, host.nested = (ipaddress.IPv4Interface(f"{host.vpn_ip}/{net.prefixlen}"),), (net,)

    def transmit(self, host: Host, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        """A datagram leaves a host."""
        self.datagrams += 1
        other = self._vpn.get(dst.host) if host.vpn_ip else None
        if other is not None:
            if dst.port == other.port:
                self.after(0.0005, other.arrive, SockAddr(host.vpn_ip, src.port), data)
            return
        site = host.site
        neighbour = site.hosts.get(dst.host)
        if neighbour is not None:
            if site.isolated:
                return
            self.after(0.0005, self._land, neighbour, src, dst, data)
            return
        if not site.udp_out or len(data) + IP_UDP > site.mtu:
            return
        now = self.time
        for nat in site.nats:
            src = nat.outbound(src, dst, now)
        if site.nats and dst.host == site.nats[-1].public_ip:
            if site.nats[-1].hairpins:
                self.after(0.001, self._enter, site, site.name, src, dst, data)
            return
        self.deliver(src, dst, data, site.delay, site.loss, site.name)

    def deliver(self, src: SockAddr, dst: SockAddr, data: bytes, delay: float, loss: float, origin: str = "") -> None:
        """A datagram on the open internet."""
        if loss and self.rng.random() < loss:
            return
        host = dst.host
        server = self.servers.get(host)
        if server is not None:
            self.at(self.time + delay + 0.003, server.arrive, src, dst, data)
            return
        public = self.publics.get(host)
        site = public.site if public is not None else self.owners.get(host)
        if site is None or (origin, site.name) in self.cuts:
            return
        if site.loss and self.rng.random() < site.loss:
            return
        if public is not None:
            self.at(self.time + delay + site.delay, self._land, public, src, dst, data)
        else:
            self.at(self.time + delay + site.delay, self._enter, site, origin, src, dst, data)

    def _enter(self, site: Site, origin: str, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        """At a site's outer router."""
        if len(data) + IP_UDP > site.mtu:
            return
        inside: SockAddr | None = dst
        for nat in reversed(site.nats):
            assert inside is not None
            if inside.host != nat.public_ip:
                return
            inside = nat.inbound(inside.port, src, self.time)
            if inside is None:
                return
        assert inside is not None
        host = site.hosts.get(inside.host)
        if host is not None:
            self._land(host, src, inside, data)

    @staticmethod
    def _land(host: Host, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        if dst == host.addr:
            host.arrive(src, data)

    # streams: reliable, in order, never blocked

    def open_stream(self, host: Host, info: RelayInfo) -> None:
        relay = next(r for r in self.relays.values() if r.info.url == info.url)
        if relay.alive:
            self.after(3 * (host.site.delay + relay.delay), self._opened, host, relay, info)

    def _opened(self, host: Host, relay: Relay, info: RelayInfo) -> None:
        if not host.running or not relay.alive:
            return
        slot = Slot(host.next_slot)
        host.next_slot += 1
        host.streams[slot] = (relay, relay.accept(host, slot))
        now = host.clock()
        host.pump.apply([AddStream(slot, -1)])
        host.node.add_stream(slot, info, now)
        host.settle(now)

    def close_stream(self, host: Host, slot: Slot) -> None:
        if host.running and host.streams.pop(slot, None) is not None:
            now = host.clock()
            host.pump.apply([RemoveStream(slot)])
            host.node.remove_stream(slot, now)
            host.settle(now)

    def hang_up(self, host: Host, slot: Slot) -> None:
        """The host's end of a stream is gone: its relay learns of it."""
        relay, addr = host.streams[slot]
        self.after(host.site.delay + relay.delay, relay.stream_ended, addr)

    def stream_up(self, host: Host, slot: Slot, data: bytes) -> None:
        entry = host.streams.get(slot)
        if entry is not None:
            relay, addr = entry
            self.after(host.site.delay + relay.delay, self._stream_up, relay, addr, data)

    @staticmethod
    def _stream_up(relay: Relay, addr: StreamAddr, data: bytes) -> None:
        if relay.alive and addr in relay.streams:
            relay.receive(addr, data)

    def stream_down(self, host: Host, slot: Slot, data: bytes, relay: Relay) -> None:
        self.after(host.site.delay + relay.delay, host.arrive_stream, slot, data)

    # traffic

    def flow(self, a: Host, b: Host) -> Flow:
        flow = self.flows.get((a.name, b.name))
        if flow is None:
            flow = self.flows[a.name, b.name] = Flow()
        return flow

    def send(self, a: Host, b: Host) -> None:
        """One numbered packet from a to b."""
        a.send(packet(a.overlay, b.overlay, self.flow(a, b).next_number(self.time), self.packet_size))

    def stream(self, a: Host, b: Host, every: float, count: int) -> None:
        """`count` packets from a to b, one each `every` seconds."""
        self._stream(a, b, every, count)

    def _stream(self, a: Host, b: Host, every: float, left: int) -> None:
        self.send(a, b)
        if left > 1:
            self.after(every, self._stream, a, b, every, left - 1)
        else:
            self.after(every, self._stream_ended, self.flow(a, b))

    def _stream_ended(self, flow: Flow) -> None:
        flow.pause(self.time)

    def delivered(self, host: Host, data: bytes) -> None:
        sender = self._by_overlay[data[12:16]]
        number = int.from_bytes(data[20:28], "big")
        self.flow(sender, host).arrived(number, self.time)


def packet(src: ipaddress.IPv4Address, dst: ipaddress.IPv4Address, number: int, size: int = 28) -> bytes:
    """An IPv4 packet whose payload begins with a number."""
    head = b"\x45\x00" + size.to_bytes(2, "big") + b"\0\0\0\0\x40\xfd\0\0" + src.packed + dst.packed
    return head + number.to_bytes(8, "big") + bytes(size - 28)
