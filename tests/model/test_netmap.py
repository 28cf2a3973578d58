"""The map: indexed, made by deltas as by snapshots, and true to the bytes that a newer controller sent."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import FromController, Grant, MapUpdate, PresenceUpdate, read_message
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey, NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import UNCHANGED, Encoded, EpochInfo, MapDelta, MapHead, MapSnapshot, Member, NetworkMap
from shadowmesh.protocol.signing import Signer, sign_map, verify_map

NETWORK = NetworkID(bytes(32))
SIGNER = Signer.from_secret(Secret(bytes(range(32))))


def client(number: int) -> ClientID:
    return ClientID(f"cli_{number:020}")


def member(number: int, name: str = "") -> Member:
    return Member(
        client_id=client(number),
        name=name or f"m{number}",
        ip=ipaddress.IPv4Address("10.1.0.0") + number,
        wg_key=WireGuardPublicKey(number.to_bytes(32, "big")),
        device_key=DevicePublicKey(number.to_bytes(32, "little")),
    )


def head(name: str = "office") -> MapHead:
    return MapHead(
        network_id=NETWORK,
        network_ref=NetworkRef("net_x"),
        name=name,
        subnet=ipaddress.IPv4Network("10.1.0.0/16"),
        epochs=(EpochInfo(epoch=0, current_from=0.0),),
    )


def netmap(*numbers: int, serial: int = 1, generation: int = 1) -> NetworkMap:
    return NetworkMap(generation=generation, serial=serial, head=head(), members=[member(n) for n in numbers])


def newer(value: Any, **invented: Any) -> bytes:
    """The JSON text of a controller that knows more: other fields, in an order and with blanks of its own."""
    return json.dumps(invented | json.loads(to_json(value)), indent=1, ensure_ascii=False).encode()


def signed(netmap: NetworkMap, **what: Any) -> bytes:
    update = MapUpdate(network_id=NETWORK, client_id=client(1), signature=sign_map(SIGNER, netmap), **what)
    return to_json(update)


def received(text: bytes, held: NetworkMap | None) -> NetworkMap:
    """What a device makes of a message: parsed, applied, verified."""
    message = read_message(text, FromController)
    assert isinstance(message, MapUpdate)
    found = message.apply(held)
    assert verify_map(found, message.signature, {SIGNER.public})
    return found


def test_fields_that_only_a_newer_controller_knows_are_verified_applied_and_passed_on() -> None:
    head_text = newer(head(), policy={"rules": ["ä", None]})
    texts = {n: newer(member(n), routes=[f"10.{n}.0.0/16"], zone="π") for n in (1, 2, 3)}
    theirs = NetworkMap.read(
        MapSnapshot(
            generation=1, serial=4, head=msgspec.Raw(head_text), members=tuple(map(msgspec.Raw, texts.values()))
        )
    )
    held = received(signed(theirs, snapshot=theirs.snapshot()), None)
    assert held.members == (member(1), member(2), member(3)) and held.head == head()

    changed, added = newer(member(2, "renamed"), exit_node=True), newer(member(7), exit_node=False)
    other_head = newer(head("bureau"), policy=[])
    theirs = theirs.changed(
        serial=5,
        head=Encoded.read(msgspec.Raw(other_head), MapHead),
        upsert=[Encoded.read(msgspec.Raw(t), Member) for t in (changed, added)],
        remove=[client(3)],
    )
    delta = MapDelta(
        network_id=NETWORK,
        generation=1,
        from_serial=4,
        to_serial=5,
        head=msgspec.Raw(other_head),
        upsert=(msgspec.Raw(changed), msgspec.Raw(added)),
        remove=(client(3),),
        digest=theirs.digest.hex(),
    )
    after = received(signed(theirs, delta=delta), held)
    assert after == theirs
    assert after.members == (member(1), member(2, "renamed"), member(7)) and after.head.name == "bureau"

    again = received(signed(after, snapshot=after.snapshot()), None)
    assert again == theirs
    assert again.encoded_head.raw == other_head
    assert [again.entries[c].raw for c in again.ids] == [texts[1], changed, added]


def test_a_changed_byte_of_a_field_that_isnt_known_breaks_the_signature() -> None:
    text = newer(member(1), zone="x")
    snapshot = MapSnapshot(generation=1, serial=1, head=msgspec.Raw(to_json(head())), members=(msgspec.Raw(text),))
    good = signed(NetworkMap.read(snapshot), snapshot=snapshot)
    forged = good.replace(b'"zone": "x"', b'"zone": "y"')
    assert forged != good
    message = from_json(forged, MapUpdate)
    assert not verify_map(message.apply(None), message.signature, {SIGNER.public})


def test_grants_presence_and_envelopes_of_a_newer_controller_are_understood() -> None:
    grant = {"type": "grant", "network_id": str(NETWORK), "relay_token": "t", "lease": {"until": 1}}
    grant["keys"] = [{"epoch": 0, "sealed": "AA==", "suite": "next"}]
    found = read_message(json.dumps(grant), FromController)
    assert isinstance(found, Grant) and found.keys[0].epoch == 0
    change = {"client_id": client(1), "online": True, "load": 0.5, "endpoints": [["192.0.2.1", 7]]}
    presence = {"type": "presenceupdate", "network_id": str(NETWORK), "changes": [change], "region": "north"}
    told = read_message(json.dumps(presence), FromController)
    assert isinstance(told, PresenceUpdate) and told.changes[0].online
    mine = netmap(1)
    envelope = json.loads(signed(mine, snapshot=mine.snapshot())) | {"priority": 1}
    envelope["snapshot"]["hint"] = "x"
    envelope["signature"]["algorithm"] = "y"
    text = json.dumps(envelope, separators=(",", ":")).encode()
    assert received(text, None) == mine


@given(
    st.dictionaries(st.integers(1, 30), st.sampled_from(["a", "b", "c"])),
    st.lists(
        st.tuples(
            st.none() | st.sampled_from(["office", "bureau"]),
            st.dictionaries(st.integers(1, 30), st.sampled_from(["a", "b", "c"]), max_size=6),
            st.sets(st.integers(1, 30), max_size=6),
        ),
        max_size=8,
    ),
)
def test_deltas_lead_where_the_snapshot_leads(
    first: dict[int, str], steps: list[tuple[str | None, dict[int, str], set[int]]]
) -> None:
    """Whatever is changed: by one delta each, by one over all, or whole, the map and its digest are the same."""

    def entry(number: int, name: str) -> Encoded[Member]:
        return Encoded.read(msgspec.Raw(newer(member(number, name), invented=name)), Member)

    start = theirs = netmap(serial=1).changed(serial=2, upsert=[entry(n, name) for n, name in first.items()])
    ours = received(signed(start, snapshot=start.snapshot()), None)
    expected = dict(first)
    for wanted_head, upsert, remove in steps:
        before = theirs
        theirs = theirs.changed(
            serial=theirs.serial + 1,
            head=None if wanted_head is None else Encoded.of(head(wanted_head)),
            upsert=[entry(n, name) for n, name in upsert.items()],
            remove=[client(n) for n in remove],
        )
        expected = {n: name for n, name in expected.items() if n not in remove} | upsert
        old, ours = ours, received(signed(theirs, delta=MapDelta.between(before, theirs)), ours)
        assert ours == theirs
        assert ours.members == tuple(member(n, name) for n, name in sorted(expected.items()))
        compared = NetworkMap.read(ours.snapshot()).changes_since(old)
        assert ours.changes_since(old) == compared, "what is known of the delta is what a comparison finds"
    whole = NetworkMap.read(theirs.snapshot())
    assert whole == ours and whole.snapshot() == ours.snapshot()
    assert all(ours.member(client(n)) == member(n, name) for n, name in expected.items())
    assert MapDelta.between(start, whole).apply(start) == ours


def test_a_delta_fits_the_map_that_it_is_from_only() -> None:
    old, new = netmap(1, serial=1), netmap(1, 2, serial=2)
    delta = MapDelta.between(old, new)
    assert delta.head == UNCHANGED and len(delta.upsert) == 1
    for other in (netmap(1, serial=3), netmap(1, serial=1, generation=2), netmap(2, serial=1)):
        with pytest.raises(MalformedError):
            delta.apply(other)


def test_a_map_that_contradicts_itself_is_malformed() -> None:
    twice = NetworkMap(generation=1, serial=1, head=head(), members=[member(1)]).snapshot()
    twice = msgspec.structs.replace(twice, members=twice.members * 2)
    with pytest.raises(MalformedError, match="twice"):
        NetworkMap.read(twice)
    elsewhere = NetworkMap(
        generation=1, serial=2, head=msgspec.structs.replace(head(), network_id=NetworkID(b"\1" * 32))
    )
    with pytest.raises(MalformedError, match="another network"):
        received(signed(elsewhere, snapshot=elsewhere.snapshot()), None)
    with pytest.raises(MalformedError, match="another network"):
        received(signed(elsewhere, delta=MapDelta.between(netmap(serial=1), elsewhere)), netmap(serial=1))
    for bad in (b"null", b"[]", b'{"client_id":7}', b'{"name":"\xff"}'):
        with pytest.raises(MalformedError):
            NetworkMap.read(msgspec.structs.replace(twice, members=(msgspec.Raw(bad),)))
