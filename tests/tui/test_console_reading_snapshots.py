"""How people, logs, the audit log and templates look: compared with pictures that were looked at and accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import console_scenarios as scenarios
import pytest
from test_console_snapshots import footer_is_drawn, until
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input
from tuikit import new_app

from shadowmesh.model.accounts import SecondFactor, SecondFactorSecret
from shadowmesh.model.api import Permission
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.console.desk import Fetched
from shadowmesh_tui.console.logbook import LogBook
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.screens.console.auditscreen import AuditScreen
from shadowmesh_tui.screens.console.factorwindow import SecondFactorWindow
from shadowmesh_tui.screens.console.fetching import FetchingScreen
from shadowmesh_tui.screens.console.logscreen import NetworkLogScreen
from shadowmesh_tui.screens.console.peopleforms import add_person, make_key

SMALL, LARGE, HUGE, NARROW = (80, 24), (120, 40), (200, 60), (60, 20)
Compare = Callable[..., bool]
Opens = Callable[[ShadowMeshApp], Screen[Any]]


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known already."""
    monkeypatch.setattr(FetchingScreen, "_read", lambda _self, _desk: None)


def looked_at(
    mode: str, *keys: str, console: Console | None = None, opens: Opens | None = None
) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Has this screen of a controller on, with all that can be read there; opens a window over it and presses keys."""
    console = console or scenarios.office()

    async def ready(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, ShadowMeshApp)
        desk = app.view.desk = scenarios.desk_of(console, app)
        for what, value in (scenarios.people() | {"templates": scenarios.templates()}).items():
            desk.fetched[what] = Fetched(value)
        log = LogBook(NetworkLogScreen.FIRST_RANGE, NetworkLogScreen.number)
        log.add(scenarios.log_lines())
        desk.fetched["logs net_0001"] = Fetched(log)
        audit = LogBook(AuditScreen.FIRST_RANGE, AuditScreen.number)
        audit.add(scenarios.audit_lines())
        desk.fetched["audit"] = Fetched(audit)
        app.show_mode(f"console-{mode}")
        await pilot.pause()
        if opens is not None:
            app.push_screen(opens(app))
            await pilot.pause()
        await pilot.press(*keys)
        app.changed()
        for field in app.screen.query(Input):
            field.cursor_blink = False  # or the picture depends on the moment
        await until(pilot, lambda: not app.is_redraw_due and footer_is_drawn(app))
        await pilot.pause()

    return ready


@pytest.mark.parametrize("turns", [2, 3], ids=["sessions", "keys"])
def test_people(snap_compare: Compare, state_dir: Path, turns: int) -> None:
    ready = looked_at("people", *["right"] * turns, "j")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@pytest.mark.parametrize(
    ("mode", "size"), [("people", NARROW), ("audit", NARROW), ("logs", HUGE)], ids=["people", "audit", "logs"]
)
def test_the_extremes(snap_compare: Compare, state_dir: Path, mode: str, size: tuple[int, int]) -> None:
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=looked_at(mode, "j"))


@pytest.mark.parametrize(("mode", "size"), [("audit", LARGE), ("templates", SMALL)], ids=["audit", "templates"])
def test_lists(snap_compare: Compare, state_dir: Path, mode: str, size: tuple[int, int]) -> None:
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=looked_at(mode))


def test_people_without_colour(snap_compare: Compare, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at("people", "j"))


def test_logs_in_ascii(snap_compare: Compare, state_dir: Path) -> None:
    assert snap_compare(new_app(state_dir, plain=True), terminal_size=SMALL, run_before=looked_at("logs", "j"))


def test_a_filtered_log(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at("logs", "slash", *"server upgrade")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


def test_a_guest_among_people(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at("people", console=scenarios.office([Permission.NETWORK_VIEW]))
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


def test_all_about_a_line(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at("logs", "j", "j", "enter")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


NETWORKS = (scenarios.network(1, "acme-prod"), scenarios.network(3, scenarios.WIDE))


@pytest.mark.parametrize(
    "opens",
    [
        lambda app: add_person(app.view, NETWORKS),
        lambda app: make_key(app.view, scenarios.who(), NETWORKS, ["backup@example.org"]),
    ],
    ids=["person", "key"],
)
def test_forms(snap_compare: Compare, state_dir: Path, opens: Opens) -> None:
    ready = looked_at("people", *"not an address", "ctrl+s", opens=opens)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


class BegunFactor(SecondFactorWindow):
    """One is being set up, and nothing is asked."""

    def _read(self) -> None:  # type: ignore[override]
        self.factor = SecondFactor(enabled=False)
        self.secret = SecondFactorSecret(secret="JBSWY3DPEHPK3PXP" * 2, uri="otpauth://totp/x")
        self._offer()


def test_a_second_factor(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at("people", opens=lambda app: BegunFactor(app.view))
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


def test_where_to_export(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at("audit", "w", *"audit.txt", "enter")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)
