"""One joined network: its record, keys, map and grant, checked before they count and kept on disk."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import structlog

from shadowmesh.daemon.state import NetworkRecord, NetworkSecrets, State
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.link import Grant, MapUpdate, Presence
from shadowmesh.model.netmap import Member, NetworkMap
from shadowmesh.model.pump import NetIndex
from shadowmesh.model.status import NetworkState
from shadowmesh.protocol.sealing import network_key_info, open_sealed
from shadowmesh.protocol.signing import IdentityDocument

log = structlog.get_logger(__name__)

INNER_MTU = 1376  # 1500 − IPv6 40 − UDP 8 − relay 44 − WireGuard 32


@dataclass(slots=True)
class Interface:
    """The TUN device of a network that is up. The daemon keeps the descriptor, so the device outlives a pump."""

    name: str
    fd: int


class Network:
    """What this machine knows of one network. `accept_*` check, keep and return; they don't act."""

    def __init__(self, state: State, record: NetworkRecord, net: NetIndex) -> None:
        self._state = state
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
        self.refusal: str | None = None  # why the controller doesn't want this device, if so
        self.identity: IdentityDocument = record.controller.identity
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
    def me(self) -> Member | None:
        """This machine's entry in the map."""
        return None if self.map is None else self.map.member(self.record.client_id)

    @property
    def run_state(self) -> NetworkState:
        if not self.record.approved:
            return "pending-approval"
        if not self.record.wanted:
            return "down"
        return "up" if self.interface is not None and self.error is None else "error"

    def change(self, **fields: object) -> None:
        """Changes fields of the record, on disk too."""
        self.record = msgspec.structs.replace(self.record, **fields)
        self._state.update_network(self.record)

    def accept_map(self, netmap: NetworkMap, update: MapUpdate) -> None:
        """Keeps a newer map, whose signature was checked, and `update`, which brought it; takes over what it says of this machine."""
        self.map = netmap
        self._state.save_map(netmap, update)
        me = self.me
        if me is not None:
            changed = {"name": netmap.head.name, "ip": str(me.ip), "approved": True}
            if any(getattr(self.record, key) != value for key, value in changed.items()):
                self.change(**changed)

    def accept_presence(self, changes: Iterable[Presence]) -> None:
        """Keeps, in memory, what is known of the members that the map names."""
        self.presence |= {p.client_id: p for p in changes}
        if self.map is not None:
            members = self.map.entries
            self.presence = {c: p for c, p in self.presence.items() if c in members}

    def accept_grant(self, grant: Grant) -> None:
        """Unseals and keeps the keys that open; one that doesn't is left out and logged."""
        keys: dict[int, Secret] = {}
        for item in grant.keys:
            try:
                blob = base64.b64decode(item.sealed, validate=True)
                info = network_key_info(self.id, item.epoch)
                keys[item.epoch] = Secret(open_sealed(self.secrets.sealing_private, blob, info))
            except (binascii.Error, MalformedError) as e:
                log.warning("network key refused", network=self.name, epoch=item.epoch, why=str(e))
        self.keys = keys or self.keys
        self.relay_token = grant.relay_token or self.relay_token
        self._state.save_grant(self.id, self.keys, self.relay_token)
