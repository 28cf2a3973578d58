"""When a controller is told of this device's connections, and what: in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from shadowmesh.daemon.healthreports import BEAT, EVERY, GATHER, NetworkReports, View
from shadowmesh.engine import PathChanged
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Health
from shadowmesh.model.ids import ClientID, new_id
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import NatStatus, PeerStatus

NETWORK = NetworkID(bytes(32))
STEP = 0.5


@dataclass
class Device:
    """A device whose reports are asked for as the daemon asks, and what its controller has got."""

    bytes_too: bool = False
    linked: bool = True
    now: float = 1000.0
    nat: NatStatus = field(default_factory=lambda: NatStatus(type="port_restricted"))
    peers: dict[str, PeerStatus] = field(default_factory=dict)
    got: list[tuple[float, Health]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reports = NetworkReports(NETWORK)
        self.reports.connected(self.now, 0.0)

    def peer(self, name: str, reason: Reason, *, relay: str | None = None, **more: object) -> None:
        """The engine's word: how a peer is reached from now on."""
        path = reason.value.partition(".")[0]
        old = self.peers.get(name) or PeerStatus(name=name, client_id=name, ip="10.0.0.1")
        self.peers[name] = msgspec.structs.replace(old, reason=reason.value, path=path, relay=relay, **more)
        if old.reason != reason.value:
            event = PathChanged(self.now, NETWORK, ClientID(name), name, path, reason, None, relay)  # type: ignore[arg-type]
            self.reports.changed(event)

    def run(self, seconds: float) -> list[Health]:
        """What is told in this time."""
        before, end = len(self.got), self.now + seconds
        while self.now < end:
            self.now += STEP
            if self.reports.due() <= self.now and self.linked:
                view = View(self.nat, ("udp",), list(self.peers.values()), self.bytes_too)
                health = self.reports.make(view, self.now)
                if health is not None:
                    self.got.append((self.now, from_json(to_json(health), Health)))
                    self.reports.sent(health, self.now)
        return [health for _, health in self.got[before:]]


def test_what_changes_within_a_moment_is_one_message_soon() -> None:
    device = Device()
    device.run(60.0)
    began = device.now
    device.peer("cli_b", Reason.RELAY_UPGRADING, relay="relay1", latency_ms=40.04)
    device.run(1.0)
    device.peer("cli_b", Reason.DIRECT_PUNCHED, latency_ms=12.34)
    (health,) = device.run(EVERY - 1.5)
    assert device.got[-1][0] - began <= GATHER + STEP
    (peer,) = health.peers
    assert (peer.peer, peer.reason, peer.now) == ("cli_b", "none.idle", "direct.punched")
    assert [(c.ago, c.reason) for c in peer.changes] == [(2, "relay.upgrading"), (1, "direct.punched")]
    assert (peer.latency_ms, peer.relay) == (12.3, "")
    assert (health.direct, health.relayed, health.latency_ms, health.nat) == (1, 0, 12.3, "port_restricted")


def test_however_much_happens_there_is_one_message_each_30_seconds_and_nothing_is_left_out() -> None:
    device = Device()
    wanted = []
    for turn in range(600):
        reason = (Reason.DIRECT_PUNCHED, Reason.RELAY_PATH_LOST, Reason.DIRECT_LAN)[turn % 3]
        device.peer("cli_b", reason, relay="r" if reason is Reason.RELAY_PATH_LOST else None)
        wanted.append(reason.value)
        device.run(6.0)
    device.run(EVERY)
    times = [at for at, _ in device.got]
    assert all(later - earlier >= EVERY for earlier, later in pairwise(times))
    assert 115 <= len(times) <= 125
    told = [change.reason for _, health in device.got for peer in health.peers for change in peer.changes]
    assert told == wanted


def test_of_a_peer_that_changes_without_end_the_newest_changes_are_told() -> None:
    device = Device()
    device.run(10.0)
    for turn in range(50):
        device.peer("cli_b", Reason.DIRECT_LAN if turn % 2 else Reason.RELAY_PATH_LOST, relay="r")
        device.run(STEP)
    (peer,) = device.run(EVERY)[-1].peers
    assert len(peer.changes) <= 8 and peer.now == "direct.lan"


def test_fifty_restless_peers_cost_less_than_200_bytes_a_second_and_all_is_told_in_the_end() -> None:
    device = Device(bytes_too=True)
    names = [new_id("cli") for _ in range(50)]
    reasons = (Reason.RELAY_SYMMETRIC_PORT_RESTRICTED, Reason.DIRECT_MAPPED_PORT)
    for turn in range(40):
        for count, name in enumerate(names):
            relay = "a-relay-with-a-long-name" if turn % 2 == 0 else None
            traffic = {"rx_bytes": turn * 10**9, "tx_bytes": turn * 10**8}
            device.peer(name, reasons[turn % 2], relay=relay, latency_ms=1000.1 + turn * count, **traffic)
        device.run(15.0)
    seconds = 40 * 15.0
    sent = sum(len(to_json(health)) for _, health in device.got)
    assert sent / seconds <= 200.0
    device.run(10 * EVERY)
    now = {peer.peer: peer.now for _, health in device.got for peer in health.peers}
    assert now == dict.fromkeys(names, "direct.mapped_port")
    counted = sum(peer.rx_bytes for _, health in device.got for peer in health.peers)
    assert counted == 50 * 39 * 10**9


