"""One joined network: its record, keys, map and grant, checked before they count, and kept."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import structlog

from shadowmesh.daemon.keeper import Keeper
from shadowmesh.daemon.state import NetworkRecord, NetworkSecrets, State
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Grant, MapUpdate, Presence
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.netmap import Member, NetworkMap
from shadowmesh.model.pump import NetIndex
from shadowmesh.model.status import NetworkState
from shadowmesh.protocol.sealing import network_key_info, open_sealed
from shadowmesh.protocol.signing import IdentityDocument

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Interface:
    """The TUN device of a network that is up. The daemon keeps the descriptor, so the device outlives a pump."""

    name: str
    fd: int
    netns: str | None = None  # the network namespace that it is in, where that isn't the daemon's own


@dataclass(frozen=True, slots=True)
class LinkRefusal:
    """The controller doesn't want this machine's link."""

    code: str
    what: str

    @property
    def duplicate(self) -> bool:
        """Another machine with this identity is connected."""
        return self.code == "client_duplicate"


class Network:
    """What this machine knows of one network. `accept_*` check and take over; `keep_*` have it written; neither acts."""

    def __init__(self, state: State, keeper: Keeper, record: NetworkRecord, net: NetIndex) -> None:
        self._state = state
        self._keeper = keeper
        self.record = record
        self.net = net
        self.secrets: NetworkSecrets = state.secrets_of(record.network_id)
        self.keys: dict[int, Secret] = {}
        self.relay_token = ""
        self.presence: dict[ClientID, Presence] = {}  # as the controller told it last; a new Node has to be told again
        self.interface: Interface | None = None
        self.error: str | None = None
        self.trouble: str | None = None  # what of it doesn't work, though it runs
        self.failures = 0  # to bring it up, one after another
        self.retry_at = 0.0
        self.connected = False
        self.away: str | None = None  # why its controller can't be reached
        self._ahead: float | None = None  # the controller's clock minus CLOCK_BOOTTIME, as of this run's last contact
        self.answered = False  # whether the controller was reached, or was found away, since the daemon's start
        self.refusal: LinkRefusal | None = None
        self.map = state.load_map(record.network_id)
        if self.map is not None:
            self.keys, self.relay_token = state.load_grant(record.network_id)

    @property
    def id(self) -> NetworkID:
        return self.record.network_id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def identity(self) -> IdentityDocument:
        return self.record.controller.identity

    @property
    def me(self) -> Member | None:
        """This machine's entry in the map."""
        return None if self.map is None else self.map.member(self.record.client_id)

    def heard_clock(self, offset: float, now: Now) -> None:
        """The controller's clock is ahead of ours by so much."""
        self._ahead = offset + now.wall - now.boot

    def clock_offset(self, now: Now) -> float:
        """The controller's clock minus ours, seconds; right also when ours was set since the last contact."""
        return self.record.controller.clock_offset if self._ahead is None else self._ahead + now.boot - now.wall

    @property
    def run_state(self) -> NetworkState:
        if self.refusal is not None and self.refusal.duplicate:
            return "duplicate"
        if self.refusal is not None and self.refusal.code == "device_unknown":
            return "refused"
        if not self.record.approved:
            return "pending-approval"
        if not self.record.wanted:
            return "down"
        return "up" if self.interface is not None and self.error is None else "error"

    @property
    def complaint(self) -> str | None:
        """Why it isn't as it should be, in one sentence."""
        return self.error if self.refusal is None else f"{self.refusal.what} ({self.refusal.code})"

    @property
    def public_complaint(self) -> str | None:
        """The same without what a controller says of addresses, for whoever may not see endpoints."""
        return self.error if self.refusal is None else f"its controller refuses this machine ({self.refusal.code})"

    def change(self, **fields: object) -> bool:
        """Changes fields of the record. Returns whether that is on disk, too."""
        self.record = msgspec.structs.replace(self.record, **fields)
        record = self.record
        return self._keeper.keep(self.id, "record", lambda: self._state.update_network(record))

    def accept_map(self, netmap: NetworkMap) -> None:
        """A newer map, whose signature was checked."""
        for client_id in netmap.changes_since(self.map).remove:
            self.presence.pop(client_id, None)
        self.map = netmap

    def keep_map(self, update: MapUpdate) -> None:
        """`update` brought the map; what it says of this machine goes into the record."""
        netmap, me = self.map, self.me
        assert netmap is not None
        self._keeper.keep(self.id, "map", lambda: self._state.save_map(netmap, update))
        if me is not None:
            changed = {"name": netmap.head.name, "client_name": me.name, "ip": str(me.ip), "approved": True}
            if any(getattr(self.record, key) != value for key, value in changed.items()):
                self.change(**changed)

    def accept_presence(self, changes: Iterable[Presence]) -> None:
        """Keeps, in memory, what is known of the members that the map names."""
        if self.map is not None:
            self.presence |= {p.client_id: p for p in changes if p.client_id in self.map.entries}

    def accept_grant(self, grant: Grant) -> None:
        """The keys that open; one that doesn't is left out and logged."""
        held = {epoch: self.keys[epoch] for epoch in grant.held if epoch in self.keys}
        self.keys = held | opened_keys(self.secrets, self.id, grant) or self.keys
        self.relay_token = grant.relay_token or self.relay_token

    def keep_grant(self) -> None:
        keys, token = dict(self.keys), self.relay_token
        self._keeper.keep(self.id, "grant", lambda: self._state.save_grant(self.id, keys, token))


def opened_keys(secrets: NetworkSecrets, network: NetworkID, grant: Grant) -> dict[int, Secret]:
    """The network keys of a grant by epoch."""
    keys: dict[int, Secret] = {}
    for item in grant.keys:
        try:
            blob = base64.b64decode(item.sealed, validate=True)
            keys[item.epoch] = Secret(open_sealed(secrets.sealing_private, blob, network_key_info(network, item.epoch)))
        except (binascii.Error, MalformedError) as e:
            log.warning("network key refused", network=str(network), epoch=item.epoch, why=str(e))
    return keys
