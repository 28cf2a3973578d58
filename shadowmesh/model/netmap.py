"""The map of a network: what all its members know alike, signed once per serial.

Order is (generation, serial). The digest of a map is structured so that a delta costs a few hashes:
SHA-256 over the hash of the head and the member hashes in order of client id.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import cached_property

import msgspec

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import Struct, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey


class Member(Struct, frozen=True, kw_only=True):
    """One approved client of the network."""

    client_id: ClientID
    name: str
    ip: ipaddress.IPv4Address  # the node's id on relays, too
    ip6: ipaddress.IPv6Address | None = None
    wg_key: WireGuardPublicKey
    device_key: DevicePublicKey
    tags: tuple[str, ...] = ()


class RelayInfo(Struct, frozen=True, kw_only=True):
    """One relay that the network's clients may use. Either transport may be absent."""

    relay_id: RelayID
    name: str
    key: SigningPublicKey  # the relay signs its welcome with it
    udp: SockAddr | None = None
    url: str | None = None  # ws:// or wss://
    region: str = ""


class EpochInfo(Struct, frozen=True, kw_only=True):
    """A valid epoch of the network key. `current_from` and `ends` are Unix times by the controller's clock."""

    epoch: int
    current_from: float
    ends: float | None = None


class MapHead(Struct, frozen=True, kw_only=True):
    """All of a map but its members."""

    network_id: NetworkID
    network_ref: NetworkRef
    name: str
    subnet: ipaddress.IPv4Network
    subnet6: ipaddress.IPv6Network | None = None
    epochs: tuple[EpochInfo, ...]  # valid ones, oldest first
    p2p: bool = True
    relay_fallback: bool = True
    relays: tuple[RelayInfo, ...] = ()
    controller_urls: tuple[str, ...] = ()
    stun: tuple[SockAddr, ...] = ()  # the controller's STUN addresses as far as it knows them
    next_signing_key: SigningPublicKey | None = None


class NetworkMap(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A complete map. `members` is sorted by client id."""

    generation: int
    serial: int
    head: MapHead
    members: tuple[Member, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over hash(head) ‖ hash(member)…; what the controller signs, with generation and serial."""
        total = hashlib.sha256(hashlib.sha256(to_json(self.head)).digest())
        for member in self.members:
            total.update(hashlib.sha256(to_json(member)).digest())
        return total.digest()

    @property
    def order(self) -> tuple[int, int]:
        return (self.generation, self.serial)

    def current_epoch(self, wall: float) -> int:
        """The newest epoch that is already current at controller time `wall`."""
        ready = [e.epoch for e in self.head.epochs if e.current_from <= wall]
        return max(ready) if ready else min(e.epoch for e in self.head.epochs)

    def member(self, client_id: ClientID) -> Member | None:
        return next((m for m in self.members if m.client_id == client_id), None)


class MapDelta(Struct, frozen=True, kw_only=True):
    """What changed between two serials of one generation."""

    network_id: NetworkID
    generation: int
    from_serial: int
    to_serial: int
    head: MapHead | None = None  # None: unchanged
    upsert: tuple[Member, ...] = ()
    remove: tuple[ClientID, ...] = ()
    digest: str = ""  # hex, of the resulting map

    def apply(self, old: NetworkMap) -> NetworkMap:
        """The resulting map. Raises MalformedError if it doesn't fit `old` or the digest differs."""
        if (old.generation, old.serial) != (self.generation, self.from_serial):
            raise MalformedError(
                f"delta from {self.generation}.{self.from_serial} does not fit map {old.generation}.{old.serial}"
            )
        members = {m.client_id: m for m in old.members}
        for gone in self.remove:
            members.pop(gone, None)
        members.update((m.client_id, m) for m in self.upsert)
        new = NetworkMap(
            generation=self.generation,
            serial=self.to_serial,
            head=self.head or old.head,
            members=tuple(sorted(members.values(), key=lambda m: m.client_id)),
        )
        if new.digest.hex() != self.digest:
            raise MalformedError("the delta's digest is not that of the resulting map")
        return new

    @classmethod
    def between(cls, old: NetworkMap, new: NetworkMap) -> MapDelta:
        """The delta that leads from `old` to `new` (same generation)."""
        before = {m.client_id: m for m in old.members}
        after = {m.client_id: m for m in new.members}
        return cls(
            network_id=new.head.network_id,
            generation=new.generation,
            from_serial=old.serial,
            to_serial=new.serial,
            head=None if new.head == old.head else new.head,
            upsert=tuple(m for m in new.members if before.get(m.client_id) != m),
            remove=tuple(sorted(before.keys() - after.keys())),
            digest=new.digest.hex(),
        )
