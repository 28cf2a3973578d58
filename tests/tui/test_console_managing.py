"""People, logs, the audit log and templates, key by key, against a controller that runs as a process of its own."""

from __future__ import annotations

import csv
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from consolekit import QUICK, Shown, Site, app_at, off, screen_text, shows, site, totp
from textual.pilot import Pilot
from textual.widgets import Input
from tuikit import Until

from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.rest import ControllerClient, https_client
from shadowmesh.config.resolving import Given
from shadowmesh.config.roles import resolve_client
from shadowmesh.model import accounts
from shadowmesh.model.templates import TemplateCreate, TemplateSettings
from shadowmesh_tui.app import ShadowMeshApp, system_now
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.joinwindow import JoinWindow
from shadowmesh_tui.screens.dialogs import ConfirmScreen

PASSWORD = "the password of anna"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("managing")) as found:
        found.network("office")
        found.person("anna@example.org", PASSWORD, "owner", "office", admin=True)
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SHADOWMESH_DATA_DIR", "SHADOWMESH_CONTROLLER", "SHADOWMESH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)  # where files are written that nobody gave a place
    return tmp_path


async def on(app: ShadowMeshApp, pilot: Pilot[None], until: Until, key: str) -> Shown:
    """Has this main screen shown."""
    await until(pilot, lambda: app.desk is not None and app.desk.console.who is not None)
    await pilot.press(key)
    return shows(app, pilot, until)


def write(app: ShadowMeshApp, field: str, text: str) -> None:
    editor = app.screen.query_one(field, Input)
    editor.value = text
    editor.focus()


async def answer(app: ShadowMeshApp, pilot: Pilot[None], until: Until, *keys: str) -> str:
    """Presses these, says yes, and returns what was asked."""
    await pilot.press(*keys)
    await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
    asked = str(app.screen._question)  # type: ignore[attr-defined]
    await pilot.press("y")
    return asked


async def secret(app: ShadowMeshApp, pilot: Pilot[None], until: Until) -> str:
    """What is shown once, copied."""
    await until(pilot, lambda: isinstance(app.screen, CodeWindow))
    copied: list[str] = []
    app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
    await pilot.press("c", "escape")
    return copied[0]


def asked_as(there: Site, token: str, function: Callable[[ControllerClient], object]) -> object:
    with ControllerClient.remote(there.url, token, there.fingerprint) as client:
        return function(client)


async def test_a_person_from_the_invitation_to_the_end(there: Site, home: Path, until: Until) -> None:
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await on(app, pilot, until, "6")
        await shown("anna@example.org")
        await pilot.press("plus")
        await pilot.pause()
        write(app, "#field-email", "nobody")
        await pilot.press("ctrl+s")
        await shown("E-mail address: empty, or not of the right form.")
        write(app, "#field-email", "new@example.org")
        app.screen.query_one("#field-network").value = app.desk.console.network.network_id  # type: ignore[attr-defined,union-attr]
        await pilot.press("ctrl+s")
        command = await secret(app, pilot, until)
        token = command.split()[-1]
        assert token.startswith("smu_") and there.fingerprint in command
        await shown("invited")

        def accept() -> str:
            contact = first_contact(there.url, there.fingerprint)
            with ControllerClient(https_client(contact.url, "", contact.tls), contact.url) as client:
                wish = accounts.InvitationAcceptance(token=token, password=PASSWORD)
                return str(client._send("POST", "/auth/accept-invitation", wish).json()["access_token"])

        signed_in = str(await off(accept))
        with there.api() as client:
            seen = {u.email: u.last_seen for u in client.user_list()}
        assert seen["new@example.org"] is not None
        screen = app.screen
        screen.read()  # type: ignore[attr-defined]
        await until(pilot, lambda: "invited" not in screen_text(app) and "new@example.org" in screen_text(app))
        screen.table.go_to(next(k for k, r in screen._rows.items() if r.email == "new@example.org"))  # type: ignore[attr-defined]
        await pilot.press("enter")
        await shown("member")  # their role in the office
        await pilot.press("escape")
        assert "invites" in await answer(app, pilot, until, "D")
        await shown("disabled")
        with pytest.raises(Exception, match="not valid"):
            await off(asked_as, there, signed_in, lambda client: client.network_list())
        assert "sign in again" in await answer(app, pilot, until, "D")
        await shown("new@example.org: enabled.")
        assert "all on this controller" in await answer(app, pilot, until, "e")
        await shown("new@example.org: admin.")
        assert "API keys end" in await answer(app, pilot, until, "p")
        password = await secret(app, pilot, until)
        with there.api() as client:
            login = accounts.Login(email="new@example.org", password=password, new_password=PASSWORD)
            assert client._send("POST", "/auth/login", login).is_success
            user = next(u for u in client.user_list() if u.email == "new@example.org")
            assert user.admin and not user.disabled
        await pilot.press("X")
        await shown("for good")
        await pilot.press("ctrl+s")
        await shown("new@example.org: deleted.")
        with there.api() as client:
            assert "new@example.org" not in [u.email for u in client.user_list()]


