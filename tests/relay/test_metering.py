"""What a relay counts for whom, and that the controller gets each byte once, whoever is killed when."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_world import NET_A, Client, World, udp

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.ids import ClientID
from shadowmesh.model.relaylink import USAGE_ENTRIES, Usage
from shadowmesh.relay.store import RelayStore
from shadowmesh.relay.trafficmeter import INNER_OVERHEAD
from shadowmesh.relay.usageledger import LedgerState, UsageLedger

INNER = 1000
PACKET = bytes(INNER)  # after the header and MAC of a message that every frame here has
A, B = ClientID("cli_a"), ClientID("cli_b")


def pair(world: World) -> tuple[Client, Client]:
    a = world.client(NET_A, "10.0.0.1", udp(1), client_id=A).login()
    return a, world.client(NET_A, "10.0.0.2", udp(2), client_id=B).login()


def test_each_side_is_counted_in_inner_bytes(world: World) -> None:
    a, b = pair(world)
    for _ in range(3):
        a.send(a.frame(b) + PACKET)
    b.send(b.frame(a) + PACKET)
    assert world.core.take_usage() == {A: (3 * INNER, INNER), B: (INNER, 3 * INNER)}
    assert world.core.take_usage() == {}
    a.send(a.frame(b) + PACKET)
    assert world.core.take_usage() == {A: (INNER, 0), B: (0, INNER)}
    assert INNER_OVERHEAD == 76


def test_what_a_session_used_before_it_ended_or_came_back_is_counted_once(world: World) -> None:
    a, b = pair(world)
    a.send(a.frame(b) + PACKET)
    world.sleep(5.0)
    a.login()  # from where it was, with counts that go on
    a.send(a.frame(b) + PACKET)
    world.sleep(5.0)
    world.core.gone(a.at)
    a.login()
    a.send(a.frame(b) + PACKET)
    assert world.core.take_usage() == {A: (3 * INNER, 0), B: (0, 3 * INNER)}


class Controller:
    """Takes each number of a ledger once, in one transaction with the sums."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.sums: dict[ClientID, int] = {}

    def take(self, message: Usage) -> None:
        message = from_json(to_json(message), Usage)
        if message.number > self.last.get(message.ledger, 0):
            self.last[message.ledger] = message.number
            for entry in message.entries:
                self.sums[entry.client_id] = self.sums.get(entry.client_id, 0) + entry.sent


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # by a busy machine
@given(st.lists(st.sampled_from(["use", "collect", "lost", "taken", "unheard", "kill"]), max_size=60), st.integers())
def test_nothing_counts_twice_and_a_kill_loses_what_was_counted_since_the_last_look_alone(
    steps: list[str], seed: int
) -> None:
    chance, controller = random.Random(seed), Controller()
    ledger, disk = UsageLedger(), b""
    used = lost = fresh = 0
    for step in steps:
        if step == "use":
            fresh += chance.randrange(1, 1000)
        elif step == "kill":
            lost, fresh = lost + fresh, 0
            ledger = UsageLedger(from_json(disk, LedgerState) if disk else None)
        else:
            used, fresh, before = used + fresh, 0, fresh
            ledger.add({ClientID("cli_a"): (before, 0)} if before else {})
            message = None if step == "collect" else ledger.cut(1.0)
            disk = to_json(ledger.state)
            if message is not None and step != "lost":
                controller.take(message)
                if step == "taken":
                    ledger.taken(message.ledger, message.number)
    while (message := ledger.cut(2.0)) is not None:
        controller.take(message)
        ledger.taken(message.ledger, message.number)
    assert controller.sums.get(ClientID("cli_a"), 0) == used


def test_many_clients_are_told_in_several_messages() -> None:
    ledger = UsageLedger()
    ledger.add({ClientID(f"cli_{n}"): (1, 2) for n in range(USAGE_ENTRIES + 3)})
    first = ledger.cut(1.0)
    assert first is not None and len(first.entries) == USAGE_ENTRIES and ledger.cut(9.0) is first
    assert not ledger.taken(first.ledger, first.number + 1) and ledger.taken(first.ledger, first.number)
    second = ledger.cut(2.0)
    assert second is not None and len(second.entries) == 3 and second.number == 2


def test_a_file_that_cant_be_read_keeps_no_relay_from_serving(tmp_path: Path) -> None:
    with RelayStore(tmp_path / "relay") as store:
        assert store.usage() is None
        state = UsageLedger().state
        store.save_usage(state)
        assert store.usage() == state
        (tmp_path / "relay" / "usage.json").write_bytes(b"{")
        assert store.usage() is None
