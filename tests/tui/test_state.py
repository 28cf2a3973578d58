"""What the screens show is computed without a screen: rates, history, order, filter, choices."""

from __future__ import annotations

import msgspec
import pytest
import tui_scenarios as scenarios

from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PeerStatus
from shadowmesh_tui.history import HISTORY_SAMPLES, PeerHistory
from shadowmesh_tui.notices import banner, instead_of_peers, no_match
from shadowmesh_tui.state import Counts, Mesh, Order, PeerKey, SortBy, age, matches


def at(seconds: float) -> Now:
    return Now(1000.0 + seconds, scenarios.START + seconds)


def nas(rx: int, tx: int = 0, latency: float | None = 1.0) -> PeerStatus:
    return PeerStatus(
        name="nas",
        client_id="c",
        ip="10.0.0.2",
        path="direct",
        reason="direct.lan",
        rx_bytes=rx,
        tx_bytes=tx,
        latency_ms=latency,
    )


def office_mesh(step: int = 0) -> Mesh:
    mesh = Mesh()
    mesh.observe(scenarios.status(scenarios.network(scenarios.office_peers(step))), at(step))
    return mesh


# rates


def test_a_rate_is_unknown_until_the_second_look() -> None:
    history = PeerHistory()
    history.observe(nas(5000), 10.0)
    assert history.rx_rate is None
    history.observe(nas(7000), 11.0)
    assert history.rx_rate == 2000


def test_rates_look_back_three_seconds_however_often_the_daemon_speaks() -> None:
    history = PeerHistory()
    for tenth in range(101):
        history.observe(nas(tenth * 100 if tenth <= 50 else 5000), tenth / 10)
    assert history.rx_rate == 0  # nothing came in the last 5 s
    history.observe(nas(5000 + 3000), 10.1)
    assert history.rx_rate == pytest.approx(3000 / 3.1, rel=0.05)


def test_counters_that_start_again_make_no_negative_rate() -> None:
    history = PeerHistory()
    history.observe(nas(10_000), 1.0)
    history.observe(nas(20), 2.0)
    assert history.rx_rate is None
    history.observe(nas(1020), 3.0)
    assert history.rx_rate == 1000


def test_two_statuses_at_one_moment_divide_by_nothing() -> None:
    history = PeerHistory()
    history.observe(nas(1), 1.0)
    history.observe(nas(2), 1.0)
    assert history.rx_rate is None


def test_history_keeps_one_sample_per_second_and_shows_silence_as_a_gap() -> None:
    history = PeerHistory()
    for second, latency in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0), (1.97, 4.0), (5.0, 5.0)):
        history.observe(nas(0, latency=latency), second)
    assert list(history.latency) == [2.0, 3.0, 4.0, None, None, 5.0]


def test_history_is_bounded_and_survives_a_long_silence() -> None:
    history = PeerHistory()
    for second in (*range(100), 100_000):
        history.observe(nas(second), float(second))
    assert len(history.latency) == HISTORY_SAMPLES
    assert list(history.latency) == [None] * (HISTORY_SAMPLES - 1) + [1.0]


# order and filter


def names(mesh: Mesh) -> list[str]:
    return [row.peer.name for row in mesh.rows()]


def test_order_by_each_column_puts_the_unknown_last_both_ways() -> None:
    mesh = office_mesh()
    mesh.order = Order(SortBy.LATENCY)
    assert names(mesh) == ["nas", "build-1", "laptop-anna", "edge-rome", "phone-ben", "printer"]
    mesh.order = Order(SortBy.LATENCY, descending=True)
    assert names(mesh) == ["phone-ben", "edge-rome", "laptop-anna", "build-1", "nas", "printer"]


def test_addresses_are_ordered_as_numbers() -> None:
    mesh = Mesh()
    mesh.observe(scenarios.crowd(20, order=-1), at(0))
    mesh.order = Order(SortBy.ADDRESS)
    assert names(mesh) == [f"host-{n:03d}" for n in range(1, 21)]


def test_traffic_is_ordered_with_the_most_first_and_a_second_press_turns_it_round() -> None:
    order = Order().pressed(SortBy.RX)
    assert order == Order(SortBy.RX, descending=True)
    assert order.pressed(SortBy.RX) == Order(SortBy.RX, descending=False)


def test_stepping_through_the_columns_comes_round() -> None:
    order = Order()
    for _ in SortBy:
        order = order.next_column()
    assert order == Order()


@pytest.mark.parametrize(
    ("needle", "found"),
    [
        ("", 6),
        ("relay1", 2),
        ("direct 203.0.113", 1),
        ("OFFLINE", 1),
        ("both_symmetric", 1),
        ("10.66.0.3", 1),
        ("nowhere", 0),
    ],
)
def test_the_filter_wants_every_word_somewhere(needle: str, found: int) -> None:
    assert sum(matches(peer, needle) for peer in scenarios.office_peers(0)) == found


# choices


