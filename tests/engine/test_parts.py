"""The engine's small parts: timers, epochs, counters."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field
from math import inf

import pytest
from msgspec.structs import replace

from shadowmesh.dataplane.counters import CounterTable
from shadowmesh.engine.counterreader import CounterReader
from shadowmesh.engine.networkkeys import NetworkKeys
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.relayset import RelaySet
from shadowmesh.engine.route import PeerRoute
from shadowmesh.engine.surroundings import Surroundings, Timestamps, stream_key
from shadowmesh.engine.timers import AGAIN, Timed, Timers
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import NetworkRef, RelayID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import EpochInfo, MapHead, NetworkMap, RelayInfo
from shadowmesh.model.pump import COUNTER_FIELDS, Path, PeerIndex, SetPath, Slot
from shadowmesh.paths.candidates import HostView
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import Policy
from shadowmesh.protocol.primitives import REAL
from shadowmesh.protocol.signing import Signer


@dataclass(eq=False)
class Item:
    at: float
    every: float = inf
    queued_at: float = inf
    ran: list[float] = field(default_factory=list)

    def deadline(self) -> float:
        return self.at

    def on_timer(self, now: Now) -> None:
        self.ran.append(now.boot)
        self.at = now.boot + self.every


def never(item: Timed, error: Exception) -> None:
    raise error


def test_items_run_when_due_and_only_then() -> None:
    timers = Timers()
    once, often = Item(5.0), Item(1.0, every=2.0)
    timers.schedule(once)
    timers.schedule(often)
    while (at := timers.next_deadline()) < 8.0:
        timers.run(Now(at, 0.0), never)
    assert once.ran == [5.0]
    assert often.ran == [1.0, 3.0, 5.0, 7.0]
    assert once.queued_at == inf


def test_a_deadline_moved_back_costs_no_turn_and_moved_forward_is_kept() -> None:
    timers = Timers()
    item = Item(5.0)
    timers.schedule(item)
    item.at = 50.0
    timers.schedule(item)
    assert timers.next_deadline() == 50.0
    item.at = 2.0
    timers.schedule(item)
    assert timers.next_deadline() == 2.0
    timers.run(Now(10.0, 0.0), never)
    assert item.ran == [10.0]


def test_an_item_that_claims_to_be_due_for_ever_stops_nobody() -> None:
    timers = Timers()
    item = Item(1.0, every=-5.0)
    timers.schedule(item)
    timers.run(Now(10.0, 0.0), never)
    assert item.ran == [10.0]
    assert timers.next_deadline() > 10.0


@dataclass(eq=False)
class Faulty(Item):
    """Raises at its turn, or where it is asked for its deadline, as long as it is so."""

    well: bool = False
    undecided: bool = False

    def deadline(self) -> float:
        if self.undecided and not self.well:
            raise ZeroDivisionError
        return self.at

    def on_timer(self, now: Now) -> None:
        super().on_timer(now)
        if not self.well:
            self.at = now.boot
            raise ZeroDivisionError


@pytest.mark.parametrize("undecided", [False, True])
def test_an_item_that_raises_keeps_nobody_from_their_turn_and_is_tried_again(undecided: bool) -> None:
    timers, failures = Timers(), list[object]()
    bad, good = Faulty(1.0), Item(1.0, every=1.0)
    for item in (bad, good):
        timers.schedule(item)
    bad.undecided = undecided

    def turn(at: float) -> None:
        timers.run(Now(at, 0.0), lambda item, error: failures.append((item, type(error))))

    turn(1.0)
    assert failures == [(bad, ZeroDivisionError)] and good.ran == [1.0]
    turn(1.0 + AGAIN / 2)
    assert len(failures) == 1, "not at once"
    turn(1.0 + AGAIN)
    assert len(failures) == 2 and good.ran == [1.0, 1.0 + AGAIN]
    bad.well = True
    turn(1.0 + 2 * AGAIN)
    assert len(failures) == 2 and bad.ran[-1] == 1.0 + 2 * AGAIN
    assert timers.pending() == [good]


NETWORK_KEY = Secret(b"k" * 32)
OWN, PEER = WireGuardPublicKey(b"a" * 32), WireGuardPublicKey(b"b" * 32)


def network_keys(epochs: list[EpochInfo], held: list[int]) -> NetworkKeys:
    ring = NetworkKeys(NetworkID.of(NETWORK_KEY), OWN)
    head = MapHead(
        network_id=NetworkID.of(NETWORK_KEY),
        network_ref=NetworkRef("net_x"),
        name="x",
        subnet=ipaddress.IPv4Network("10.0.0.0/24"),
        epochs=tuple(epochs),
    )
    ring.apply_map(NetworkMap(generation=1, serial=1, head=head))
    ring.put({e: Secret(bytes([e]) * 32) for e in held})
    return ring


EPOCHS = [
    EpochInfo(epoch=1, current_from=0.0, ends=1000.0),
    EpochInfo(epoch=2, current_from=100.0),
    EpochInfo(epoch=3, current_from=500.0),
]


def test_a_new_epoch_is_held_first_and_current_later() -> None:
    ring = network_keys(EPOCHS, [1, 2, 3])
    assert ring.current(400.0) == 2
    assert ring.newest(400.0) == 3
    assert ring.current(600.0) == 3
    assert ring.valid(2000.0) == [3, 2]


def test_the_responder_uses_the_newest_that_the_initiator_is_known_to_hold() -> None:
    ring = network_keys(EPOCHS, [1, 2, 3])
    assert ring.choose(3, (), 400.0) == 3
    assert ring.choose(1, (), 400.0) == 1
    assert ring.choose(None, (), 400.0) == 2
    assert ring.choose(9, (), 400.0) == 2


def test_a_second_try_gets_another_epoch_until_all_were_tried() -> None:
    ring = network_keys(EPOCHS, [1, 2, 3])
    tried: tuple[int, ...] = ()
    order = []
    for _ in range(5):
        epoch = ring.choose(2, tried, 400.0)
        assert epoch is not None
        order.append(epoch)
        tried = (*(e for e in tried if e != epoch), epoch)
    assert order == [2, 3, 1, 2, 3]


def test_without_a_common_epoch_there_is_none() -> None:
    assert network_keys(EPOCHS, []).choose(2, (), 0.0) is None
    assert network_keys(EPOCHS, [1]).valid(2000.0) == []


def test_psks_of_two_epochs_differ_and_are_alike_on_both_sides() -> None:
    ring = network_keys(EPOCHS, [1, 2])
    assert ring.psk(PEER, 1) != ring.psk(PEER, 2)
    with pytest.raises(KeyError):
        ring.psk(PEER, 3)


def test_records_are_found_wherever_the_pump_put_them() -> None:
    table = memoryview(bytearray(8 * len(COUNTER_FIELDS) * 64)).cast("Q")
    written = CounterTable(table)
    reader = CounterReader(table.toreadonly())
    assert reader.times(PeerIndex(5)) is None
    for peer in (3, 9, 5):
        _, record = written.allocate(peer)
        record[COUNTER_FIELDS.index("last_rx_data_ns")] = peer * 10
        record[COUNTER_FIELDS.index("rx_bytes_relay")] = peer
    times = reader.times(PeerIndex(5))
    assert times is not None
    assert times.rx_data == 50
    assert reader.traffic(PeerIndex(9)).rx == 9
    written.release(2)
    assert reader.times(PeerIndex(9)) is None
    _, again = written.allocate(12)
    again[COUNTER_FIELDS.index("last_tx_data_ns")] = 7
    found = reader.times(PeerIndex(12))
    assert found is not None
    assert found.tx_data == 7


def test_a_stream_is_its_relays_whatever_id_another_controller_gives_to_one_of_its_own() -> None:
    ours, theirs = (
        RelayInfo(relay_id=RelayID("rly_1"), name="relay", key=Signer.generate().public, url=f"ws://192.0.2.{n}:9545")
        for n in (1, 2)
    )
    around = Surroundings(random.Random(1), REAL, Signer.generate(), Timestamps(0.0), {})
    around.streams[stream_key(theirs)] = Slot(16)
    assert around.stream_path(ours) is None, "nothing of ours goes there"
    around.streams[stream_key(ours)] = Slot(17)
    assert (around.stream_path(ours), around.stream_path(theirs)) == (Path(Slot(17)), Path(Slot(16)))
    claims_our_place = replace(theirs, url=ours.url)
    assert around.stream_path(claims_our_place) is None, "and what they find silent isn't closed for us"


@pytest.mark.parametrize("relayed", [True, False])
def test_a_way_that_a_handshake_opened_ends_when_the_policy_forbids_it(relayed: bool) -> None:
    outbox, path = Outbox(), PeerPath(random.Random(1), HostView(), ())
    network, ip = NetworkID.of(NETWORK_KEY), ipaddress.IPv4Address("10.0.0.2")
    surroundings = Surroundings(random.Random(1), REAL, Signer.generate(), Timestamps(0.0), {})
    relays = RelaySet(network, surroundings, outbox, None, None)  # type: ignore[arg-type]
    route = PeerRoute(PeerIndex(1), ip, path, relays, outbox)
    way = Path(Slot(0), SockAddr("198.51.100.7", 7), None, bytes(44) if relayed else b"")
    route.last_known = (way,)
    route.open_on(way)
    assert route.open and route.handshake_paths(Now(0.0, 0.0)) == [way]
    path.set_policy(Policy(p2p=relayed, relay_fallback=not relayed), 0.0)
    route.policy_changed()
    assert not route.open and route.last_known == ()
    assert outbox.take_commands()[-1] == SetPath(PeerIndex(1), None)
