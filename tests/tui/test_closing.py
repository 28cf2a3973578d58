"""What comes when its window is closing, or has closed, changes nothing and breaks nothing; keys act on what is marked."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

import pytest
import tui_scenarios as scenarios
from fake_daemon import FakeDaemon
from msgspec.structs import replace
from textual.pilot import Pilot
from tuikit import Until, new_app

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.app import ShadowMeshApp, run
from shadowmesh_tui.screens.dashboard import DashboardScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen, PeerScreen, PingScreen
from shadowmesh_tui.widgets.peers import PeerTable


async def started(app: ShadowMeshApp, pilot: Pilot[None], until: Until) -> PeerTable:
    await until(pilot, lambda: app.mesh.now is not None and app.screen.query_one(PeerTable).row_count == 6)
    return app.screen.query_one(PeerTable)


async def test_answers_that_come_as_the_ping_window_closes_are_dropped(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    daemon.pings["cli_0003"] = scenarios.answers(*[0.4] * 400)
    async with app.run_test() as pilot:
        await started(app, pilot, until)
        for seen in range(8):
            await pilot.press("p")
            await until(pilot, lambda: isinstance(app.screen, PingScreen))
            screen = app.screen
            assert isinstance(screen, PingScreen)
            while len(screen.tries) <= seen:
                await pilot.pause(0)
            await pilot.press("escape")
            assert isinstance(app.screen, DashboardScreen)
            screen.tries += scenarios.answers(0.4)  # the last ones, as late as can be
            screen.show()


async def test_a_closed_window_and_a_closed_app_can_be_told_anything(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await started(app, pilot, until)
        await pilot.press("t", "d", "enter")
        window = app.screen
        assert isinstance(window, PeerScreen)
        await pilot.press("escape")
        await until(pilot, lambda: not window.is_running)
        window.show()
    app.changed()


async def test_a_key_acts_on_the_row_under_the_cursor_however_fast_it_is_typed(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        table = await started(app, pilot, until)
        table.move_cursor(row=3)  # nobody has heard of it yet
        screen = app.screen
        assert isinstance(screen, DashboardScreen)
        screen.action_ping()
        await until(pilot, lambda: any(method == "ping" for method, _ in daemon.asked))
        assert [params["peer"] for method, params in daemon.asked if method == "ping"] == ["cli_0001"]  # nas


@pytest.mark.parametrize(("key", "row"), [("end", 5), ("G", 5), ("home", 0), ("g", 0)])
async def test_the_ends_of_the_table_are_a_key_away(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until, key: str, row: int
) -> None:
    async with app.run_test() as pilot:
        table = await started(app, pilot, until)
        await pilot.press("j", "j", key)
        assert table.cursor_row == row


async def test_the_last_of_a_crowd_is_seen_when_it_is_gone_to(state_dir: Path, until: Until) -> None:
    app = new_app(state_dir)
    with FakeDaemon(state_dir, [scenarios.crowd(100)]):
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.mesh.now is not None and app.screen.query_one(PeerTable).row_count == 100)
            table = app.screen.query_one(PeerTable)
            await pilot.press("G")
            await until(pilot, lambda: table.scroll_offset.y == table.max_scroll_y > 0)
            await pilot.press("g")
            await until(pilot, lambda: table.scroll_offset.y == 0)


async def test_a_question_stands_on_no(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test() as pilot:
        await started(app, pilot, until)
        await pilot.press("D")
        assert isinstance(app.screen, ConfirmScreen)
        assert app.focused is not None and app.focused.id == "no"


async def test_more_networks_than_fit_are_told_of_and_reached(
    state_dir: Path, app: ShadowMeshApp, until: Until
) -> None:
    networks = [
        scenarios.network((), name=f"net-{n:02}", ip=f"10.{n}.0.2", interface=f"shadowmesh{n}") for n in range(12)
    ]
    with FakeDaemon(state_dir, [scenarios.status(*networks)]):
        async with app.run_test() as pilot:

            def shown() -> str:
                return str(app.screen.query_one("NetworkList").render())  # type: ignore[attr-defined]

            await until(pilot, lambda: app.mesh.status is not None and "net-00" in shown())
            assert "9 below: n and N go through all 12" in shown() and shown().count("\n") == 3
            for n in range(1, 12):
                await pilot.press("n")
                await until(pilot, lambda name=f"net-{n:02}": f"▸ {name}" in shown())  # type: ignore[misc]
            assert "9 above" in shown() and "below" not in shown()
            titles = {command.title for command in app.get_system_commands(app.screen)}
            assert {"Go to net-00", "Go to net-11"} <= titles


async def test_what_a_terminal_would_obey_is_shown_instead(state_dir: Path, app: ShadowMeshApp, until: Until) -> None:
    evil = "\x1b[2J\u202eevil\x9b31m[red]"
    peer = replace(scenarios.peer("nas", 1, scenarios.Reason.DIRECT_LAN, latency=1.0), name=evil, explanation=evil)
    why = replace(scenarios.why_of(peer), history=(evil,))
    shown = scenarios.network((peer,), name=evil)
    with FakeDaemon(state_dir, [scenarios.status(shown, warnings=(evil,))]) as daemon:
        daemon.whys["cli_0001"] = why
        daemon.refusals["down"] = ShadowMeshError("refused", evil, evil)
        async with app.run_test(size=(200, 60)) as pilot:
            await until(pilot, lambda: bool(app.mesh.whys))
            for keys in ((), ("p",), ("escape", "enter"), ("escape", "D"), ("y",), ("w",), ("escape", "t")):
                await pilot.press(*keys)
                await pilot.pause()
                text = "\n".join("".join(s.text for s in strip) for strip in app.screen._compositor.render_strips())
                assert "evil" in text and not set(text) & set("\x1b\u202e\x9b"), keys


# without a terminal, without colour


def test_without_a_terminal_it_is_refused(state_dir: Path) -> None:
    with pytest.raises(ShadowMeshError) as caught:  # a test has none
        run(state_dir)
    assert (caught.value.code, caught.value.kind) == ("no_terminal", Kind.USAGE)


@pytest.mark.parametrize("how", ["--no-color", "NO_COLOR"])
def test_without_colour_there_is_none(daemon: FakeDaemon, state_dir: Path, how: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | (
            {"NO_COLOR": "1"} if how == "NO_COLOR" else {}
        )
        option = ["--no-color"] if how == "--no-color" else []
        os.execv(sys.executable, [sys.executable, "-m", "shadowmesh", "tui", "--state-dir", str(state_dir), *option])
    seen = b""
    while b"laptop-anna" not in seen:
        seen += os.read(terminal, 65536)
    os.write(terminal, b"q")
    try:
        while chunk := os.read(terminal, 65536):
            seen += chunk
    except OSError:  # EIO: the other side has gone
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    attributes = {a for found in re.findall(rb"\x1b\[([0-9;]*)m", seen) for a in found.split(b";")}
    assert attributes <= {b"", b"0", b"1", b"2", b"3", b"4", b"7", b"39", b"49"}, attributes