def test_the_chosen_peer_stays_chosen_in_its_network_and_is_dropped_when_it_leaves() -> None:
    mesh = office_mesh()
    key = mesh.rows()[2].key
    mesh.select(key)
    mesh.observe(scenarios.status(scenarios.network(tuple(reversed(scenarios.office_peers(1))))), at(1))
    assert mesh.selected == key
    without = tuple(p for p in scenarios.office_peers(2) if p.client_id != key.client_id)
    mesh.observe(scenarios.status(scenarios.network(without)), at(2))
    assert mesh.selected is None


def test_each_network_remembers_its_peer_and_a_lost_network_falls_back_to_the_first() -> None:
    mesh = Mesh()
    office, lab = scenarios.network(scenarios.office_peers(0)), scenarios.network(scenarios.office_peers(0), name="lab")
    mesh.observe(scenarios.status(office, lab), at(0))
    mesh.select(PeerKey(office.network_id, "cli_0002"))
    mesh.step_network(1)
    assert mesh.network == lab and mesh.selected is None
    mesh.step_network(1)
    assert mesh.selected == PeerKey(office.network_id, "cli_0002")
    mesh.choose_network(lab.network_id)
    mesh.observe(scenarios.status(office), at(1))
    assert mesh.network == office


def test_what_is_kept_of_a_peer_goes_with_it() -> None:
    mesh = office_mesh()
    key = PeerKey("id-of-office", "cli_0001")
    mesh.whys[key] = "because"
    mesh.observe(scenarios.status(), at(1))
    assert mesh.history(key) is None and not mesh.whys and mesh.row(key) is None


def test_handshake_age_uses_wall_time_and_never_goes_below_zero() -> None:
    assert age("2026-09-21T14:13:20Z", scenarios.START) == pytest.approx(0, abs=1)
    assert age("2999-01-01T00:00:00Z", 0.0) == 0
    assert age(None, 0.0) is None
    assert age("not a time", 0.0) is None


# what is said instead


def test_every_state_without_peers_has_its_sentence_and_a_way_on() -> None:
    mesh = Mesh()
    notice = instead_of_peers(mesh)
    assert notice and notice.title.startswith("Asking")
    mesh.lose("no daemon answers in /x", "start it with `shadowmesh daemon run`", at(0))
    notice = instead_of_peers(mesh)
    assert notice and notice.level == "error" and "shadowmesh daemon run" in notice.remedy
    mesh.observe(scenarios.status(), at(1))
    notice = instead_of_peers(mesh)
    assert notice and "shadowmesh join" in notice.remedy
    for state, word in (
        ("pending-approval", "client approve office cli_self"),
        ("down", "Press u"),
        ("error", "Press u"),
        ("removed", "shadowmesh leave office"),
        ("duplicate", "shadowmesh leave office"),
    ):
        mesh.observe(scenarios.status(scenarios.network((), state=state, error="no /dev/net/tun")), at(2))
        notice = instead_of_peers(mesh)
        assert notice and word in notice.remedy
    mesh.observe(scenarios.status(scenarios.network(())), at(3))
    notice = instead_of_peers(mesh)
    assert notice and "network invite office" in notice.remedy
    mesh = office_mesh()
    assert instead_of_peers(mesh) is None
    mesh.needle = "nowhere"
    assert no_match(mesh)


def test_who_was_never_spoken_to_is_counted_as_idle_and_not_as_out_of_reach() -> None:
    reasons = (Reason.NONE_IDLE, Reason.NONE_IDLE, Reason.NONE_NO_RELAY, Reason.DIRECT_LAN)
    assert Counts.of([scenarios.peer("x", n, reason) for n, reason in enumerate(reasons)]) == Counts(1, 0, 1, 2)


def test_the_banner_tells_the_worst_and_when_it_was_known() -> None:
    mesh = Mesh()
    mesh.observe(scenarios.status(scenarios.network(scenarios.office_peers(0), controller="offline")), at(0))
    notice = banner(mesh)
    assert notice and notice.level == "warning"
    mesh.lose("no daemon answers in /x", "start it", at(30))
    notice = banner(mesh)
    assert notice and notice.level == "error" and "14:13:20" in notice.title
    mesh.observe(scenarios.status(scenarios.network(scenarios.office_peers(0))), at(31))
    assert banner(mesh) is None
    silent = msgspec.structs.replace(scenarios.network(scenarios.office_peers(0)), controller_silent_s=17.2)
    mesh.observe(scenarios.status(silent), at(32))
    notice = banner(mesh)
    assert notice and "Nothing was heard of the controller for 17 s" in notice.title


def test_unknown_reasons_of_a_newer_daemon_are_shown_as_they_are() -> None:
    peer = msgspec.structs.replace(scenarios.peer("new", 1, Reason.DIRECT_LAN), reason="direct.by_pigeon")
    mesh = Mesh()
    mesh.observe(scenarios.status(scenarios.network((peer,))), at(0))
    assert mesh.rows()[0].peer.reason == "direct.by_pigeon"