def test_fifty_peers_at_rest_cost_next_to_nothing() -> None:
    device = Device()
    for name in (names := [new_id("cli") for _ in range(50)]):
        device.peer(name, Reason.DIRECT_PUNCHED, latency_ms=20.0)
    device.run(2 * EVERY)
    for turn in range(120):
        for name in names:  # latencies move a little, always
            device.peer(name, Reason.DIRECT_PUNCHED, latency_ms=20.0 + turn % 4)
        device.run(30.0)
    later = [health for at, health in device.got if at > 1000.0 + 3 * EVERY]
    assert not [health for health in later if health.peers]
    assert 11 <= len(later) <= 13, f"a beat each {BEAT} s"
    assert sum(len(to_json(health)) for health in later) / 3600 < 2.0


def test_a_latency_that_is_another_one_and_another_nat_are_told() -> None:
    device = Device()
    device.peer("cli_b", Reason.DIRECT_PUNCHED, latency_ms=20.0)
    device.run(EVERY)
    device.peer("cli_b", Reason.DIRECT_PUNCHED, latency_ms=80.0)
    (health,) = device.run(EVERY)
    assert [(p.latency_ms, p.changes) for p in health.peers] == [(80.0, ())] and health.latency_ms == 80.0
    device.nat = NatStatus(type="symmetric")
    (health,) = device.run(EVERY)
    assert (health.nat, health.peers) == ("symmetric", ())


def test_a_new_connection_is_told_everything_and_what_happened_meanwhile_once() -> None:
    device = Device()
    device.peer("cli_b", Reason.DIRECT_PUNCHED)
    device.peer("cli_c", Reason.RELAY_NO_ANSWER, relay="r")
    (first,) = device.run(EVERY)
    assert first.whole and len(first.peers) == 2
    device.linked = False
    device.run(100.0)
    device.peer("cli_b", Reason.RELAY_PATH_LOST, relay="r")
    device.run(500.0)
    device.reports.connected(device.now, 7.0)
    device.linked = True
    back = device.now
    (again,) = device.run(EVERY)
    assert again.whole and device.got[-1][0] - back >= 7.0
    assert {(p.peer, p.reason, p.now) for p in again.peers} == {
        ("cli_b", "direct.punched", "relay.path_lost"), ("cli_c", "relay.no_answer", "relay.no_answer"),
    }  # fmt: skip
    assert not any(p.changes for health in device.run(300.0) for p in health.peers)


def test_a_peer_out_of_use_is_told_once_and_one_that_was_never_reached_not_at_all() -> None:
    device = Device()
    device.peer("cli_b", Reason.DIRECT_PUNCHED, latency_ms=5.0)
    device.peer("cli_c", Reason.NONE_CONNECTING)
    device.peer("cli_c", Reason.NONE_NO_ANSWER)
    (first,) = device.run(EVERY)
    assert [p.peer for p in first.peers] == ["cli_b"]
    device.peer("cli_b", Reason.RELAY_IDLE, relay="r")
    (health,) = device.run(EVERY)
    assert [(p.now, p.latency_ms, p.relay) for p in health.peers] == [("relay.idle", None, "")]
    assert (health.direct, health.relayed, health.latency_ms) == (0, 0, None)
    assert not [h for h in device.run(200.0) if h.peers]


def test_of_a_member_that_is_gone_and_of_a_network_that_is_down_nothing_stays() -> None:
    device = Device()
    device.peer("cli_b", Reason.DIRECT_PUNCHED)
    device.peer("cli_c", Reason.DIRECT_LAN)
    device.run(EVERY)
    del device.peers["cli_b"]
    (health,) = device.run(EVERY)
    assert health.whole and [p.peer for p in health.peers] == ["cli_c"]
    device.peers.clear()
    (health,) = device.run(EVERY)
    assert health.whole and not health.peers and health.direct == 0


def test_bytes_are_told_only_where_they_are_wanted_and_from_then_on() -> None:
    device = Device()
    device.peer("cli_b", Reason.DIRECT_PUNCHED, rx_bytes=100)
    device.run(EVERY)
    device.peer("cli_b", Reason.DIRECT_PUNCHED, rx_bytes=5000)
    assert not any(p.rx_bytes for health in device.run(100.0) for p in health.peers)
    device.bytes_too = True
    device.peer("cli_b", Reason.DIRECT_PUNCHED, rx_bytes=5700, tx_bytes=3)
    (health,) = device.run(EVERY)
    assert [(p.rx_bytes, p.tx_bytes) for p in health.peers] == [(700, 3)]
    device.peer("cli_b", Reason.DIRECT_PUNCHED, rx_bytes=50, tx_bytes=0)  # of a pump that was started anew
    (health,) = device.run(EVERY)
    assert [(p.rx_bytes, p.tx_bytes) for p in health.peers] == [(50, 0)]
