"""The map of a network: what all its members know alike, signed once per serial.

Order is (generation, serial). What is hashed, signed and kept is the JSON text of the head and of each member as it
came: fields that a newer controller added are covered by the signature, passed on and still there after an upgrade.
The digest is SHA-256 over the hash of the head and the hashes of the members in order of client id, so a delta costs
the hashes of what changed.
"""

from __future__ import annotations

import hashlib
import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import msgspec

from shadowmesh.model.addresses import IPNetwork, SockAddr, may_be_overlay
from shadowmesh.model.clock import UnixTime
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey

T = TypeVar("T")

_HASH = 32  # bytes
UNCHANGED = msgspec.Raw(b"null")


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


Epoch = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]  # as wide as in the derivation of preshared keys


class EpochInfo(Struct, frozen=True, kw_only=True):
    """A valid epoch of the network key. `current_from` and `ends` are Unix times by the controller's clock."""

    epoch: Epoch
    current_from: UnixTime
    ends: UnixTime | None = None


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
    reports: str = "off"  # what devices tell the controller of their connections: off, health, full (bytes, too)
    relays: tuple[RelayInfo, ...] = ()
    controller_urls: tuple[str, ...] = ()
    stun: tuple[SockAddr, ...] = ()  # the controller's STUN addresses as far as it knows them, and others it names
    stun_names: tuple[str, ...] = ()  # further STUN servers, HOST:PORT, that are looked up where they are asked

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        return (self.subnet,) if self.subnet6 is None else (self.subnet, self.subnet6)


class Encoded(Generic[T]):
    """A value and the JSON text that it came as, or goes as; equal where the texts are."""

    __slots__ = ("hash", "raw", "value")

    def __init__(self, value: T, raw: bytes) -> None:
        self.value = value
        self.raw = raw
        self.hash = hashlib.sha256(raw).digest()

    @classmethod
    def of(cls, value: T) -> Encoded[T]:
        """With the canonical text of a value that is made here."""
        return cls(value, to_json(value))

    @classmethod
    def read(cls, raw: msgspec.Raw, kind: type[T]) -> Encoded[T]:
        """Raises MalformedError."""
        text = bytes(raw)
        return cls(from_json(text, kind), text)

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Encoded) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)


class MapSnapshot(Struct, frozen=True, kw_only=True):
    """A complete map as it travels. `head` and `members` are JSON texts that stay as they are."""

    generation: int
    serial: int
    head: msgspec.Raw
    members: tuple[msgspec.Raw, ...] = ()


class MapDelta(Struct, frozen=True, kw_only=True):
    """What changed between two serials of one generation. `head` and `upsert` are JSON texts that stay as they are."""

    network_id: NetworkID
    generation: int
    from_serial: int
    to_serial: int
    head: msgspec.Raw = UNCHANGED
    upsert: tuple[msgspec.Raw, ...] = ()
    remove: tuple[ClientID, ...] = ()
    digest: str = ""  # hex, of the resulting map

    def apply(self, old: NetworkMap) -> NetworkMap:
        """The resulting map. Raises MalformedError if it doesn't fit `old` or the digest differs."""
        new = old.followed_by(self)
        if new.digest.hex() != self.digest:
            raise MalformedError("the delta's digest is not that of the resulting map")
        return new

    @classmethod
    def between(cls, old: NetworkMap, new: NetworkMap) -> MapDelta:
        """The delta that leads from `old` to `new` (same generation)."""
        changes = new.changes_since(old)
        return cls(
            network_id=new.head.network_id,
            generation=new.generation,
            from_serial=old.serial,
            to_serial=new.serial,
            head=UNCHANGED if new.encoded_head == old.encoded_head else msgspec.Raw(new.encoded_head.raw),
            upsert=tuple(msgspec.Raw(new.entries[m.client_id].raw) for m in changes.upsert),
            remove=changes.remove,
            digest=new.digest.hex(),
        )


@dataclass(frozen=True, slots=True)
class MemberChanges:
    """How the members of one map differ from those of an older one; both in order of client id."""

    upsert: tuple[Member, ...]  # new, or another than before
    remove: tuple[ClientID, ...]


