"""What a person does at a controller, key by key, against one that runs as a process of its own."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consolekit import Site, app_at, off, screen_text, shows, site, totp
from textual.pilot import Pilot
from textual.widgets import Input
from tuikit import Until

from shadowmesh.client_api import logins
from shadowmesh.model import accounts, api
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.console.kept import kept_path
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.console.contextswindow import ContextsWindow
from shadowmesh_tui.screens.console.dashboard import ControllerDashboard
from shadowmesh_tui.screens.console.joinwindow import JoinWindow
from shadowmesh_tui.screens.console.settingswindow import DeleteWindow, DifferenceWindow
from shadowmesh_tui.screens.console.signinwindow import SignInWindow
from shadowmesh_tui.screens.dialogs import ConfirmScreen

PASSWORD = "the password of anna"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One controller for all that doesn't stop it; each test has networks of its own."""
    with site(tmp_path_factory.mktemp("console")) as found:
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SHADOWMESH_DATA_DIR", "SHADOWMESH_CONTROLLER", "SHADOWMESH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)  # where files are written that nobody gave a place
    return tmp_path


async def at(app: ShadowMeshApp, pilot: Pilot[None], until: Until, network: str) -> None:
    """Has this network chosen on the dashboard."""

    def there_is() -> bool:
        return app.desk is not None and any(n.name == network for n in app.desk.console.networks.values())

    await until(pilot, there_is)
    assert app.desk is not None
    chosen = next(n for n in app.desk.console.networks.values() if n.name == network)
    app.desk.console.choose(chosen.network_id)
    screen = app.screen
    assert isinstance(screen, ControllerDashboard)
    screen.network_chosen()
    await until(pilot, lambda: app.desk is not None and chosen.network_id in app.desk.console.clients)


async def write(app: ShadowMeshApp, pilot: Pilot[None], field: str, text: str) -> None:
    """Into this field, in place of what is there."""
    editor = app.screen.query_one(field, Input)
    editor.focus()
    editor.value = ""
    await pilot.press(*text)


def audited(there: Site, action: str) -> list[api.AuditEntry]:
    with there.api() as client:
        return [e for e in client.audit_list() if e.action == action]


async def test_what_happens_shows_by_itself(there: Site, home: Path, until: Until) -> None:
    there.network("live")
    machine = await off(there.join, "live", "server-1")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "live")
        await shown("0 of 1 online")
        async with machine.online():
            await shown("1 of 1 online")
            await shown("○ idle")
        await shown("0 of 1 online")
        await off(there.join, "live", "server-2")
        await shown("server-2")
        with there.api() as client:
            client.client_set("live", "server-2", name="renamed")
        await shown("renamed")
        with there.api() as client:
            client.client_remove("live", "renamed")
        await until(pilot, lambda: "renamed" not in "\n".join(app.screen.table.lines()))  # type: ignore[attr-defined]
        with there.api() as client:
            client.network_set("live", api.NetworkPatch(p2p_enabled=False, relay_fallback=False))
        await shown("✗ no way")
        with there.api() as client:
            client.network_delete("live")
        await until(pilot, lambda: all(n.name != "live" for n in app.desk.console.networks.values()))  # type: ignore[union-attr]


@pytest.mark.whole
async def test_a_controller_that_goes_away_is_told_of_and_found_again(
    tmp_path_factory: pytest.TempPathFactory, home: Path, until: Until
) -> None:
    with site(tmp_path_factory.mktemp("away")) as found:
        found.network("office")
        await off(found.join, "office", "server-1")
        app = app_at(found, home)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            shown = shows(app, pilot, until)
            await at(app, pilot, until, "office")
            await off(found.stop)
            await shown("Shown is what was known")
            assert "server-1" in screen_text(app)
            await pilot.press("x", "y")
            await off(found.start)
            await until(pilot, lambda: app.desk is not None and app.desk.console.failure is None)
            await off(found.join, "office", "server-2")
            await shown("server-2")


async def test_who_waits_is_let_in_or_rejected_one_or_many(there: Site, home: Path, until: Until) -> None:
    there.network("gate", approval=True)
    for name in ("first", "second", "third", "fourth"):
        await off(there.join, "gate", name)
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await shown(" 2 4 ")  # who waits, beside the tab
        await pilot.press("2")
        await shown("fourth")
        await pilot.press("space", "space", "a")
        await shown("first and second: let in.")
        await shown("2 approvals 2")
        await pilot.press("r")
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("y")
        await shown("rejected")
        await pilot.press("X", "y")
        await shown("Nobody waits for approval.")
    with there.api() as client:
        assert {c.name: c.state for c in client.client_list("gate")} == {"first": "approved", "second": "approved"}


