"""One network's mind: its peers, its keys, its relays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Protocol

from shadowmesh.engine.events import NetworkIdentity, PeerOnline, RecentPeer, ReportEpochHeld, ReportPresence
from shadowmesh.engine.handshake import REKEY_ATTEMPT
from shadowmesh.engine.membership import Membership
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.peer import Peer
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.engine.relayset import RelaySet
from shadowmesh.engine.surroundings import SharedTransports, Surroundings
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.model.netmap import Member, MemberChanges, NetworkMap
from shadowmesh.model.pump import AddIdentity, Path, PeerIndex, RemoveIdentity
from shadowmesh.paths.candidates import BoundSocket, HostView
from shadowmesh.paths.values import Policy
from shadowmesh.protocol.cookies import CookieChecker
from shadowmesh.protocol.noise import ReceivedInitiation
from shadowmesh.protocol.points import has_small_order
from shadowmesh.protocol.relay import NoPeer

KNOWN_AT_AGE = 0.5  # seconds between two looks at all addresses of all peers, should one be asked for that isn't known
STRANGERS_REMEMBERED = 64  # keys that sent an initiation, should they turn out to be members'


class PeerTable:
    """The peers of all networks by the index that the pump knows them by."""

    def __init__(self) -> None:
        self._peers: dict[PeerIndex, Peer] = {}
        self._last = 0

    def new_index(self) -> PeerIndex:
        self._last += 1
        return PeerIndex(self._last)

    def add(self, peer: Peer) -> None:
        self._peers[peer.index] = peer

    def remove(self, peer: Peer) -> None:
        self._peers.pop(peer.index, None)

    def get(self, index: PeerIndex | None) -> Peer | None:
        return None if index is None else self._peers.get(index)

    def __len__(self) -> int:
        return len(self._peers)


class EngineUser(SharedTransports, Protocol):
    """What an engine asks of the node for all networks together."""

    def servers_changed(self, now: Now) -> None:
        """Relays and STUN servers of a network are others."""


class Engine:
    """Everything about one network; lives in a Node, which hands it what concerns it."""

    def __init__(
        self,
        identity: NetworkIdentity,
        table: PeerTable,
        surroundings: Surroundings,
        outbox: Outbox,
        user: EngineUser,
    ) -> None:
        self.membership = Membership(identity, surroundings.primitives)
        self.network_id = identity.network_id
        self._table = table
        self._surroundings = surroundings
        self._outbox = outbox
        self._user = user
        self.cookies = CookieChecker(self.membership.static.public)
        self.netmap: NetworkMap | None = None
        self.named_stun: tuple[SockAddr, ...] = ()  # of a controller that the map names by host name
        self.relays = RelaySet(identity.network_id, surroundings, outbox, user, self)
        self.peers: dict[ClientID, Peer] = {}
        self.by_key: dict[bytes, Peer] = {}
        self.by_ip: dict[bytes, Peer] = {}
        self.controller_online = False
        self.replayed = 0  # initiations refused: replays, or too many
        self.strangers = 0  # initiations of keys that are not in the map
        self._udp_blocked = False
        self._strangers_at: dict[WireGuardPublicKey, float] = {}  # when a key that isn't in the map sent an initiation
        self._presence: dict[ClientID, Presence] = {}
        self._known_at: dict[SockAddr, list[Peer]] = {}  # who may be at an address …
        self._known_at_age = -inf  # … as it was then
        self._reported: ReportPresence | None = None
        outbox.emit(AddIdentity(identity.net, self.membership.mac1_key))

    @property
    def living(self) -> bool:
        """Whether it has its map."""
        return self.netmap is not None

    @property
    def me(self) -> Member | None:
        """This client in the map, None before the first map."""
        return self.netmap.member(self.membership.client_id) if self.netmap is not None else None

    @property
    def only_tcp_works(self) -> bool:
        """Whether servers of the network that speak UDP, too, are reached by TCP alone."""
        return not self.relays.udp_works and (self.relays.only_streams_work or self._controller_without_stun)

    @property
    def _controller_without_stun(self) -> bool:
        return self.controller_online and self.netmap is not None and bool(self.netmap.head.stun)

    def active_peers(self) -> Iterator[Peer]:
        """Those that are or were spoken to."""
        return iter([peer for peer in self.peers.values() if peer.active])

    # what the controller says

    def apply_map(self, netmap: NetworkMap, now: Now) -> None:
        """Takes over a map that the daemon has verified. Raises MalformedError if this client isn't in it, or an address is
        none of the network's."""
        old = self.netmap
        if old is netmap:
            return
        me = netmap.member(self.membership.client_id)
        if me is None or me.wg_key != self.membership.static.public:
            raise MalformedError("this client, with this key, is not a member in the map")
        netmap.check_addresses(old)
        self.netmap = netmap
        self.membership.ip = me.ip
        self.membership.network_keys.apply_map(netmap)
        self._set_policy(now)
        readdressed = self.relays.set_address(me.ip, now) and old is not None
        self._apply_members(netmap.changes_since(old), now)
        self.relays.apply_map(netmap.head.relays, now)
        if readdressed:
            self.relays_changed(now)
        self._user.servers_changed(now)

    def _apply_members(self, changes: MemberChanges, now: Now) -> None:
        for client_id in changes.remove:
            self._presence.pop(client_id, None)
            if client_id in self.peers:
                self._remove(self.peers[client_id], now)
        moved, new = [], []
        for member in changes.upsert:
            if member.client_id == self.membership.client_id:
                continue
            peer = self.peers.get(member.client_id)
            if peer is not None and peer.key == member.wg_key:
                moved.append((peer, member))
                continue
            if peer is not None:
                self._remove(peer, now)
            if not has_small_order(member.wg_key):  # nothing can be sent to, or come from, a key that is none
                new.append(member)
        for peer, _ in moved:  # all leave their addresses before any takes another's
            self._leave_address(peer)
        for peer, member in moved:
            self.by_ip[member.ip.packed] = peer
            peer.set_member(member, now)
        for member in new:
            self._add(member, now)

    def _add(self, member: Member, now: Now) -> None:
        peer = Peer(member, self._table.new_index(), self.membership, self.relays, self._surroundings, self._outbox)
        self._table.add(peer)
        self.peers[member.client_id] = peer
        self.by_key[member.wg_key] = peer
        self.by_ip[member.ip.packed] = peer
        presence = self._presence.get(member.client_id)
        if presence is not None:
            self._give_presence(peer, presence, now)
        if now.boot - self._strangers_at.pop(member.wg_key, -inf) < REKEY_ATTEMPT:
            peer.wants(now)  # it had the new map before us, and may not try again for seconds

    def _remove(self, peer: Peer, now: Now) -> None:
        """Out at once: nothing more goes to the peer, nothing of it is taken."""
        member = peer.member
        del self.peers[member.client_id]
        if self.by_key.get(member.wg_key) is peer:
            del self.by_key[member.wg_key]
        self._leave_address(peer)
        self._table.remove(peer)
        peer.close(now)

    def _leave_address(self, peer: Peer) -> None:
        if self.by_ip.get(peer.member.ip.packed) is peer:
            del self.by_ip[peer.member.ip.packed]

    def _set_policy(self, now: Now) -> None:
        head = self.netmap.head if self.netmap is not None else None
        policy = Policy(
            p2p=self._surroundings.p2p and (head.p2p if head else True),
            relay_fallback=head.relay_fallback if head else True,
            udp=not self._udp_blocked,
        )
        if policy != self.membership.policy:
            self.membership.policy = policy
            for peer in self.active_peers():
                peer.policy_changed(policy, now)

    # restarts

    def remember(self, recent: Iterable[RecentPeer], now: Now) -> None:
        """Whom we talked with before our restart."""
        for entry in recent:
            peer = self.peers.get(entry.client_id)
            if peer is not None:
                peer.remember(entry, now)
        self._known_at_age = -inf

    def recent_peers(self, now: Now) -> list[tuple[int, RecentPeer]]:
        """Those with data lately, and how many bytes."""
        counters, found = self._surroundings.counters, []
        for peer in self.active_peers():
            recent = peer.recent(now)
            if recent is not None:
                traffic = counters.traffic(peer.index) if counters is not None else None
                found.append((traffic.rx + traffic.tx if traffic is not None else 0, recent))
        return found

    def senders_on(self, path: Path, now: Now) -> list[Peer]:
        """Whose a datagram on `path` may be that can't be told from within: by relay, of whom its frame names; directly,
        of all who are known to be there. What a member says of where it is may be another's address."""
        if path.prefix:
            peer = self.by_ip.get(path.prefix[40:44])
            own = peer is not None and self.relays.is_from(peer.member.ip, path) and self.relays.brings(path)
            return [peer] if peer is not None and own else []
        if path.remote is None:
            return []
        found = self._known_at.get(path.remote)
        if found is None and now.boot - self._known_at_age >= KNOWN_AT_AGE:
            self._known_at_age = now.boot
            self._known_at = {}
            for peer in self.peers.values():
                for addr in peer.known_at():
                    self._known_at.setdefault(addr, []).append(peer)
            found = self._known_at.get(path.remote)
        return [peer for peer in found or () if self.peers.get(peer.member.client_id) is peer]

    def apply_token(self, token: str, now: Now) -> None:
        """A relay token. Raises MalformedError."""
        self.relays.apply_token(token, now)

    def apply_keys(self, keys: Mapping[int, Secret], now: Now) -> None:
        """Network keys by epoch, unsealed. No running session is touched."""
        for epoch in self.membership.network_keys.put(keys):
            self._outbox.publish(ReportEpochHeld(self.network_id, epoch))
        for peer in self.active_peers():
            peer.keys_changed(now)

    def apply_presence(self, changes: Iterable[Presence], now: Now) -> None:
        for presence in changes:
            if presence.client_id == self.membership.client_id:
                continue
            self._presence[presence.client_id] = presence
            peer = self.peers.get(presence.client_id)
            if peer is not None:
                self._give_presence(peer, presence, now)

    def _give_presence(self, peer: Peer, presence: Presence, now: Now) -> None:
        peer.set_presence(presence, now)
        self._set_online(peer, presence.online if self.controller_online else None, now)

    def _set_online(self, peer: Peer, online: bool | None, now: Now) -> None:
        if peer.online != online:
            peer.set_online(online, now)
            self._outbox.publish(PeerOnline(self.network_id, peer.member.client_id, online))

    def controller_link(self, connected: bool, now: Now) -> None:
        """Without a controller nobody's presence is known; what was told of relays still serves. Connected again, by
        another connection: it knows nothing of this one yet."""
        if connected != self.controller_online:
            self.controller_online = connected
            for client_id, presence in self._presence.items():
                peer = self.peers.get(client_id)
                if peer is not None:
                    self._set_online(peer, presence.online if connected else None, now)
        if connected:
            self._reported = None
            self.report_presence()

    def report_presence(self) -> None:
        """Tells home, standby and endpoints, if they changed."""
        if self.netmap is None:
            return
        endpoints = tuple(c.addr for c in self._surroundings.candidates) if self._surroundings.p2p else ()
        report = ReportPresence(self.network_id, self.relays.home, self.relays.standby, endpoints)
        if report != self._reported:
            self._reported = report
            self._outbox.publish(report)

    # what the host says

    def nat_changed(self, *, udp_blocked: bool, now: Now) -> None:
        self._udp_blocked = udp_blocked
        self._set_policy(now)

    def host_changed(self, view: HostView, sockets: tuple[BoundSocket, ...], now: Now, *, moved: bool) -> None:
        """The host's addresses or sockets changed."""
        self.report_presence()
        for peer in self.active_peers():
            peer.host_changed(view, sockets, now, moved=moved)

    def paths_in_doubt(self, now: Now) -> None:
        """The host slept, or its routes changed."""
        for peer in self.active_peers():
            peer.network_changed(now)

    # relays.RelayUser

    def relays_changed(self, now: Now) -> None:
        self.report_presence()
        for peer in self.active_peers():
            peer.relays_changed(now)

    def relay_welcomed(self, session: RelaySession, now: Now) -> None:
        own = session.relay.relay_id in (self.relays.home, self.relays.standby)
        for peer in self.active_peers():
            peer.relay_welcomed(session, now, own=own)

    def relay_unused(self, session: RelaySession, now: Now) -> None:
        for peer in self.active_peers():
            peer.relay_unused(session, now)

    def no_peer(self, message: NoPeer, session: RelaySession, now: Now) -> None:
        peer = self.by_ip.get(message.dest.packed)
        if peer is not None:
            peer.not_at_relay(session.relay.relay_id, now)

    # handshakes

    def initiation(self, data: bytes, path: Path, now: Now, *, under_load: bool) -> None:
        """Message 1 whose mac1 is ours. Raises MalformedError for what doesn't open."""
        if under_load:
            source = self._source(path)
            if source is None or not self.cookies.check_mac2(data, source, now):
                if source is not None:
                    self._outbox.send(path, self.cookies.reply(data, source, now))
                return
        received = ReceivedInitiation.open(self.membership.static, data)
        peer = self.by_key.get(received.peer)
        if peer is None:
            self._stranger(received.peer, now)
        elif not self.relays.is_from(peer.member.ip, path):
            self.strangers += 1
        elif not peer.initiation(received, path, now):
            self.replayed += 1

    def _stranger(self, key: WireGuardPublicKey, now: Now) -> None:
        self.strangers += 1
        self._strangers_at.pop(key, None)
        if len(self._strangers_at) >= STRANGERS_REMEMBERED:
            del self._strangers_at[next(iter(self._strangers_at))]
        self._strangers_at[key] = now.boot

    def _source(self, path: Path) -> SockAddr | None:
        """Whose address a cookie proves: through a relay, the node's overlay address, which the relay vouches for."""
        if path.prefix:
            return SockAddr(".".join(map(str, path.prefix[40:44])), 0)
        return path.remote

    # the end

    def close(self, now: Now) -> None:
        """Ends everything that belongs to the network: not one packet for it from here on."""
        for peer in list(self.peers.values()):
            self._remove(peer, now)
        self.relays.close()
        self.netmap = None
        self._presence.clear()
        self._strangers_at.clear()
        self._known_at.clear()
        self._outbox.emit(RemoveIdentity(self.membership.net))
