"""What is known of a controller and what events change of it; rows, health, forms, figures: all without a screen."""

from __future__ import annotations

import time
from typing import Any

import console_scenarios as scenarios
import pytest

from shadowmesh.model.api import Event, NetworkPatch, Permission
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.templates import BUILT_IN
from shadowmesh_tui.console import forms
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.console.follower import Pace, waits
from shadowmesh_tui.console.health import health
from shadowmesh_tui.console.kept import Kept, load, save
from shadowmesh_tui.console.notices import banner, instead_of_all
from shadowmesh_tui.console.rows import COLUMNS, client_rows
from shadowmesh_tui.console.safe import visible
from shadowmesh_tui.console.series import SAMPLES, Series
from shadowmesh_tui.console.state import Console, Wants
from shadowmesh_tui.console.table import Order, fitting, heading


def event(kind: str, client: str | None = None, network: str | None = "net_0001", **data: Any) -> Event:
    return Event(seq=99, at=scenarios.NOW, type=kind, network_id=network, client_id=client, data=data)


# events


def test_who_comes_and_goes_is_counted_without_asking() -> None:
    console = scenarios.office()
    assert console.network is not None and console.network.clients_online == 5
    assert not console.apply(event("client_online", "cli_0006"))
    assert console.network.clients_online == 6
    assert not console.apply(event("client_offline", "cli_0001"))
    gone = console.client("net_0001", "cli_0001")
    assert console.network.clients_online == 5 and gone is not None and gone.connection_type is None


def test_a_network_whose_clients_are_not_known_is_asked_for() -> None:
    console = scenarios.office()
    assert console.apply(event("client_online", "cli_9", "net_0003")) == Wants(networks={"net_0003"})


def test_who_is_removed_goes_from_all_lists_and_loses_its_mark() -> None:
    console = scenarios.office()
    console.marked = {"cli_0007", "cli_0001"}
    assert console.apply(event("client_removed", "cli_0007")) == Wants(networks={"net_0001"})
    assert console.client("net_0001", "cli_0007") is None and console.marked == {"cli_0001"}
    assert "cli_0007" not in console.series and console.badge == 2


@pytest.mark.parametrize(
    ("happened", "wants"),
    [
        (event("client_pending", "cli_77"), Wants(networks={"net_0001"}, clients={("net_0001", "cli_77")})),
        (event("connection_upgrade", "cli_0003"), Wants(clients={("net_0001", "cli_0003")})),
        (event("connection_upgrade", "cli_0003", "net_0003"), Wants()),  # nobody looks at it
        (event("network_changed", change="set"), Wants(networks={"net_0001"})),
        (
            event("network_changed", "cli_0003", change="client_set"),
            Wants(networks={"net_0001"}, clients={("net_0001", "cli_0003")}),
        ),
        (event("relay_changed", network=None), Wants(relays=True)),
        (event("of a newer version", "cli_0003"), Wants()),
    ],
)
def test_what_an_event_does_not_tell_is_asked_for(happened: Event, wants: Wants) -> None:
    assert scenarios.office().apply(happened) == wants


def test_a_deleted_network_is_gone_and_another_is_chosen() -> None:
    console = scenarios.office()
    console.apply(event("network_changed", change="deleted"))
    assert "net_0001" not in console.networks and console.network is not None
    assert console.network.name == "acme-dev"


def test_a_let_in_client_waits_no_more() -> None:
    console = scenarios.office()
    assert [c.client_id for c in console.approvals()] == ["cli_0022", "cli_0021", "cli_0007"]  # the longest first
    let_in = scenarios.client(21, "laptop-anna", "net_0002", "acme-dev")
    console.take_client(let_in, 300.0)
    assert [c.client_id for c in console.approvals()] == ["cli_0022", "cli_0007"] and console.badge == 2


def test_events_of_before_stand_before_those_that_came_meanwhile() -> None:
    console = Console()
    console.events.append(event("client_online", "cli_1"))
    console.remember([event("client_online", "cli_0").model_copy(update={"seq": 5}), event("client_online", "cli_1")])
    assert [e.seq for e in console.events] == [5, 99]


# what they may


def test_a_guest_is_told_of_nobody_who_waits() -> None:
    console = scenarios.office([Permission.NETWORK_VIEW])
    assert console.approvals() == [] and console.badge == 0
    assert not console.may_create and not console.may_anywhere(Permission.NETWORK_INVITE)