async def test_one_that_somebody_else_let_in_is_no_error_to_look_at(there: Site, home: Path, until: Until) -> None:
    there.network("door", approval=True)
    await off(there.join, "door", "early")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await shown(" 2 1 ")
        await pilot.press("2")
        await shown("early")
        with there.api() as client:
            client.client_approve("door", "early")
        await shown("Nobody waits for approval.")
        await pilot.press("a", "r", "enter")
        assert not isinstance(app.screen, ConfirmScreen | ClientWindow)


async def test_a_client_is_renamed_moved_and_removed(there: Site, home: Path, until: Until) -> None:
    there.network("fleet", subnet="10.77.0.0/24")
    await off(there.join, "fleet", "server-1")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "fleet")
        await pilot.press("enter")
        await shown("client joined")  # its history
        await pilot.press("r")
        await write(app, pilot, "Input", "gateway")
        await pilot.press("enter")
        await shown("gateway in fleet")
        await pilot.press("r")
        await write(app, pilot, "Input", "No Such Name")
        await pilot.press("enter")
        await shown("Not changed")
        await pilot.press("i")
        await write(app, pilot, "Input", "10.77.0.99")
        await pilot.press("enter")
        await shown("gateway  10.77.0.99")
        await pilot.press("x", "y")
        await shown("gateway in fleet (gone)")
        await pilot.press("escape")
        await shown("Nobody is in fleet yet.")


async def test_a_network_is_made_by_a_template(there: Site, home: Path, until: Until) -> None:
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await until(pilot, lambda: app.desk is not None and app.desk.console.who is not None)
        await pilot.press("plus")
        await shown("new network")
        await pilot.press("ctrl+s")
        await shown("a network has a name")
        await write(app, pilot, "#field-name", "branch office")
        await shown("1 to 63 letters")
        await write(app, pilot, "#field-name", "branch")
        await write(app, pilot, "#field-subnet", "10.88.0.1/24")
        await shown("host bits are set: 10.88.0.0/24?")
        await write(app, pilot, "#field-subnet", "10.88.0.0/24")
        app.screen.query_one("#template").value = "servers"  # type: ignore[attr-defined]
        await until(pilot, lambda: app.screen.query_one("#field-max_clients", Input).value == "1000")
        await pilot.press("ctrl+s")
        await shown("branch is made")
        copied: list[str] = []
        app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
        await pilot.press("c", "escape")
        await shown("Nobody is in branch yet.")
    with there.api() as client:
        made = client.network_show("branch")
        assert (made.subnet, made.approval, made.max_clients, made.reports) == ("10.88.0.0/24", True, 1000, "full")
        assert copied == [client.code_show("branch").invitation_code]


async def test_settings_are_saved_after_the_difference_was_shown(there: Site, home: Path, until: Until) -> None:
    there.network("plain", description="before")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "plain")
        await pilot.press("e")
        await shown("settings of plain")
        await pilot.press("ctrl+s")
        await shown("Nothing is changed.")
        await write(app, pilot, "#field-max_clients", "0")
        await pilot.press("ctrl+s")
        await shown("Max clients: a number from 1")
        await write(app, pilot, "#field-max_clients", "50")
        await write(app, pilot, "#field-description", "after")
        app.screen.query_one("#field-approval").toggle()  # type: ignore[attr-defined]
        with there.api() as client:  # somebody else, meanwhile
            client.network_set("plain", api.NetworkPatch(description="theirs", p2p_enabled=False))
        await until(pilot, lambda: any(n.description == "theirs" for n in app.desk.console.networks.values()))  # type: ignore[union-attr]
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, DifferenceWindow))
        difference = app.screen.difference.plain  # type: ignore[attr-defined]
        assert "before  →  after  (meanwhile: theirs)" in difference
        assert "100  →  50" in difference and "no  →  yes" in difference and "P2P" not in difference
        await pilot.press("y")
        await shown("plain: saved.")
    with there.api() as client:
        now = client.network_show("plain")
    assert (now.description, now.max_clients, now.approval, now.p2p_enabled) == ("after", 50, True, False)


