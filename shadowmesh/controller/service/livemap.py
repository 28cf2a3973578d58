"""One network's newest map, in memory: its content, its signature, and the messages that bring others up to it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.grants import Keys
from shadowmesh.controller.service.hub import encode
from shadowmesh.controller.service.mapcontent import HISTORY, Changes, make_member
from shadowmesh.model.devicelink import KeyHeld, MapUpdate, Signature
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import UNCHANGED, Encoded, MapDelta, MapSnapshot, Member, NetworkMap
from shadowmesh.protocol.sealing import key_check
from shadowmesh.protocol.signing import sign_map
from shadowmesh.protocol.token import RelayLimits

_PLACEHOLDER = ClientID("cli_" + "0" * 20)
_KEPT_TEXTS = 32
_LONGEST_KEPT = 64 * 1024  # characters: a longer delta is made anew for each who needs it


class LiveMap:
    """Signed once per serial; a delta is encoded once for all who hold the same map."""

    def __init__(self, context: ServiceContext, changes: Changes) -> None:
        self._context = context
        self._changed: dict[ClientID, int] = {}  # of members, and of those that were members; the newest change last
        self.ref = NetworkRef(changes.network.ref)
        self.network_id = NetworkID(changes.network.network_id)
        self.map = NetworkMap(generation=changes.network.generation, serial=0, head=changes.head)
        self.signature: Signature
        self.keys: Keys = {}
        self.limits = RelayLimits()  # of relay tokens
        self._checks: frozenset[KeyHeld] | None = None
        self._head_serial = 0
        self._snapshot: MapSnapshot | None = None
        # Deltas by the order of the map they are from, split at the client.
        self._texts: dict[tuple[int, int] | None, tuple[str, str]] = {}
        self._snapshot_text: tuple[str, str] | None = None
        self.apply(changes)

    @property
    def serial(self) -> int:
        return self.map.serial

    @property
    def order(self) -> tuple[int, int]:
        return self.map.order

    def apply(self, changes: Changes) -> None:
        """Takes over what changed; signs the result."""
        serial, head = changes.network.serial, None
        upsert: list[Encoded[Member]] = []
        remove: list[ClientID] = []
        for row in changes.clients:
            client_id = ClientID(row.id)
            if row.state == "approved":
                upsert.append(Encoded.of(make_member(row, changes.network.subnet6)))
            else:
                remove.append(client_id)
            self._changed.pop(client_id, None)
            self._changed[client_id] = row.changed_serial
        if self._head_serial == 0 or changes.head != self.map.head:
            self._head_serial, head = serial, Encoded.of(changes.head)
        self.map = self.map.changed(serial=serial, head=head, upsert=upsert, remove=remove)
        self.keys = changes.keys
        self.limits = changes.limits
        self._checks = None
        self.signature = sign_map(self._context.keys.maps, self.map)
        self._texts.clear()
        self._snapshot = self._snapshot_text = None
        self._forget()

    def _forget(self) -> None:
        """Those removed long ago, once they are many."""
        entries, oldest = self.map.entries, self.serial - HISTORY
        if len(self._changed) > len(entries) + 2 * HISTORY:
            self._changed = {c: at for c, at in self._changed.items() if c in entries or at > oldest}

    def held(self, keys: Iterable[KeyHeld]) -> frozenset[int]:
        """The epochs whose key the device holds that says it holds these."""
        if self._checks is None:
            self._checks = frozenset(
                KeyHeld(epoch=epoch, check=key_check(self.network_id, epoch, key)) for epoch, key in self.keys.items()
            )
        return frozenset(key.epoch for key in self._checks.intersection(keys))

    def snapshot(self) -> MapSnapshot:
        if self._snapshot is None:
            self._snapshot = self.map.snapshot()
        return self._snapshot

    def delta_from(self, serial: int) -> MapDelta:
        """What leads from that serial of this generation to the newest; empty if it is the newest."""
        changed: list[ClientID] = []
        for client_id, at in reversed(self._changed.items()):
            if at <= serial:
                break
            changed.append(client_id)
        changed.sort()
        entries = self.map.entries
        return MapDelta(
            network_id=self.network_id,
            generation=self.map.generation,
            from_serial=serial,
            to_serial=self.serial,
            head=msgspec.Raw(self.map.encoded_head.raw) if self._head_serial > serial else UNCHANGED,
            upsert=tuple(msgspec.Raw(entries[c].raw) for c in changed if c in entries),
            remove=tuple(c for c in changed if c not in entries),
            digest=self.map.digest.hex(),
        )

    def update(self, client_id: ClientID) -> MapUpdate:
        """The snapshot, for an enrolment's answer."""
        return MapUpdate(
            network_id=self.network_id, client_id=client_id, snapshot=self.snapshot(), signature=self.signature
        )

    def text_for(self, client_id: ClientID, held: tuple[int, int] | None) -> str:
        """The message for a client that holds the map of this order (None: none).

        A claim that no controller made, or made too long ago, is answered as none. What is kept of the texts is bounded.
        """
        before, after = self._texts.get(held) or self._text_from(held)
        return f'{before}"{client_id}"{after}'

    def _text_from(self, held: tuple[int, int] | None) -> tuple[str, str]:
        oldest = max(1, self.serial - HISTORY)
        if held is None or held[0] != self.map.generation or not oldest <= held[1] <= self.serial:
            if self._snapshot_text is None:
                self._snapshot_text = self._encode(snapshot=self.snapshot())
            return self._snapshot_text
        parts = self._encode(delta=self.delta_from(held[1]))
        if len(parts[1]) <= _LONGEST_KEPT:
            if len(self._texts) >= _KEPT_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[held] = parts
        return parts

    def _encode(self, *, snapshot: MapSnapshot | None = None, delta: MapDelta | None = None) -> tuple[str, str]:
        message = MapUpdate(
            network_id=self.network_id,
            client_id=_PLACEHOLDER,
            snapshot=snapshot,
            delta=delta,
            signature=self.signature,
        )
        before, _, after = encode(message).partition(f'"{_PLACEHOLDER}"')  # keys are sorted: it comes first
        return before, after