def test_who_brings_machines_in_takes_out_their_own() -> None:
    console = scenarios.office([Permission.NETWORK_VIEW, Permission.CLIENT_REGISTER])
    mine = scenarios.client(1, "mine", owner="usr_anna")
    assert console.may_remove(mine) and not console.may_remove(mine.model_copy(update={"owner": "usr_other"}))


# a lost connection


def test_a_failure_is_told_with_how_old_it_makes_what_is_shown() -> None:
    console = scenarios.office()
    away = ShadowMeshError("controller_unreachable", "it can't be reached", "look there", kind=Kind.UNREACHABLE)
    console.lose(away, 250.0, 260.0)
    console.lose(away, 260.0, 290.0)
    assert console.failure is not None and console.failure.since == 250.0
    notice = banner(console, 261.0)
    assert notice is not None and (notice.title, notice.remedy) == (
        "It can't be reached. Shown is what was known 4m ago.", "Next try in 29s.",
    )  # fmt: skip
    console.heard(300.0)
    assert banner(console, 301.0) is None


def test_a_sign_in_that_ran_out_says_which_key_helps() -> None:
    console = Console()
    console.lose(ShadowMeshError("not_signed_in", "this sign-in has run out", "sign in"), 0.0, 1.0)
    notice = instead_of_all(console, 0.0)
    assert notice is not None and "Press L to sign in" in notice.remedy


def test_waits_grow_to_an_end_and_differ() -> None:
    pace = Pace()
    assert [waits(n, pace, 1.0) for n in (1, 2, 3, 6, 7, 1000)] == [1.0, 2.0, 4.0, 30.0, 30.0, 30.0]
    assert waits(4, pace, 0.0) == 4.0 and waits(4, pace, 0.5) == 6.0


# rows


def names(order: Order, needle: str = "") -> list[str]:
    console = scenarios.office()
    clients = list(console.clients["net_0001"].values())
    return [r.client.name for r in client_rows(clients, console.series, set(), needle, order)]


def test_the_most_traffic_comes_first_and_unknown_figures_last() -> None:
    by_tx = next(c for c in COLUMNS if c.key == "tx")
    order = Order().pressed(by_tx)
    assert order.descending and names(order)[:2] == ["vpn-gw", "server-1"]
    assert names(order)[-2:] == ["fresh", "printer"] == names(order.pressed(by_tx))[-2:]


def test_addresses_stand_in_the_order_of_numbers() -> None:
    assert names(Order("address"))[:3] == ["server-1", "server-2", "laptop-3"]


@pytest.mark.parametrize(
    ("needle", "found"),
    [
        ("prod", ["server-1", "server-2"]),
        ("SERVER 100.1.3", ["server-2"]),
        ("symmetric", ["laptop-3"]),
        ("waits", ["fresh"]),
    ],
)
def test_each_word_has_to_be_there(needle: str, found: list[str]) -> None:
    assert names(Order(), needle) == found


def test_thousands_of_clients_are_cheap() -> None:
    console = scenarios.crowd(5000)
    clients = list(console.clients["net_0001"].values())
    began = time.process_time()
    for n in range(10):
        assert len(client_rows(clients, console.series, set(), "host", Order("tx", n % 2 == 0))) == 5000
    console.apply(event("client_offline", "cli_0042"))
    assert time.process_time() - began < 5.0  # a tenth of it each; the bound is for a busy machine


@pytest.mark.parametrize("width", [40, 60, 78, 118, 198, 400])
def test_columns_fit_and_each_cell_is_as_wide_as_its_column(width: int) -> None:
    from rich.cells import cell_len

    console = scenarios.office()
    rows = client_rows(list(console.clients["net_0001"].values()), console.series, set(), "", Order())
    fitted = fitting(COLUMNS, width, rows)
    assert {"name", "path", "latency"} <= {c.key for c, _ in fitted}
    if width >= 60:
        assert sum(w for _, w in fitted) + 2 * (len(fitted) - 1) <= width
    for column, cells in fitted:
        assert cell_len(heading(column, cells, Order())) == cells
        assert {cell_len(column.cell(row, cells)) for row in rows} == {cells}


def test_a_sample_each_five_seconds_and_a_gap_where_nothing_was_told() -> None:
    series, client = Series(), scenarios.client(1, "a", tx_rate=5.0)
    for now in (0.0, 2.0, 5.0, 20.0):
        series.observe(client, now)
    assert list(series.tx) == [5.0, 5.0, None, None, 5.0]
    series.observe(client, 1e6)
    assert len(series.tx) == SAMPLES and list(series.tx)[-2:] == [None, 5.0]


