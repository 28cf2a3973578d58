"""How the screens look, at 80×24, 120×40 and the extremes: compared with pictures that were looked at and accepted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tui_scenarios as scenarios
from fake_daemon import FakeDaemon
from textual.pilot import Pilot
from textual.widgets import Footer, Static
from textual.widgets._footer import FooterKey
from tuikit import new_app

from shadowmesh.model.status import Status
from shadowmesh_tui.app import ShadowMeshApp

SMALL, LARGE = (80, 24), (120, 40)
NARROW, HUGE = (60, 20), (200, 60)
Compare = Callable[..., bool]


def several() -> Status:
    return scenarios.status(
        scenarios.network(scenarios.office_peers(9), controller="offline"),
        scenarios.network((), name="lab", ip="10.70.0.9", interface="shadowmesh1"),
        scenarios.network((), name="guests", state="pending-approval", ip="", interface=""),
        scenarios.network((), name="old", state="down", ip="10.9.0.3", interface="shadowmesh2"),
        warnings=("two machines behind one router use the same port", "the clock is 40 s behind the controller's"),
    )


class Settled:
    """Waits until the whole script was heard and `why` is answered, presses keys, and waits for the last drawing."""

    def __init__(self, script: list[Status], *keys: str, theme: str = "textual-dark") -> None:
        self.script, self.keys, self.theme = script, keys, theme

    async def __call__(self, pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, ShadowMeshApp)
        app.theme = self.theme
        await self._until(pilot, lambda: app.mesh.now is not None and app.mesh.now.boot >= 999 + len(self.script))
        await pilot.press(*self.keys)
        if app.mesh.selected is not None:
            await self._until(pilot, lambda: app.mesh.selected in app.mesh.whys)
        app.changed()
        await self._until(pilot, lambda: not app.is_redraw_due and self._footer_is_drawn(app))
        await pilot.pause()

    @staticmethod
    def _footer_is_drawn(app: ShadowMeshApp) -> bool:
        """It is made anew, after the rest, when its keys change."""
        footers = app.screen.query(Footer)
        if not footers:
            return True
        keys = footers.first().query(FooterKey)
        offered = [b.binding.action for b in app.screen.active_bindings.values() if b.binding.show]
        drawn = [key.action for key in keys if not key.has_class("-command-palette")]
        return drawn == list(dict.fromkeys(offered)) and all(key.region.width > 0 for key in keys)

    @staticmethod
    async def _until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            await pilot.pause(0.01)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
@pytest.mark.parametrize(
    ("script", "keys", "theme"),
    [
        pytest.param(scenarios.office(), ("j",), "textual-dark", id="dashboard"),
        pytest.param(scenarios.office(), ("t", "right", "j"), "textual-dark", id="topology"),
        pytest.param([several()], (), "textual-dark", id="several-networks"),
    ],
)
def test_screens(
    snap_compare: Compare,
    state_dir: Path,
    script: list[Status],
    keys: tuple[str, ...],
    theme: str,
    size: tuple[int, int],
) -> None:
    check(snap_compare, state_dir, script, Settled(script, *keys, theme=theme), size)


@pytest.mark.parametrize(
    ("keys", "theme"),
    [
        pytest.param((), "textual-light", id="dashboard-light"),
        pytest.param(("t", "right"), "textual-light", id="topology-light"),
        pytest.param(("question_mark",), "textual-dark", id="help"),
        pytest.param(("j", "enter"), "textual-dark", id="details"),
    ],
)
def test_small_screens(snap_compare: Compare, state_dir: Path, keys: tuple[str, ...], theme: str) -> None:
    script = scenarios.office()
    check(snap_compare, state_dir, script, Settled(script, *keys, theme=theme), SMALL)


def test_without_colour(snap_compare: Compare, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    script = scenarios.office()
    check(snap_compare, state_dir, script, Settled(script, "t", "right"), SMALL)


@pytest.mark.parametrize("size", [NARROW, HUGE], ids=["60x20", "200x60"])
@pytest.mark.parametrize("keys", [("j",), ("t", "right"), ("D",)], ids=["dashboard", "topology", "question"])
def test_the_extremes(snap_compare: Compare, state_dir: Path, keys: tuple[str, ...], size: tuple[int, int]) -> None:
    script = scenarios.office()
    check(snap_compare, state_dir, script, Settled(script, *keys), size)


def test_in_ascii(snap_compare: Compare, state_dir: Path) -> None:
    script = scenarios.office()
    check(snap_compare, state_dir, script, Settled(script, "t", "right"), SMALL, plain=True)


def test_a_crowd_in_the_topology(snap_compare: Compare, state_dir: Path) -> None:
    script = [scenarios.crowd(40)]
    check(snap_compare, state_dir, script, Settled(script, "t"), SMALL)


def test_in_no_network_yet(snap_compare: Compare, state_dir: Path) -> None:
    script = [scenarios.status()]
    check(snap_compare, state_dir, script, Settled(script), SMALL)


def test_without_a_daemon(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.joinpath("shadowmesh").mkdir()
    monkeypatch.chdir(tmp_path)

    async def lost(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, ShadowMeshApp)
        await Settled._until(pilot, lambda: app.mesh.trouble is not None)
        await Settled._until(
            pilot, lambda: "No daemon" in str(app.screen.query_one("NoticePane > Static", Static).render())
        )
        app.screen.query_one("TitleBar").visible = False  # it shows this very version of the program

    assert snap_compare(new_app(Path("shadowmesh")), terminal_size=SMALL, run_before=lost)


def check(
    snap_compare: Compare,
    state_dir: Path,
    script: list[Status],
    settled: Settled,
    size: tuple[int, int],
    *,
    plain: bool = False,
) -> None:
    with FakeDaemon(state_dir, script) as daemon:
        for network in script[-1].networks:
            for peer in network.peers:
                daemon.whys[peer.client_id] = scenarios.why_of(peer)
        assert snap_compare(new_app(state_dir, plain=plain), terminal_size=size, run_before=settled)
