"""Maps as a newer controller sends them, for what keeps them."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import msgspec

from shadowmesh.daemon.state import NetworkRecord
from shadowmesh.model.codec import to_json
from shadowmesh.model.devicelink import MapUpdate, Signature
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import MapHead, MapSnapshot, Member, NetworkMap


def encoded(value: object, **invented: object) -> msgspec.Raw:
    """The text of a newer controller, which knows more."""
    return msgspec.Raw(json.dumps(json.loads(to_json(value)) | invented, indent=1).encode())


def a_map(network_id: NetworkID, record: NetworkRecord, *names: str, serial: int = 1) -> NetworkMap:
    """A map of a newer controller: each part has a field that isn't known here."""
    head = MapHead(
        network_id=network_id,
        network_ref=record.ref,
        name="office",
        subnet=ipaddress.IPv4Network("10.1.0.0/24"),
        epochs=(),
    )
    members = [
        Member(
            client_id=ClientID(f"cli_{name}"), name=name, ip=ipaddress.IPv4Address("10.1.0.0") + number,
            wg_key=WireGuardPublicKey(bytes([number]) * 32), device_key=DevicePublicKey(bytes([number]) * 32),
        )
        for number, name in enumerate(names, 1)
    ]  # fmt: skip
    return NetworkMap.read(
        MapSnapshot(
            generation=1, serial=serial, head=encoded(head, policy=["later"]),
            members=tuple(encoded(m, zone=m.name) for m in members),
        )
    )  # fmt: skip


def update_of(record: NetworkRecord, **what: Any) -> MapUpdate:
    signature = Signature(key=SigningPublicKey(bytes(32)), value="")
    return MapUpdate(network_id=record.network_id, client_id=record.client_id, signature=signature, **what)