# how a network is


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"clients": 6, "clients_online": 5}, "healthy"),
        ({"clients": 6}, "nobody online"),
        ({}, "empty"),
        ({"clients": 100, "clients_online": 1}, "full"),
        ({"clients": 95, "clients_online": 1}, "nearly full"),
        ({"p2p_enabled": False, "relay_fallback": False}, "no way"),
        ({"relay": "eu-2"}, "relay away"),
        ({"relay": "eu-1", "clients": 1, "clients_online": 1}, "healthy"),
    ],
)
def test_the_worst_is_what_a_network_is_called(more: dict[str, Any], word: str) -> None:
    relays = scenarios.office().relays.values()
    assert health(scenarios.network(1, "n", **more), relays).word == word


# forms


def typed(**values: forms.Value) -> dict[str, forms.Value]:
    return forms.of_template(None, {}) | {"name": "new", "subnet": ""} | values


@pytest.mark.parametrize(
    ("values", "key", "words", "error"),
    [
        ({"name": ""}, "name", "a network has a name", True),
        ({"name": "ACME-dev"}, "name", "there is a network ACME-dev already", True),
        ({"name": "two words"}, "name", "1 to 63 letters", True),
        ({"subnet": "10.9.0.1/24"}, "subnet", "host bits are set: 10.9.0.0/24?", True),
        ({"subnet": "10.9.0.0/31"}, "subnet", "from /8 to /30", True),
        ({"subnet": "127.0.0.0/16"}, "subnet", "it overlaps 127.0.0.0/8", True),
        ({"subnet": "what"}, "subnet", "write it as", True),
        ({"subnet": "10.100.0.0/16"}, "subnet", "overlap", False),
        ({"max_clients": "0"}, "max_clients", "a number from 1", True),
        ({"max_clients": "٣"}, "max_clients", "a number from 1", True),
        ({"relay_fallback": False, "p2p_enabled": False}, "relay_fallback", "nobody reaches anybody", False),
        ({"description": "a\x1bb"}, "description", "control", True),
    ],
)
def test_a_field_says_what_is_the_matter_with_it(values: dict[str, Any], key: str, words: str, error: bool) -> None:
    found = forms.findings(typed(**values), scenarios.office().networks.values())
    assert words in found[key].text and found[key].error == error and set(found) == {key}


def test_what_is_right_is_sent_as_the_api_has_it() -> None:
    values = typed(subnet="10.9.0.0/24", max_clients="7")
    assert forms.findings(values, []) == {}
    wish = forms.wish(values)
    assert (wish.name, wish.subnet, wish.max_clients, wish.relay) == ("new", "10.9.0.0/24", 7, None)


def test_only_what_was_changed_is_sent() -> None:
    before = forms.of_network(scenarios.network(1, "acme-prod", relay="eu-1"))
    after = before | {"relay": "", "max_clients": "50", "approval": True}
    assert forms.patch(before, after) == NetworkPatch(approval=True, max_clients=50, relay="")
    assert forms.patch(before, after).model_fields_set == {"approval", "max_clients", "relay"}


def test_the_one_that_is_edited_is_no_other() -> None:
    console = scenarios.office()
    editing = console.networks["net_0001"]
    values = forms.of_network(editing)
    assert forms.findings(values, console.networks.values(), editing) == {}
    smaller = forms.findings(
        values | {"subnet": "10.100.1.0/30", "max_clients": "2"}, console.networks.values(), editing
    )
    assert "2 addresses for 6 clients" in smaller["subnet"].text and not smaller["max_clients"].error


def test_a_template_fills_in_all_but_what_was_typed() -> None:
    values = forms.of_template(BUILT_IN["relayed"], {"name": "mine", "subnet": "", "description": "as I say"})
    assert (values["name"], values["description"]) == ("mine", "as I say")
    assert (values["p2p_enabled"], values["approval"]) == (False, True)


# what is kept, what is safe


def test_what_is_kept_comes_back_and_garbage_is_nothing(tmp_path: Any) -> None:
    path = tmp_path / "state" / "tui.json"
    kept = Kept(context=Context("login", "https://a").key)
    kept.of("login https://a").sort = "tx"
    save(path, kept)
    assert load(path) == kept
    path.write_text("{")
    assert load(path) == Kept() and load(None) == Kept()


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    evil = scenarios.client(1, "\x1b[2Jevil", tags=["\u202ex"])
    plain = scenarios.client(2, "plain")
    found = visible([evil, plain])
    assert found[0].name == "\\x1b[2Jevil" and found[0].tags == ["\\u202ex"] and found[1] is plain