async def test_who_is_no_administrator_has_what_is_theirs_and_sets_a_second_factor_up(
    there: Site, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.person("guest@example.org", PASSWORD, "guest", "office")
    with there.api() as client:
        login = accounts.Login(email="guest@example.org", password=PASSWORD)
        token = client._send("POST", "/auth/login", login).json()["access_token"]
    monkeypatch.setenv("SHADOWMESH_CONTROLLER", there.url)
    monkeypatch.setenv("SHADOWMESH_TOKEN", token)
    monkeypatch.setenv("SHADOWMESH_FINGERPRINT", there.fingerprint)
    app = ShadowMeshApp(home, refresh_s=0.02, retry_s=0.5, pace=QUICK, clock=system_now)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("c")
        shown = await on(app, pilot, until, "6")
        await shown("in office")
        top = screen_text(app).splitlines()[0]
        assert "people" in top and not any(word in top for word in ("audit", "logs", "templates"))
        assert "users" not in screen_text(app) and "+ Add" not in screen_text(app)
        await pilot.press("plus", "x", "e", "7", "8", "9", "right")
        await shown("this one")
        await pilot.press("F")
        await shown("No code is asked for")
        write(app, "#password", "wrong")
        await pilot.press("enter")
        await shown("password is wrong")
        write(app, "#password", PASSWORD)
        await pilot.press("enter")
        await shown("authenticator app")
        write(app, "#code", totp(app.screen.secret.secret))  # type: ignore[attr-defined]
        await pilot.press("enter")
        codes = (await secret(app, pilot, until)).splitlines()
        await shown("recovery codes are left")
        write(app, "#password", PASSWORD)
        write(app, "#code", codes[0])
        await pilot.click("#disable")
        await shown("No code is asked for any more.")
    with there.api() as client:
        assert not next(u for u in client.user_list() if u.email == "guest@example.org").second_factor


async def test_members_sessions_and_api_keys(there: Site, home: Path, until: Until) -> None:
    there.person("ben@example.org", PASSWORD)
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await on(app, pilot, until, "6")
        await shown("ben@example.org")
        await pilot.press("right")
        await shown("in office")
        await shown("own role")
        await pilot.press("plus")
        await pilot.pause()
        write(app, "#field-email", "ben@example.org")
        app.screen.query_one("#field-role").value = "guest"  # type: ignore[attr-defined]
        await pilot.press("ctrl+s")
        await shown("ben@example.org: guest.")
        app.screen.table.go_to("ben@example.org")  # type: ignore[attr-defined]
        assert "don't see it" in await answer(app, pilot, until, "x")
        await shown("no role any more.")
        with there.api() as client:
            assert "ben@example.org" not in [m.email for m in client.member_list("office")]
        await pilot.press("right")
        await until(pilot, lambda: any(r.session.user == "ben@example.org" for r in app.screen._rows.values()))  # type: ignore[attr-defined]
        bens = next(k for k, r in app.screen._rows.items() if r.session.user == "ben@example.org")  # type: ignore[attr-defined]
        app.screen.table.go_to(bens)  # type: ignore[attr-defined]
        assert "signed out at once" in await answer(app, pilot, until, "x")
        await shown("The session is ended.")
        with there.api() as client:
            assert client.session_list("ben@example.org") == []
        await pilot.press("right")
        await shown("whose")
        await pilot.press("plus")
        await pilot.pause()
        write(app, "#field-name", "monitor")
        write(app, "#field-scopes", "network.view logs.vieww")
        await pilot.press("ctrl+s")
        await shown("There is no permission logs.vieww.")
        write(app, "#field-scopes", "network.view logs.view")
        await pilot.press("ctrl+s")
        key = await secret(app, pilot, until)
        await shown("network.view")
        found = await off(asked_as, there, key, lambda client: [n.name for n in client.network_list()])
        assert found == ["office"]
        screen = app.screen
        await until(pilot, lambda: any(r.api_key.name == "monitor" for r in screen._rows.values()))  # type: ignore[attr-defined]
        screen.table.go_to(next(k for k, r in screen._rows.items() if r.api_key.name == "monitor"))  # type: ignore[attr-defined]
        assert "refused at once" in await answer(app, pilot, until, "x")
        await shown("monitor: revoked.")
        with pytest.raises(Exception, match="not valid"):
            await off(asked_as, there, key, lambda client: client.network_list())


async def test_a_log_is_followed_filtered_and_exported(there: Site, home: Path, until: Until) -> None:
    there.network("logged")
    first = await off(there.join, "logged", "server-1")
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await on(app, pilot, until, "7")
        assert app.desk is not None
        await until(pilot, lambda: any(n.name == "logged" for n in app.desk.console.networks.values()))  # type: ignore[union-attr]
        logged = next(n for n in app.desk.console.networks.values() if n.name == "logged")
        app.desk.console.choose(logged.network_id)
        app.screen.network_chosen()  # type: ignore[attr-defined]
        await shown("client_joined")
        async with first.online():  # type: ignore[attr-defined]
            await shown("client online")  # by itself
        await off(there.join, "logged", "laptop-2")
        await shown("laptop-2")
        await pilot.press("slash", *"laptop")
        await until(pilot, lambda: "client online" not in "\n".join(app.screen.table.lines()))  # type: ignore[attr-defined]
        assert "laptop-2" in screen_text(app)
        await pilot.press("escape", "T")
        await pilot.pause()
        write(app, "Input", "yesterday")
        await pilot.press("enter")
        await shown("Not understood")
        await pilot.press("T")
        await pilot.pause()
        write(app, "Input", "2020-01-01 .. 2020-01-02")
        await pilot.press("enter")
        await shown("Nothing happened in this time.")
        await pilot.press("t")
        await shown("the last 15 minutes")
        await shown("client_joined")
        for name, old in (("log.jsonl", ""), ("log.csv", "what was there")):
            path = home / name
            if old:
                path.write_text(old)
            await pilot.press("w")
            await pilot.pause()
            write(app, "Input", str(path))
            await pilot.press("enter")
            if old:
                await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
                assert path.read_text() == old
                await pilot.press("y")
            await until(pilot, lambda p=path, o=old: p.exists() and p.read_text() != o)  # type: ignore[misc]
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()]
    assert {"client_online"} <= {line["event_type"] for line in lines}
    assert len(list(csv.DictReader((home / "log.csv").open()))) >= len(lines)


