"""How topology, relays and usage of a controller look: compared with pictures that were looked at and accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import network_scenarios as networks
import pytest
from test_console_snapshots import HUGE, LARGE, NARROW, SMALL, Compare, looked_at
from tuikit import new_app

from shadowmesh.model.api import Permission
from shadowmesh_tui.console.state import Console

TOPOLOGY, RELAYS, USAGE = "console-topology", "console-relays", "console-usage"
Size = tuple[int, int]
SIZES = {"80x24": SMALL, "120x40": LARGE, "60x20": NARROW, "200x60": HUGE}


def sizes(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("size", [SIZES[name] for name in names], ids=names)


@sizes("120x40", "60x20")
def test_relays(snap_compare: Compare, state_dir: Path, size: Size) -> None:
    ready = looked_at(networks.relays(networks.scenarios.office()), "j", mode=RELAYS)
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


def test_draining_a_relay_is_asked(snap_compare: Compare, state_dir: Path) -> None:
    console = networks.relays(networks.scenarios.office())
    console.networks["net_0001"] = console.networks["net_0001"].model_copy(update={"relay": "eu-1"})
    ready = looked_at(console, "j", "d", mode=RELAYS)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@sizes("200x60", "60x20")
def test_usage(snap_compare: Compare, state_dir: Path, size: Size) -> None:
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=looked_at(networks.used(), mode=USAGE))


@pytest.mark.parametrize(
    ("keys", "percent"), [(("t",), 40), (("v", "v"), 83), (("v",), 112)], ids=["by-day", "networks", "users-used-up"]
)
def test_usage_otherwise(snap_compare: Compare, state_dir: Path, keys: tuple[str, ...], percent: int | None) -> None:
    ready = looked_at(networks.used(percent), *keys, mode=USAGE)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@sizes("120x40", "60x20", "200x60")
def test_the_topology_of_a_few(snap_compare: Compare, state_dir: Path, size: Size) -> None:
    ready = looked_at(networks.pictured(networks.few()), "j", mode=TOPOLOGY)
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


def test_the_topology_of_a_crowd(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at(networks.pictured(networks.many(500)), "j", mode=TOPOLOGY)
    assert snap_compare(new_app(state_dir), terminal_size=LARGE, run_before=ready)


def of_few() -> Console:
    return networks.pictured(networks.few())


def of_many() -> Console:
    return networks.pictured(networks.many(500))


@pytest.mark.parametrize(
    ("keys", "console"),
    [
        (("j", "f"), of_few),
        (("slash", *"serv", "enter"), of_few),
        (("plus", "plus", "j"), of_few),
        (("j", "enter"), of_many),
        ((), lambda: networks.pictured(networks.few(pairs=[]), [Permission.NETWORK_VIEW])),
    ],
    ids=["focus", "search", "zoom", "group", "guest"],
)
def test_the_topology_otherwise(
    snap_compare: Compare, state_dir: Path, keys: tuple[str, ...], console: Callable[[], Console]
) -> None:
    ready = looked_at(console(), *keys, mode=TOPOLOGY)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@pytest.mark.parametrize(
    ("mode", "plain"), [(TOPOLOGY, True), (USAGE, True), (RELAYS, False)], ids=["topology", "usage", "relays"]
)
def test_on_poor_terminals(
    snap_compare: Compare, state_dir: Path, mode: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASCII alone, or no colour."""
    if not plain:
        monkeypatch.setenv("NO_COLOR", "1")
    console = networks.used()
    networks.relays(console)
    console.take_topology(networks.few())
    ready = looked_at(console, "j", mode=mode)
    assert snap_compare(new_app(state_dir, plain=plain), terminal_size=SMALL, run_before=ready)