async def test_the_code_is_hidden_until_somebody_asks_and_that_is_audited(
    there: Site, home: Path, until: Until
) -> None:
    made = there.network("coded")
    app = app_at(there, home)
    before = len(audited(there, "network.show-code"))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "coded")
        await pilot.press("e")
        await shown("used 0 times of 1,000,000")
        assert made.invitation_code not in screen_text(app)
        assert len(audited(there, "network.show-code")) == before
        await pilot.click("#show")
        await shown(made.invitation_code)
        assert len(audited(there, "network.show-code")) == before + 1
        await pilot.click("#picture")
        await shown("█▀▀▀▀▀█")
        await pilot.press("escape")
        await pilot.click("#regenerate")
        await pilot.press("y")
        await until(pilot, lambda: made.invitation_code not in screen_text(app))
        with there.api() as client:
            await shown(client.code_show("coded").invitation_code)


async def test_a_network_is_deleted_by_typing_its_name(there: Site, home: Path, until: Until) -> None:
    there.network("doomed")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "doomed")
        await pilot.press("e")
        await shown("settings of doomed")
        await pilot.click("#delete")
        await until(pilot, lambda: isinstance(app.screen, DeleteWindow))
        await pilot.press(*"doom", "enter")
        await shown("That isn't its name.")
        await pilot.press(*"ed", "enter")
        await shown("doomed: deleted.")
    with there.api() as client:
        assert "doomed" not in [n.name for n in client.network_list()]


async def test_a_machine_joins_in_three_steps(there: Site, home: Path, until: Until) -> None:
    there.network("newcomers", approval=True)
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await at(app, pilot, until, "newcomers")
        await pilot.press("i")
        await shown("nobody yet")
        await pilot.press("c")
        await shown("Make an invite first")
        await pilot.press("i")
        await shown("good for one machine")
        window = app.screen
        assert isinstance(window, JoinWindow) and window.ticket is not None
        from consolekit import Machine

        from shadowmesh.protocol.signing import Signer

        machine = Machine(there, Signer.generate())
        await off(machine.join, window.ticket.secret, "fresh")
        await shown("waits for approval: a lets it in")
        await pilot.press("a")
        await shown("is in, and not online yet")
        await pilot.press("o")
        await shown("--fingerprint")
        assert there.url in screen_text(app)


# who one is


async def signed_in(app: ShadowMeshApp, pilot: Pilot[None], there: Site, email: str, password: str) -> None:
    """By the window, from this machine's dashboard."""
    app.action_sign_in()
    await pilot.pause()
    await write(app, pilot, "#url", there.url)
    app.screen.query_one("#fingerprint", Input).value = there.fingerprint
    await write(app, pilot, "#email", email)
    await write(app, pilot, "#password", password)
    await pilot.press("enter")


def here(home: Path, **options: Any) -> ShadowMeshApp:
    """The app on this machine, where no controller is."""
    from consolekit import QUICK

    from shadowmesh_tui.app import system_now

    return ShadowMeshApp(home, refresh_s=0.02, retry_s=0.5, pace=QUICK, clock=system_now, **options)


async def test_a_guest_is_offered_what_a_guest_may(there: Site, home: Path, until: Until) -> None:
    there.network("watched")
    await off(there.join, "watched", "server-1")
    there.person("guest@example.org", PASSWORD, "guest", "watched")
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await signed_in(app, pilot, there, "guest@example.org", PASSWORD)
        await shown("server-1")
        footer = screen_text(app).splitlines()[-1]
        assert "Open" in footer and not any(w in footer for w in ("Remove", "Invite", "Settings", "New"))
        assert "approvals" not in screen_text(app).splitlines()[0]
        for key in ("x", "X", "e", "i", "plus", "a", "2"):
            await pilot.press(key)
            assert isinstance(app.screen, ControllerDashboard), key
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert not {"Remove", "Invite", "Settings", "New"} & titles and "Dashboard" in titles
        await pilot.press("enter")
        await shown("your role here doesn't read logs")
        for key in ("r", "i", "x", "X"):
            await pilot.press(key)
            assert isinstance(app.screen, ClientWindow), key


async def test_a_right_that_was_taken_away_meanwhile_is_refused_in_one_line(
    there: Site, home: Path, until: Until
) -> None:
    there.network("shared")
    await off(there.join, "shared", "server-1")
    there.person("owner@example.org", PASSWORD, "owner", "shared")
    there.person("other@example.org", PASSWORD, "owner", "shared")
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await signed_in(app, pilot, there, "owner@example.org", PASSWORD)
        await shown("server-1")
        with there.api() as client:
            client.member_set("shared", api.MemberPut(email="owner@example.org", role="guest"))
        await pilot.press("x", "y")
        await shown("doesn't allow client.remove")
        await shown("Ask an owner.")
        await until(pilot, lambda: "Remove" not in screen_text(app).splitlines()[-1])
    with there.api() as client:
        assert [c.name for c in client.client_list("shared")] == ["server-1"]


