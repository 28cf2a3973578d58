"""The app against a daemon's socket: keys, live updates, a daemon that dies and comes back, crowds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import tui_scenarios as scenarios
from fake_daemon import FakeDaemon
from textual.timer import Timer
from textual.widgets import Input, Static
from tuikit import Until, new_app

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.screens.dashboard import DashboardScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen, PeerScreen, PingScreen, ReadingScreen
from shadowmesh_tui.screens.topology import TopologyScreen
from shadowmesh_tui.widgets.bars import Banner
from shadowmesh_tui.widgets.diagram import Diagram
from shadowmesh_tui.widgets.notice import NoticePane
from shadowmesh_tui.widgets.peers import PeerTable


def table(app: ShadowMeshApp) -> PeerTable:
    return app.screen.query_one(PeerTable)


def shown_names(app: ShadowMeshApp) -> list[str]:
    view = table(app)
    return [str(view.get_row_at(i)[0]).strip() for i in range(view.row_count)]


def words(app: ShadowMeshApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def ready(app: ShadowMeshApp) -> bool:
    """The whole office script was heard and is on the screen."""
    return app.mesh.now is not None and app.mesh.now.boot >= 1003 and table(app).row_count == 6


async def test_the_table_shows_the_peers_and_the_cursor_moves_by_arrows_and_letters(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        assert shown_names(app) == ["build-1", "edge-rome", "laptop-anna", "nas", "phone-ben", "printer"]
        for key, expected in (("down", "cli_0005"), ("j", "cli_0002"), ("k", "cli_0005"), ("up", "cli_0003")):
            await pilot.press(key)
            assert app.mesh.selected is not None and app.mesh.selected.client_id == expected


async def test_live_updates_keep_the_cursor_on_its_peer_whatever_the_rows_do(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("s", "s", "s", "s")
        assert app.mesh.order.by.value == "latency"
        await pilot.press("down")  # from build-1, on which the cursor stayed
        key = app.mesh.selected
        assert key is not None and key.client_id == "cli_0002" and table(app).cursor_row == 2
        peers = {p.client_id: p for p in scenarios.office_peers(50)}
        peers["cli_0002"] = scenarios.peer("laptop-anna", 2, scenarios.Reason.DIRECT_LAN, latency=0.01)
        peers["cli_0009"] = scenarios.peer("newcomer", 9, scenarios.Reason.DIRECT_LAN, latency=0.001)
        del peers["cli_0004"]
        daemon.say(scenarios.status(scenarios.network(tuple(peers.values()))))
        await until(pilot, lambda: "newcomer" in shown_names(app))
        assert shown_names(app)[:2] == ["newcomer", "laptop-anna"]
        assert table(app).cursor_key == key == app.mesh.selected
        assert table(app).cursor_row == 1


async def never(_: Timer) -> None:
    await asyncio.get_running_loop().create_future()


async def test_it_is_drawn_again_however_late_this_process_is(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        with monkeypatch.context() as late:
            late.setattr(Timer, "_run", never)  # as a timer of Textual's that is late before it sleeps
            app.changed()
            app.changed()
            assert app.is_redraw_due
            await until(pilot, lambda: not app.is_redraw_due)


async def test_when_the_chosen_peer_leaves_the_cursor_takes_the_one_in_its_place(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("down")
        left = tuple(p for p in scenarios.office_peers(50) if p.name != "edge-rome")
        daemon.say(scenarios.status(scenarios.network(left)))
        await until(pilot, lambda: app.mesh.selected is not None and app.mesh.selected.client_id == "cli_0002")
        assert table(app).cursor_row == 1


async def test_the_filter_narrows_while_typing_stays_on_enter_and_goes_on_escape(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("slash", *"relay1")
        assert shown_names(app) == ["edge-rome", "phone-ben"]
        await pilot.press("enter")
        assert table(app).has_focus and shown_names(app) == ["edge-rome", "phone-ben"]
        await pilot.press("slash", *"zzz")
        assert app.screen.query_one(NoticePane).display
        await pilot.press("escape")
        assert len(shown_names(app)) == 6 and table(app).has_focus
        assert not app.screen.query_one("#filter", Input).has_class("-shown")


async def test_why_is_asked_for_the_chosen_peer_and_shown(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: ready(app) and "reflexive" in words(app, "#attempts"))
        assert ("why", {"peer": "cli_0003"}) in daemon.asked
        await pilot.press("enter")
        assert isinstance(app.screen, PeerScreen)
        await until(pilot, lambda: "reflexive" in words(app, "#attempts"))
        await pilot.press("escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_a_why_that_is_refused_says_so_and_nothing_else_breaks(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    daemon.refusals["why"] = ShadowMeshError("not_allowed", "no permission to ask why", kind=Kind.NOT_ALLOWED)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: ready(app) and "no permission to ask why" in words(app, "#attempts"))


async def test_ping_shows_each_answer_and_sums_up(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("j", "j", "j", "p")
        screen = app.screen
        assert isinstance(screen, PingScreen)
        await until(pilot, lambda: "5 sent, 4 answered" in screen.outcome)
        assert "no answer" in words(app, "#tries")
        await pilot.press("p")
        await until(pilot, lambda: sum(method == "ping" for method, _ in daemon.asked) == 2)
        await pilot.press("escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_a_ping_can_be_left_while_it_waits_and_a_refused_one_says_why(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("p")  # build-1 never answers
        await until(pilot, lambda: any(method == "ping" for method, _ in daemon.asked))
        await pilot.press("escape")
        assert isinstance(app.screen, DashboardScreen)
        daemon.refusals["ping"] = ShadowMeshError("peer_unknown", "no such peer", "look at `shadowmesh peers`")
        await pilot.press("p")
        screen = app.screen
        assert isinstance(screen, PingScreen)
        await until(pilot, lambda: "no such peer" in screen.outcome)


async def test_a_network_is_switched_only_after_a_yes(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        for refusal in ("n", "escape", "enter"):
            await pilot.press("D")
            assert isinstance(app.screen, ConfirmScreen)
            await pilot.press(refusal)
            assert isinstance(app.screen, DashboardScreen)
        assert not [call for call in daemon.asked if call[0] == "down"]
        await pilot.press("D", "y")
        await until(pilot, lambda: ("down", {"network": "id-of-office"}) in daemon.asked)
        await pilot.press("u", "y")
        await until(pilot, lambda: ("up", {"network": "id-of-office"}) in daemon.asked)


async def test_a_refused_action_becomes_a_toast(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    daemon.refusals["down"] = ShadowMeshError("not_allowed", "only root may [switch] networks", "use sudo")
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("D", "y")
        await until(pilot, lambda: any("only root may [switch] networks" in n.message for n in app._notifications))


async def test_without_a_daemon_it_says_what_to_do_and_goes_on_by_itself(
    state_dir: Path, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.mesh.trouble is not None)
        assert "shadowmesh daemon run" in words(app, "NoticePane > Static")
        for key in ("p", "u", "D", "enter", "s", "n", "t", "down", "enter", "d", "w"):
            await pilot.press(key)  # nothing to act on: no crash
        await pilot.press("escape")
        with FakeDaemon(state_dir, scenarios.office(3)):
            await until(pilot, lambda: app.mesh.status is not None and table(app).row_count == 6)
            assert not app.screen.query_one(NoticePane).display


async def test_a_daemon_that_dies_leaves_the_last_known_state_and_is_followed_again(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("j", "j")
        key = app.mesh.selected
        daemon.stop()
        await until(pilot, lambda: app.screen.query_one(Banner).has_class("-error"))
        assert len(shown_names(app)) == 6 and table(app).has_class("-stale")
        await pilot.press("D", "y")  # an action meanwhile: a toast, no crash
        await until(pilot, lambda: bool(app._notifications))
        daemon.start()
        await until(pilot, lambda: not app.screen.query_one(Banner).has_class("-shown"))
        assert table(app).cursor_key == key


async def test_answers_that_make_no_sense_are_told_and_survived(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    daemon.garbage = True
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.mesh.trouble is not None and "can't be read" in app.mesh.trouble.what)
        daemon.garbage = False
        await until(pilot, lambda: app.mesh.status is not None)


async def test_a_daemon_that_says_nothing_counts_as_gone(state_dir: Path, until: Until) -> None:
    app = ShadowMeshApp(state_dir, retry_s=0.05, silence_s=0.2, refresh_s=0.0)
    with FakeDaemon(state_dir, []):
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.mesh.trouble is not None and "said nothing" in app.mesh.trouble.what)


async def test_topology_follows_the_arrows_and_shares_the_choice_with_the_dashboard(
    daemon: FakeDaemon, app: ShadowMeshApp, until: Until
) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("t")
        assert isinstance(app.screen, TopologyScreen)
        diagram = app.screen.query_one(Diagram)
        await until(pilot, lambda: diagram.picture is not None)
        picture = diagram.picture
        assert picture is not None
        await pilot.press("right")
        first = app.mesh.selected
        assert first is not None
        await pilot.press("down")
        assert app.mesh.selected == picture.step(first, 1)
        await pilot.press("k")
        assert app.mesh.selected == first
        placed = next(p for p in diagram.picture.leaves if p.leaf.label == "printer")
        await pilot.click(Diagram, offset=(placed.x, placed.y))
        assert app.mesh.selected is not None and app.mesh.selected.client_id == "cli_0006"
        await pilot.press("d")
        await until(pilot, lambda: table(app).cursor_key == app.mesh.selected)


async def test_several_networks_are_stepped_through_and_clicked(
    state_dir: Path, app: ShadowMeshApp, until: Until
) -> None:
    office = scenarios.network(scenarios.office_peers(0))
    lab = scenarios.network(scenarios.office_peers(0)[:2], name="lab", ip="10.70.0.9", interface="shadowmesh1")
    old = scenarios.network((), name="old", state="down", interface="")
    with FakeDaemon(state_dir, [scenarios.status(office, lab, old)]):
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.mesh.status is not None and table(app).row_count == 6)
            await pilot.press("j", "j", "n")
            await until(pilot, lambda: shown_names(app) == ["laptop-anna", "nas"])
            await pilot.press("n")
            await until(pilot, lambda: app.screen.query_one(NoticePane).display)
            assert "switched off" in words(app, "NoticePane > Static")
            await pilot.click("NetworkList", offset=(5, 0))
            await until(pilot, lambda: table(app).row_count == 6)
            assert app.mesh.selected is not None and app.mesh.selected.client_id == "cli_0002"
            assert table(app).cursor_row == 2


async def test_help_and_warnings_open_and_close_and_q_quits(state_dir: Path, app: ShadowMeshApp, until: Until) -> None:
    status = scenarios.status(scenarios.network(scenarios.office_peers(0)), warnings=("the clock is 40 s behind",))
    with FakeDaemon(state_dir, [status]):
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.mesh.status is not None)
            for key in ("question_mark", "w"):
                await pilot.press(key)
                assert isinstance(app.screen, ReadingScreen)
                await pilot.press("escape")
            await pilot.press("q")
        assert app.return_code == 0


async def test_all_commands_are_in_the_palette(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Dashboard", "Topology", "Ping", "Details", "Network up", "Network down", "Warnings"} <= titles


async def test_the_theme_can_change_while_it_runs(daemon: FakeDaemon, app: ShadowMeshApp, until: Until) -> None:
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        before = app.view.styles["direct"]
        for theme in ("textual-light", "ansi-dark", "ansi-light", "textual-dark"):
            app.theme = theme
            await pilot.pause()
            assert len(shown_names(app)) == 6
        assert app.view.styles["direct"] == before


@pytest.mark.parametrize("count", [300])
async def test_three_hundred_live_peers_stay_responsive(state_dir: Path, until: Until, count: int) -> None:
    app = new_app(state_dir)
    with FakeDaemon(state_dir, [scenarios.crowd(count)]) as daemon:
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: table(app).row_count == count)
            await pilot.press("s", "s", "s", "s", "s")  # by received traffic: every update moves rows
            key = None
            for step in range(1, 7):
                daemon.say(scenarios.crowd(count, step * 5))
                began = time.process_time()  # half a second; the wall's time is also other programs'
                await pilot.press("down")
                assert time.process_time() - began < 2.0, "a key press waits for the table"
                if key is not None:
                    assert app.mesh.selected != key
                key = app.mesh.selected
            await until(pilot, lambda: app.mesh.status == scenarios.crowd(count, 30))
            assert table(app).cursor_key == app.mesh.selected
            await pilot.press("t")
            await until(pilot, lambda: app.screen.query_one(Diagram).picture is not None)
