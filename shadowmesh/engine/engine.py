"""One network's mind: its peers, its keys, its relays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING

from shadowmesh.engine import report
from shadowmesh.engine.epochs import Keyring
from shadowmesh.engine.events import EpochHeld, NetworkIdentity, PeerOnline, ReportPresence, WantGrant
from shadowmesh.engine.handshake import REKEY_ATTEMPT
from shadowmesh.engine.peer import Peer
from shadowmesh.engine.relays import RelaySet
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.model.link import Presence
from shadowmesh.model.netmap import Member, MemberChanges, NetworkMap
from shadowmesh.model.pump import AddIdentity, DropSessions, Path, RemoveIdentity, RemovePeer, SetPath
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PathKind
from shadowmesh.paths.values import Policy
from shadowmesh.protocol.cookies import CookieChecker, mac1_key
from shadowmesh.protocol.noise import ReceivedInitiation, StaticKeys
from shadowmesh.protocol.points import has_small_order
from shadowmesh.protocol.relay import NoPeer

if TYPE_CHECKING:
    from shadowmesh.engine.node import Node

KNOCKS = 64  # strangers that are remembered, should they turn out to be members


class Engine:
    """Everything about one network; lives in a Node, which hands it what concerns it."""

    def __init__(self, node: Node, identity: NetworkIdentity) -> None:
        self.node = node
        self.identity = identity
        self.network_id = identity.network_id
        self.static = StaticKeys(identity.private, node.config.primitives)
        self.mac1_key = mac1_key(self.static.public)
        self.cookies = CookieChecker(self.static.public)
        self.keyring = Keyring(identity.network_id, self.static.public)
        self.netmap: NetworkMap | None = None
        self.me: Member | None = None
        self.relays: RelaySet
        self.peers: dict[ClientID, Peer] = {}
        self.by_ip: dict[bytes, Peer] = {}
        self.awake: dict[Peer, None] = {}  # those that are or were spoken to, in order
        self.policy = Policy()
        self.controller_online = False
        self.replayed = 0  # initiations refused: replays, or too many
        self.strangers = 0  # initiations and disco of keys that are not in the map
        self._knocked: dict[WireGuardPublicKey, float] = {}  # strangers that sent an initiation, and when
        self._presence: dict[ClientID, Presence] = {}
        self._reported: ReportPresence | None = None
        self._early_token = ""  # one that came before the first map
        node.emit(AddIdentity(identity.net, self.mac1_key))

    # what the controller says

    def apply_map(self, netmap: NetworkMap, now: Now) -> None:
        """Takes over a map that the daemon has verified. Raises MalformedError if this client isn't in it."""
        old = self.netmap
        if old is netmap:
            return
        me = netmap.member(self.identity.client_id)
        if me is None or me.wg_key != self.static.public:
            raise MalformedError("this client, with this key, is not a member in the map")
        first = self.me is None
        if first or (self.me is not None and self.me.ip != me.ip):
            if not first:
                self.relays.close(now)
            self.relays = RelaySet(self.node, self, self.network_id, me.ip)
        self.me = me
        self.netmap = netmap
        self.keyring.apply_map(netmap)
        head = netmap.head
        self._set_policy(now)
        self._apply_members(netmap.changes_since(old), now)
        self.relays.apply_map(head.relays, now)
        if self._early_token:
            self.relays.apply_token(self._early_token, now)
            self._early_token = ""
        self.node.servers_changed(now)

    def _apply_members(self, changes: MemberChanges, now: Now) -> None:
        for client_id in changes.remove:
            peer = self.peers.get(client_id)
            if peer is not None:
                self._remove(peer)
        for member in changes.upsert:
            if member.client_id == self.identity.client_id or has_small_order(member.wg_key):
                continue  # nothing can be sent to, or come from, a key that is none
            peer = self.peers.get(member.client_id)
            if peer is not None:
                if peer.key == member.wg_key:
                    self._change(peer, member)
                    continue
                self._remove(peer)
            self._add(member, now)

    def _add(self, member: Member, now: Now) -> None:
        peer = Peer(self, member, self.node.new_peer_index())
        self.peers[member.client_id] = peer
        self.by_ip[member.ip.packed] = peer
        self.node.peer_added(peer)
        peer.put()
        presence = self._presence.get(member.client_id)
        if presence is not None:
            self._give_presence(peer, presence, now)
        if now.boot - self._knocked.pop(member.wg_key, -inf) < REKEY_ATTEMPT:
            peer.wants(now)  # it had the new map before us, and may not try again for seconds

    def _change(self, peer: Peer, member: Member) -> None:
        """Another name, address or tag, the same key: sessions stay."""
        self.by_ip.pop(peer.member.ip.packed, None)
        peer.member = member
        self.by_ip[member.ip.packed] = peer
        peer.put()

    def _remove(self, peer: Peer) -> None:
        """Out at once: nothing more goes to the peer, nothing of it is taken."""
        del self.peers[peer.member.client_id]
        if self.by_ip.get(peer.member.ip.packed) is peer:
            del self.by_ip[peer.member.ip.packed]
        self.awake.pop(peer, None)
        self._presence.pop(peer.member.client_id, None)
        if peer.handshake is not None:
            peer.handshake.drop()
        peer.handshake = peer.path = None
        self.node.peer_removed(peer)
        self.node.emit(SetPath(peer.index, None))
        self.node.emit(DropSessions(peer.index))
        self.node.emit(RemovePeer(peer.index))

    def _set_policy(self, now: Now) -> None:
        head = self.netmap.head if self.netmap is not None else None
        policy = Policy(
            p2p=head.p2p if head else True,
            relay_fallback=head.relay_fallback if head else True,
            udp=self.node.nat.type != "udp_blocked",
        )
        if policy != self.policy:
            self.policy = policy
            for peer in list(self.awake):
                if peer.path is not None:
                    peer.path.set_policy(policy, now.boot)
                    peer.after(now)

    def nat_changed(self, now: Now) -> None:
        self._set_policy(now)

    def apply_token(self, token: str, now: Now) -> None:
        """A relay token. Raises MalformedError."""
        if self.me is None:
            self._early_token = token
        else:
            self.relays.apply_token(token, now)

    def apply_keys(self, keys: Mapping[int, Secret], now: Now) -> None:
        """Network keys by epoch, unsealed. No running session is touched."""
        for epoch in self.keyring.put(keys):
            self.node.tell(EpochHeld(self.network_id, epoch))
        for peer in self.awake:
            if peer.handshake is not None and peer.handshake.stale:
                peer.handshake.stale = False
                peer.tell_path(now)

    def apply_presence(self, changes: Iterable[Presence], now: Now) -> None:
        for presence in changes:
            if presence.client_id == self.identity.client_id:
                continue
            self._presence[presence.client_id] = presence
            peer = self.peers.get(presence.client_id)
            if peer is not None:
                self._give_presence(peer, presence, now)

    def _give_presence(self, peer: Peer, presence: Presence, now: Now) -> None:
        before = peer.online
        online = presence.online if self.controller_online else None
        peer.set_presence(online, presence.home, presence.standby, presence.endpoints, now)
        if before != online:
            self.node.tell(PeerOnline(self.network_id, presence.client_id, online))

    def controller_link(self, connected: bool, now: Now) -> None:
        """Without a controller nobody's presence is known; what was told of relays still serves."""
        if connected == self.controller_online:
            return
        self.controller_online = connected
        for client_id, presence in self._presence.items():
            peer = self.peers.get(client_id)
            if peer is not None:
                online = presence.online if connected else None
                if peer.online != online:
                    peer.online = online
                    self.node.tell(PeerOnline(self.network_id, client_id, online))
        if connected:
            self._reported = None
            self.report_presence()

    def report_presence(self) -> None:
        """Tells home, standby and endpoints, if they changed."""
        if self.me is None:
            return
        endpoints = tuple(c.addr for c in self.node.candidates)
        report = ReportPresence(self.network_id, self.relays.home, self.relays.standby, endpoints)
        if report != self._reported:
            self._reported = report
            self.node.tell(report)

    # relays.RelayUser

    def relays_changed(self, now: Now) -> None:
        self.report_presence()
        for peer in list(self.awake):
            peer.choose_relay(now)
            peer.after(now)

    def relay_welcomed(self, session: RelaySession, now: Now) -> None:
        for peer in list(self.awake):
            if peer.relay is session and peer.path is not None:
                peer.path.relay_renewed(now.boot)
                if peer.handshake is not None:
                    peer.handshake.again(now)
                peer.after(now)

    def want_grant(self, why: str) -> None:
        self.node.tell(WantGrant(self.network_id, why))

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
                    self.node.emit_send(path, self.cookies.reply(data, source, now))
                return
        received = ReceivedInitiation.open(self.static, data)
        peer = self.node.by_key.get(received.peer)
        if peer is None:
            self._stranger(received.peer, now)
            return
        if peer.engine is not self or not self._fits(peer, path):
            self.strangers += 1
            return
        handshake, _ = peer.awake(now)
        if not handshake.accept(received, path, now):
            self.replayed += 1
            return
        peer.handshake_message(path, now)
        peer.after(now)

    def _stranger(self, key: WireGuardPublicKey, now: Now) -> None:
        self.strangers += 1
        self._knocked.pop(key, None)
        if len(self._knocked) >= KNOCKS:
            del self._knocked[next(iter(self._knocked))]
        self._knocked[key] = now.boot

    def response(self, data: bytes, peer: Peer, path: Path, now: Now) -> None:
        """Message 2 to one of our initiations."""
        handshake, _ = peer.awake(now)
        if self._fits(peer, path) and handshake.response(data, now):
            peer.handshake_message(path, now)
        peer.tell_path(now)
        peer.after(now)

    def _source(self, path: Path) -> SockAddr | None:
        """Whose address a cookie proves: through a relay, the node's overlay address, which the relay vouches for."""
        if path.prefix:
            return SockAddr(".".join(map(str, path.prefix[40:44])), 0)
        return path.remote

    def _fits(self, peer: Peer, path: Path) -> bool:
        """Whether a relayed message came under its sender's own address."""
        return not path.prefix or path.prefix == self.relays.prefix(peer.member.ip)

    def disco(self, data: bytes, peer: Peer, path: Path, now: Now) -> None:
        """A disco datagram that names this peer. Raises MalformedError for what doesn't open."""
        if self._fits(peer, path):
            peer.disco(peer.box.open(data), path, now)

    # the end

    def close(self, now: Now) -> None:
        for peer in list(self.peers.values()):
            self._remove(peer)
        if self.me is not None:
            self.relays.close(now)
        self.node.emit(RemoveIdentity(self.identity.net))

    # what people see

    def view_of(self, peer: Peer, now: Now) -> tuple[PathKind, Reason, SockAddr | None, str | None]:
        """Path, reason, endpoint of a direct path, name of the relay of a relayed one."""
        return report.view(self, peer, now)

    def endpoints_of(self, peer: Peer) -> tuple[SockAddr, ...]:
        """Addresses of the peer that presence told."""
        presence = self._presence.get(peer.member.client_id)
        return presence.endpoints if presence is not None else ()