async def test_a_second_factor_is_asked_for(there: Site, home: Path, until: Until) -> None:
    from shadowmesh.client_api.contact import first_contact
    from shadowmesh.client_api.rest import ControllerClient, https_client

    there.network("guarded")
    there.person("anna@example.org", PASSWORD, "owner", "guarded")
    codes = []

    def enrol() -> None:
        contact = first_contact(there.url, there.fingerprint)
        wish = accounts.Login(email="anna@example.org", password=PASSWORD)
        with ControllerClient(https_client(contact.url, "", contact.tls), contact.url) as client:
            session = client._send("POST", "/auth/login", wish).json()
        with ControllerClient(https_client(contact.url, session["access_token"], contact.tls), contact.url) as client:
            secret = client.second_factor_enrol(PASSWORD).secret
            codes.extend(client.second_factor_confirm(totp(secret)).recovery_codes)

    await off(enrol)
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await signed_in(app, pilot, there, "anna@example.org", PASSWORD)
        await shown("A code of the second factor is asked for.")
        await pilot.press(*"000000", "enter")
        await shown("The code is wrong")
        await write(app, pilot, "#code", codes[0])
        await pilot.press("enter")
        await shown("guarded")
        assert logins.load().url == there.url and PASSWORD not in logins.login_path().read_text()


async def test_a_password_for_one_use_is_changed_at_the_first_sign_in(there: Site, home: Path, until: Until) -> None:
    there.network("fresh")
    with there.api() as client:
        made = client.user_create(accounts.UserCreate(email="new@example.org"))
        client.member_set("fresh", api.MemberPut(email="new@example.org", role="owner"))
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await signed_in(app, pilot, there, "new@example.org", made.password)
        await until(pilot, lambda: app.screen.query_one("#new").display and "New password" in screen_text(app))
        await write(app, pilot, "#new", "a password of my own")
        await write(app, pilot, "#again", "another one of my own")
        await pilot.press("enter")
        await shown("differ")
        await write(app, pilot, "#new", "a password of my own")
        await write(app, pilot, "#again", "a password of my own")
        await pilot.press("enter")
        await shown("Nobody is in fresh yet.")


async def test_an_api_key_signs_in_and_one_that_ends_is_asked_for_again(there: Site, home: Path, until: Until) -> None:
    there.network("keyed")
    there.person("ben@example.org", PASSWORD, "owner", "keyed", admin=True)
    with there.api() as client:
        login = accounts.Login(email="ben@example.org", password=PASSWORD)
        token = client._send("POST", "/auth/login", login).json()["access_token"]

    def key() -> accounts.ApiKeyCreated:
        from shadowmesh.client_api.rest import ControllerClient

        with ControllerClient.remote(there.url, token, there.fingerprint) as client:
            return client.api_key_create(accounts.ApiKeyCreate(read_only=True))

    made = await off(key)
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, ContextsWindow))
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, SignInWindow))
        await write(app, pilot, "#url", there.url)
        app.screen.query_one("#fingerprint", Input).value = there.fingerprint
        app.screen.query_one("#by-key").toggle()  # type: ignore[attr-defined]
        await pilot.pause()
        await write(app, pilot, "#key", "sk_wrong")
        await pilot.press("enter")
        await until(pilot, lambda: "Signing in" not in screen_text(app))
        assert isinstance(app.screen, SignInWindow)
        await write(app, pilot, "#key", made.key)
        await pilot.press("enter")
        await shown("read-only")
        footer = screen_text(app).splitlines()[-1]
        assert not any(w in footer for w in ("Remove", "Invite", "Settings", "New"))
        with there.api() as client:
            client.api_key_revoke(made.id)
        await until(pilot, lambda: isinstance(app.screen, SignInWindow))
        assert app.screen.query_one("#url", Input).value == there.url
        await pilot.press("escape")
        await shown("Press L to sign in again.")


