"""How the screens of a controller look: compared with pictures that were looked at and accepted. The data is the same at each run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import console_scenarios as scenarios
import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Footer, Input
from textual.widgets._footer import FooterKey
from tuikit import new_app

from shadowmesh.model.api import Permission
from shadowmesh.model.connectivity import ConnectionLog, TopologyPair, TopologyView
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.contextswindow import ContextsWindow
from shadowmesh_tui.screens.console.createwindow import CreateWindow
from shadowmesh_tui.screens.console.joinwindow import JoinWindow
from shadowmesh_tui.screens.console.settingswindow import (
    DeleteWindow,
    DifferenceWindow,
    SettingsWindow,
    difference_text,
)
from shadowmesh_tui.screens.console.signinwindow import SignInWindow

SMALL, LARGE, HUGE, NARROW = (80, 24), (120, 40), (200, 60), (60, 20)
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
Compare = Callable[..., bool]
Opens = Callable[[ShadowMeshApp], Screen[Any]]


def looked_at(
    console: Console, *keys: str, mode: str = "console-dashboard", opens: Opens | None = None
) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Has this controller on the screen, opens a window over it, presses keys, and waits for the last drawing."""

    async def ready(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, ShadowMeshApp)
        app.view.desk = scenarios.desk_of(console, app)
        app.show_mode(mode)
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


def footer_is_drawn(app: ShadowMeshApp) -> bool:
    footers = app.screen.query(Footer)
    if not footers:
        return True
    keys = footers.first().query(FooterKey)
    offered = [b.binding.action for b in app.screen.active_bindings.values() if b.binding.show]
    drawn = [key.action for key in keys if not key.has_class("-command-palette")]
    return drawn == list(dict.fromkeys(offered)) and all(key.region.width > 0 for key in keys)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await pilot.pause(0.01)


@SIZES
def test_the_dashboard(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    assert snap_compare(
        new_app(state_dir), terminal_size=size, run_before=looked_at(scenarios.office(), "j", "space", "j")
    )


@pytest.mark.parametrize("size", [NARROW, HUGE], ids=["60x20", "200x60"])
def test_the_dashboard_at_the_extremes(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=looked_at(scenarios.office(), "j"))


def test_the_dashboard_in_light(snap_compare: Compare, state_dir: Path) -> None:
    async def ready(pilot: Pilot[None]) -> None:
        pilot.app.theme = "textual-light"
        await looked_at(scenarios.office(), "j")(pilot)

    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


def test_the_dashboard_without_colour(snap_compare: Compare, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(scenarios.office(), "space", "j"))


def test_the_dashboard_in_ascii(snap_compare: Compare, state_dir: Path) -> None:
    app = new_app(state_dir, plain=True)
    assert snap_compare(app, terminal_size=SMALL, run_before=looked_at(scenarios.office(), "j"))


def test_a_guest(snap_compare: Compare, state_dir: Path) -> None:
    console = scenarios.office([Permission.NETWORK_VIEW])
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(console, "j"))


def test_filtered_and_sorted(snap_compare: Compare, state_dir: Path) -> None:
    keys = ("s", "s", "s", "s", "slash", *"server")
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(scenarios.office(), *keys))


def test_a_crowd(snap_compare: Compare, state_dir: Path) -> None:
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(scenarios.crowd(5000), "end"))


def test_a_lost_connection(snap_compare: Compare, state_dir: Path) -> None:
    console = scenarios.office()
    error = ShadowMeshError(
        "controller_unreachable", "the controller at https://vpn.example.org:8443 can't be reached (connection refused)",
        "check that it runs and that this machine gets there", kind=Kind.UNREACHABLE,
    )  # fmt: skip
    console.lose(error, 196.0, 208.0)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(console))


def test_a_sign_in_that_ran_out(snap_compare: Compare, state_dir: Path) -> None:
    console = Console()
    console.lose(ShadowMeshError("not_signed_in", "this sign-in has run out", "sign in again"), 0.0)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=looked_at(console))


