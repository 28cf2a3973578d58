"""Where a peer's datagrams go: turns what its path wants (directly, by relay) into paths of the pump."""

from __future__ import annotations

from ipaddress import IPv4Address

from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.engine.relayset import RelaySet
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import RelayID
from shadowmesh.model.pump import Path, PeerIndex, SetPath
from shadowmesh.paths.candidates import PathKey
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import PathRoute

ABSENT = 5.0  # seconds for which a relay that said "not here" is asked last


class PeerRoute:
    """One active peer's ways. `ip` is the peer's overlay address, its id on relays."""

    __slots__ = (
        "_absent",
        "_also",
        "_index",
        "_mtu",
        "_outbox",
        "_primary",
        "_relays",
        "home",
        "ip",
        "last_known",
        "path",
        "relay",
        "standby",
    )

    def __init__(self, index: PeerIndex, ip: IPv4Address, path: PeerPath, relays: RelaySet, outbox: Outbox) -> None:
        self.ip = ip
        self.path = path
        self.home: RelayID | None = None  # the peer's, as its presence says
        self.standby: RelayID | None = None
        self.relay: RelaySession | None = None
        self.last_known: tuple[Path, ...] = ()  # where it was before our restart, until a session stands
        self._index = index
        self._relays = relays
        self._outbox = outbox
        self._absent: dict[RelayID, float] = {}
        self._primary: Path | None = None
        self._also: Path | None = None
        self._mtu: int | None = None

    @property
    def open(self) -> bool:
        """Whether data goes anywhere at present."""
        return self._primary is not None

    @property
    def missing(self) -> bool:
        """Whether each relay that was tried said that the peer isn't there."""
        return bool(self._absent) and self.relay is not None and self.relay.relay.relay_id in self._absent

    def set_relays(self, home: RelayID | None, standby: RelayID | None) -> bool:
        """The peer's relays, as its presence says; returns whether they are others than before."""
        if (home, standby) == (self.home, self.standby):
            return False
        self.home, self.standby = home, standby
        self._absent.clear()
        return True

    def choose_relay(self, now: Now) -> bool:
        """Chooses the relay to this peer anew; returns whether there is one where there was none."""
        relay = self._relays.choose((self.home, self.standby), self._absent, now)
        before, self.relay = self.relay, relay
        self.path.set_relay(relay is not None, now.boot)
        if relay is not before:
            self.path.relay_changed(now.boot)
            self.apply(self.path.route)
        return relay is not None and before is None

    def next_relay(self, now: float) -> RelaySession | None:
        """By which relay the next packet goes, should there be one."""
        if self.relay is not None:
            return self.relay
        return self._relays.at_hand((self.home, self.standby), self._absent, now)

    def found(self) -> None:
        """The peer is there again: what relays said of its absence is over."""
        self._absent.clear()

    def leave_relay(self, now: Now) -> None:
        """Its session was left; another is chosen when there is something to send."""
        self.relay = None
        self.path.set_relay(False, now.boot)

    def absent_at(self, relay_id: RelayID, now: Now) -> None:
        """A relay said that the peer is not there."""
        self._absent[relay_id] = now.boot + ABSENT

    def open_on(self, path: Path) -> None:
        """A fresh, authenticated handshake message came on `path`: where nothing better is known yet, data goes there."""
        if self._primary is None and self._allowed(path):
            self._primary = path
            self._outbox.emit(SetPath(self._index, path))

    def policy_changed(self) -> None:
        """What was opened where nothing better was known ends where it isn't allowed any more."""
        self.last_known = tuple(path for path in self.last_known if self._allowed(path))
        if self._primary is not None and not self._allowed(self._primary):
            self.apply(self.path.route)

    def _allowed(self, path: Path) -> bool:
        policy = self.path.policy
        return policy.relay_fallback if path.prefix else policy.p2p

    def apply(self, route: PathRoute) -> bool:
        """Tells the pump, if its paths are others than before; returns whether they are."""
        primary, also = self._resolve(route.primary), self._resolve(route.also)
        mtu = self.path.mtu
        if (primary, also, mtu) == (self._primary, self._also, self._mtu):
            return False
        self._primary, self._also, self._mtu = primary, also, mtu
        self._outbox.emit(SetPath(self._index, primary, also, mtu))
        return True

    def _resolve(self, way: PathKey | str | None) -> Path | None:
        if way is None:
            return None
        if isinstance(way, PathKey):
            return Path(way.slot, way.remote)
        return self.relay_path()

    def relay_path(self) -> Path | None:
        """The way through the relay, None while there is none."""
        relay = self.relay
        if relay is None or relay.path is None:
            return None
        return Path(relay.path.via, relay.path.remote, None, self._relays.prefix(self.ip))

    def handshake_paths(self, now: Now) -> list[Path]:
        """Where handshake messages go: the ways that data takes."""
        if self._primary is None and self.path.policy.relay_fallback and self.relay is None:
            self.choose_relay(now)
        ways = [p for p in (self._primary, self._also) if p is not None]
        return [*ways, *(p for p in self.last_known if p not in ways)]