async def test_the_audit_log_is_read_and_checked(there: Site, home: Path, until: Until) -> None:
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await on(app, pilot, until, "8")
        await shown("network.create")
        there.network("audited")
        await pilot.press("slash", *"network.create audited", "enter")
        await shown("1 of")
        await pilot.press("enter")
        await shown("hash")
        await pilot.press("escape", "v")
        await shown("the chain holds")


async def test_templates_are_made_written_read_and_deleted(there: Site, home: Path, until: Until) -> None:
    there.network("model", max_clients=17)
    with there.api() as client:
        client.template_create(
            TemplateCreate(name="handed", description="[/b] [red]", settings=TemplateSettings(max_clients=9))
        )
    app = app_at(there, home)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = await on(app, pilot, until, "9")
        await shown("5 built in, 1 of your own")
        assert app.desk is not None
        model = next(n for n in app.desk.console.networks.values() if n.name == "model")
        app.desk.console.choose(model.network_id)
        await pilot.press("plus")
        await pilot.pause()
        write(app, "#field-name", "handed")
        await pilot.press("ctrl+s")
        await shown("There is a template handed already.")
        write(app, "#field-name", "like-model")
        await pilot.press("ctrl+s")
        await shown("5 built in, 2 of your own")
        app.screen.table.go_to("like-model")  # type: ignore[attr-defined]
        await pilot.press("w")
        await pilot.pause()
        write(app, "Input", str(home / "t.yaml"))
        await pilot.press("enter")
        await shown("written.")
        assert "stay as they are" in await answer(app, pilot, until, "x")
        await shown("5 built in, 1 of your own")
        await pilot.press("i")
        await pilot.pause()
        write(app, "Input", str(home / "t.yaml"))
        await pilot.press("enter")
        await shown("Imported: like-model.")
        app.screen.table.go_to("office")  # type: ignore[attr-defined]
        await pilot.press("x")
        assert not isinstance(app.screen, ConfirmScreen)  # it is built in
        await pilot.press("1", "plus")
        await shown("new network")
        await until(pilot, lambda: "like-model" in app.screen._templates)  # type: ignore[attr-defined]
        app.screen.query_one("#template").value = "handed"  # type: ignore[attr-defined]
        await shown("handed: [/b] [red]")  # it is text, and no markup
    with there.api() as client:
        assert client.template_show("like-model").settings.max_clients == 17


async def test_a_machines_configuration_is_written(there: Site, home: Path, until: Until) -> None:
    app = app_at(there, home)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await on(app, pilot, until, "1")
        await until(pilot, lambda: app.desk is not None and app.desk.console.network is not None)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, JoinWindow))
        await pilot.press("question_mark")
        await shown("shadowmesh doctor")
        await pilot.press("escape", "d")
        await pilot.pause()
        path = home / "client-config.yaml"
        path.write_text("mine")
        write(app, "Input", str(path))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("n")
        assert path.read_text() == "mine"
        await pilot.press("enter", "y")
        await shown("written.")
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and there.fingerprint in text and there.url in text
    config = resolve_client(path, Given(environment={})).config
    assert config.controller.enabled and config.controller.fingerprint == there.fingerprint