@SIZES
def test_approvals(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    ready = looked_at(scenarios.office(), "space", mode="console-approvals")
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


class FixedClient(ClientWindow):
    """Nothing is read: it is known already."""

    def _read(self) -> None:  # type: ignore[override]
        since = scenarios.NOW
        view = TopologyView(client_id="cli_0001", connection_type="p2p", reason="direct.punched", latency_ms=2.1, since=since,
                            rx_bytes=10**9, tx_bytes=10**8)  # fmt: skip
        self._pairs = [
            TopologyPair(client_ids=["cli_0001", "cli_0004"], connection_type="p2p", latency_ms=2.1, views=[view]),
            TopologyPair(client_ids=["cli_0001", "cli_0005"], connection_type="relay", latency_ms=140.0, views=[
                view.model_copy(update={"reason": "relay.both_symmetric", "relay": "eu-1"})]),
        ]  # fmt: skip
        self._names = {"cli_0004": "vpn-gw", "cli_0005": scenarios.WIDE}
        self._log = [
            ConnectionLog(log_id=n, timestamp=since, client_id="cli_0001", client_name="server-1", remote_peer_id="cli_0004",
                          remote_peer_name="vpn-gw", event_type=kind, path="direct", reason=reason)
            for n, (kind, reason) in enumerate((("connect", "relay.upgrading"), ("upgrade_p2p", "direct.punched")))
        ]  # fmt: skip
        self.show()


@SIZES
@pytest.mark.parametrize("client", ["cli_0001", "cli_0005"], ids=["plain", "wide"])
def test_a_client(snap_compare: Compare, state_dir: Path, client: str, size: tuple[int, int]) -> None:
    ready = looked_at(scenarios.office(), opens=lambda app: FixedClient(app.view, "net_0001", client))
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


@SIZES
def test_a_new_network(
    snap_compare: Compare, state_dir: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CreateWindow, "_read_templates", lambda _self: None)
    keys = (*"acme-dev", "tab", *"10.100.1.9/24", "tab")
    ready = looked_at(scenarios.office(), *keys, opens=lambda app: CreateWindow(app.view))
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


@SIZES
@pytest.mark.parametrize("network", ["net_0001", "net_0003"], ids=["plain", "wide"])
def test_settings(
    snap_compare: Compare, state_dir: Path, size: tuple[int, int], network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SettingsWindow, "_read_code", lambda self: self._about.update("used 3 times of 1,000,000"))
    console = scenarios.office()
    ready = looked_at(console, opens=lambda app: SettingsWindow(app.view, console.networks[network]))
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


def test_the_difference(snap_compare: Compare, state_dir: Path) -> None:
    from shadowmesh_tui.console.forms import of_network

    before = of_network(scenarios.network(1, "acme-prod"))
    after = before | {"max_clients": "50", "approval": True, "description": scenarios.WIDE}
    now = before | {"max_clients": "70"}
    ready = looked_at(
        scenarios.office(),
        opens=lambda app: DifferenceWindow("acme-prod", difference_text(before, after, now, app.view.styles)),
    )
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


def test_deleting(snap_compare: Compare, state_dir: Path) -> None:
    ready = looked_at(scenarios.office(), *"acm", "enter", opens=lambda _app: DeleteWindow("acme-prod"))
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@SIZES
def test_joining(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    console = scenarios.office()

    def opened(app: ShadowMeshApp) -> JoinWindow:
        window = JoinWindow(app.view, "net_0001")
        window._before -= {"cli_0007", "cli_0001", "cli_0005"}
        return window

    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=looked_at(console, opens=opened))


@SIZES
def test_a_code(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    words = "Who joins acme-prod by it waits for approval."
    ready = looked_at(
        scenarios.office(),
        opens=lambda _app: CodeWindow("invitation code", "acmeprod-k3fj-92xyabcd", words, picture=True),
    )
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


@SIZES
def test_signing_in(snap_compare: Compare, state_dir: Path, size: tuple[int, int]) -> None:
    ready = looked_at(
        scenarios.office(), opens=lambda _app: SignInWindow("https://vpn.example.org:8443", "This sign-in has run out.")
    )
    assert snap_compare(new_app(state_dir), terminal_size=size, run_before=ready)


def test_the_choice_of_controllers(snap_compare: Compare, state_dir: Path) -> None:
    contexts = [Context("local", "/var/lib/shadowmesh-controller"), Context("login", "https://vpn.example.org:8443")]
    ready = looked_at(scenarios.office(), opens=lambda app: ContextsWindow(contexts, contexts[1], app.view.styles))
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)


@pytest.mark.parametrize("mode", ["console-dashboard", "console-approvals"])
def test_help(snap_compare: Compare, state_dir: Path, mode: str) -> None:
    ready = looked_at(scenarios.office(), "question_mark", mode=mode)
    assert snap_compare(new_app(state_dir), terminal_size=SMALL, run_before=ready)