async def test_an_access_token_that_runs_out_is_renewed_unseen(there: Site, home: Path, until: Until) -> None:
    there.network("renewed")
    there.person("cleo@example.org", PASSWORD, "owner", "renewed")
    app = here(home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await signed_in(app, pilot, there, "cleo@example.org", PASSWORD)
        await shown("Nobody is in renewed yet.")
    kept = json.loads(logins.login_path().read_text())
    logins.login_path().write_text(json.dumps(kept | {"token": "worn-out"}))
    app = here(home, kept_in=kept_path())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await shown("Nobody is in renewed yet.")
        assert json.loads(logins.login_path().read_text())["token"] not in ("worn-out", kept["token"])


async def test_several_controllers_are_kept_and_each_as_it_was_looked_at(
    there: Site, tmp_path_factory: pytest.TempPathFactory, home: Path, until: Until
) -> None:
    there.network("here-first")
    there.network("here-second")
    there.person("dora@example.org", PASSWORD, admin=True)
    with site(tmp_path_factory.mktemp("other")) as other:
        other.network("elsewhere")
        other.person("dora@example.org", PASSWORD, admin=True)
        app = here(home, kept_in=kept_path())
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            shown = shows(app, pilot, until)
            await signed_in(app, pilot, there, "dora@example.org", PASSWORD)
            await at(app, pilot, until, "here-second")
            await pilot.press("s", "s")
            await pilot.press("C")
            await until(pilot, lambda: isinstance(app.screen, ContextsWindow))
            await pilot.press("end", "enter")
            await until(pilot, lambda: isinstance(app.screen, SignInWindow))
            await write(app, pilot, "#url", other.url)
            app.screen.query_one("#fingerprint", Input).value = other.fingerprint
            await write(app, pilot, "#email", "dora@example.org")
            await write(app, pilot, "#password", PASSWORD)
            await pilot.press("enter")
            await shown("Nobody is in elsewhere yet.")
            assert "here-second" not in screen_text(app)
        assert {login.url for login in logins.known()} == {there.url, other.url}
        assert logins.load().url == there.url  # what commands use stays
        app = here(home, kept_in=kept_path())
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            shown = shows(app, pilot, until)
            await shown("Nobody is in elsewhere yet.")  # where it was left
            await pilot.press("C")
            await until(pilot, lambda: isinstance(app.screen, ContextsWindow))
            await pilot.press("home", "down", "enter")
            await shown("▸ here-second")
            assert app.desk is not None and app.desk.order("clients").by == "path"
            await pilot.press("m", "C")
            await until(pilot, lambda: isinstance(app.screen, ContextsWindow))
            await pilot.press("home", "down", "o")
            await shown("Signed out of")
        assert [login.url for login in logins.known()] == [other.url]


# whatever is pressed

KEYS = [
    "up",
    "down",
    "left",
    "right",
    "j",
    "k",
    "g",
    "G",
    "home",
    "end",
    "pageup",
    "pagedown",
    "enter",
    "escape",
    "space",
    "tab",
    "shift+tab",
    "slash",
    "s",
    "S",
    "n",
    "N",
    "1",
    "2",
    "3",
    "4",
    "5",
    "f",
    "a",
    "x",
    "X",
    "r",
    "e",
    "i",
    "plus",
    "c",
    "C",
    "m",
    "L",
    "R",
    "d",
    "t",
    "question_mark",
    "w",
    "u",
    "D",
    "p",
    "y",
    "ctrl+s",
    "backspace",
    "h",
    "l",
    "o",
    "v",
    "b",
    "z",
    "7",
    "full_stop",
    "minus",
]


@pytest.mark.whole
@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [200, pytest.param(10_000, marks=[pytest.mark.prove, pytest.mark.timeout(7200)], id="ten-thousand")]
)
async def test_nothing_that_is_pressed_brings_it_down(
    tmp_path_factory: pytest.TempPathFactory, home: Path, until: Until, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)  # it may write files
    chance = random.Random(1)
    with site(tmp_path_factory.mktemp("monkey")) as found:
        found.network("office")
        found.network("gate", approval=True)
        for name in ("server-1", "server-2", "server-3"):
            await off(found.join, "office", name)
        await off(found.join, "gate", "waits")
        app = app_at(found, home)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: app.desk is not None and app.desk.console.who is not None)
            for n in range(keys):
                await pilot.press(chance.choice(KEYS))
                if n % 50 == 49:
                    await pilot.resize_terminal(chance.choice((60, 80, 120, 200)), chance.choice((20, 24, 40, 60)))
            await asyncio.sleep(0)
            assert app.is_running
        assert app.return_code in (None, 0)