class NetworkMap:
    """A complete map: never changed, indexed by client id. Equal where order and digest are."""

    __slots__ = ("_changes", "_digest", "_hashes", "_members", "encoded_head", "entries", "generation", "ids", "serial")

    def __init__(self, *, generation: int, serial: int, head: MapHead, members: Iterable[Member] = ()) -> None:
        """A map made here, whatever the order of `members`."""
        self._set(generation, serial, Encoded.of(head), {m.client_id: Encoded.of(m) for m in members})

    def _set(
        self,
        generation: int,
        serial: int,
        head: Encoded[MapHead],
        entries: dict[ClientID, Encoded[Member]],
        ids: list[ClientID] | None = None,
    ) -> None:
        self.generation = generation
        self.serial = serial
        self.encoded_head = head
        self.entries: Mapping[ClientID, Encoded[Member]] = entries
        self.ids = sorted(entries) if ids is None else ids  # in order
        self._digest: bytes | None = None
        self._hashes: bytes | bytearray | None = (
            None  # of the members, in order; with a change they are copied, not gathered anew
        )
        self._members: tuple[Member, ...] | None = None
        self._changes: tuple[bytes, MemberChanges] | None = None  # since the map of this digest

    @classmethod
    def read(cls, snapshot: MapSnapshot) -> NetworkMap:
        """A map that came. Raises MalformedError if it isn't understood, or names a member twice."""
        read = [Encoded.read(raw, Member) for raw in snapshot.members]
        entries = {entry.value.client_id: entry for entry in read}
        if len(entries) != len(read):
            raise MalformedError("a map that names a member twice")
        new = cls.__new__(cls)
        new._set(snapshot.generation, snapshot.serial, Encoded.read(snapshot.head, MapHead), entries)
        return new

    def snapshot(self) -> MapSnapshot:
        """The map as it travels, each part with the text that it came as."""
        return MapSnapshot(
            generation=self.generation,
            serial=self.serial,
            head=msgspec.Raw(self.encoded_head.raw),
            members=tuple(msgspec.Raw(self.entries[c].raw) for c in self.ids),
        )

    def changed(
        self,
        *,
        serial: int,
        head: Encoded[MapHead] | None = None,
        upsert: Iterable[Encoded[Member]] = (),
        remove: Iterable[ClientID] = (),
    ) -> NetworkMap:
        """The map that follows with these changes (head None: the same); costs little more than they do."""
        entries, ids = dict(self.entries), list(self.ids)
        hashes = bytearray(self.hashes)
        removed, upserted = [], {}
        for client_id in remove:
            if entries.pop(client_id, None) is not None:
                at = bisect_left(ids, client_id)
                del ids[at], hashes[at * _HASH : (at + 1) * _HASH]
                removed.append(client_id)
        for entry in upsert:
            client_id = entry.value.client_id
            before = entries.get(client_id)
            if before == entry:
                continue
            at = bisect_left(ids, client_id)
            if before is None:
                ids.insert(at, client_id)
            hashes[at * _HASH : (at + (before is not None)) * _HASH] = entry.hash
            entries[client_id] = entry
            upserted[client_id] = entry.value
        new = type(self).__new__(type(self))
        new._set(self.generation, serial, head or self.encoded_head, entries, ids)
        new._hashes = hashes
        changes = MemberChanges(
            tuple(upserted[c] for c in sorted(upserted)), tuple(c for c in sorted(removed) if c not in upserted)
        )
        new._changes = (self.digest, changes)
        return new

    def followed_by(self, delta: MapDelta) -> NetworkMap:
        """The map after this delta; whether its digest is right isn't looked at. Raises MalformedError if it doesn't fit."""
        if (self.generation, self.serial) != (delta.generation, delta.from_serial):
            raise MalformedError(
                f"delta from {delta.generation}.{delta.from_serial} does not fit map {self.generation}.{self.serial}"
            )
        return self.changed(
            serial=delta.to_serial,
            head=None if delta.head == UNCHANGED else Encoded.read(delta.head, MapHead),
            upsert=[Encoded.read(raw, Member) for raw in delta.upsert],
            remove=delta.remove,
        )

    def changes_since(self, old: NetworkMap | None) -> MemberChanges:
        """What is different from `old` (None: no map); known at once where one change made this map of that one."""
        if old is None:
            return MemberChanges(self.members, ())
        if self._changes is not None and self._changes[0] == old.digest:
            return self._changes[1]
        return MemberChanges(
            tuple(e.value for c in self.ids if (e := self.entries[c]) != old.entries.get(c)),
            tuple(c for c in old.ids if c not in self.entries),
        )

    def check_addresses(self, checked: NetworkMap | None = None) -> None:
        """Raises MalformedError if a member is outside the network's subnets, or these are where no overlay may be: in the
        name of one network a controller would speak of another's hosts, or of the internet's. `checked`: an earlier map
        that was looked at."""
        head = self.head
        known = checked if checked is not None and checked.head.subnets == head.subnets else None
        if known is None and not all(map(may_be_overlay, head.subnets)):
            raise MalformedError(f"its subnet is {' and '.join(map(str, head.subnets))}, where no network may be")
        for member in self.changes_since(known).upsert:
            inside6 = member.ip6 is None or (head.subnet6 is not None and member.ip6 in head.subnet6)
            if member.ip not in head.subnet or not inside6:
                raise MalformedError(f"a member's address is outside {' and '.join(map(str, head.subnets))}")

    @property
    def head(self) -> MapHead:
        return self.encoded_head.value

    @property
    def members(self) -> tuple[Member, ...]:
        """In order of client id."""
        if self._members is None:
            self._members = tuple(self.entries[c].value for c in self.ids)
        return self._members

    @property
    def digest(self) -> bytes:
        """SHA-256 over hash(head) ‖ hash(member)…; what the controller signs, with generation and serial."""
        if self._digest is None:
            whole = hashlib.sha256(self.encoded_head.hash)
            whole.update(self.hashes)
            self._digest = whole.digest()
        return self._digest

    @property
    def hashes(self) -> bytes | bytearray:
        """The members' hashes one after another, in order of client id. Not to be changed."""
        if self._hashes is None:
            entries = self.entries
            self._hashes = b"".join([entries[c].hash for c in self.ids])
        return self._hashes

    @property
    def order(self) -> tuple[int, int]:
        return (self.generation, self.serial)

    def current_epoch(self, wall: float) -> int:
        """The newest epoch that is already current at controller time `wall`."""
        ready = [e.epoch for e in self.head.epochs if e.current_from <= wall]
        return max(ready) if ready else min(e.epoch for e in self.head.epochs)

    def member(self, client_id: ClientID) -> Member | None:
        entry = self.entries.get(client_id)
        return None if entry is None else entry.value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NetworkMap):
            return NotImplemented
        return self.order == other.order and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.order, self.digest))

    def __repr__(self) -> str:
        return f"NetworkMap({self.head.name!r}, {self.generation}.{self.serial}, {len(self.ids)} members)"
