"""Topology, relays and usage of a controller that runs as a process of its own, key by key."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from clikit import Running, start
from consolekit import Machine, Site, app_at, off, screen_text, shows, site
from freeport import free_port
from textual.widgets import Input
from tuikit import Until

from shadowmesh.model import accounts, api
from shadowmesh.model.devicelink import Health, PeerHealth
from shadowmesh.model.ids import ClientID
from shadowmesh.model.usage import PlanPut
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.console.relayscreen import RelaysScreen
from shadowmesh_tui.screens.console.topologyscreen import NetworkTopologyScreen
from shadowmesh_tui.screens.console.usagescreen import UsageScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen

PASSWORD = "the password of gus"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("networks")) as found:
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are written that are given by a name alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SHADOWMESH_DATA_DIR", "SHADOWMESH_CONTROLLER", "SHADOWMESH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def relay(found: Site, home: Path, name: str) -> Iterator[Running]:
    """One that runs, as a process of its own."""
    with found.api() as client:
        token = client.relay_token(api.RelayTokenCreate()).token
    address = f"127.0.0.1:{free_port()}"
    running = start(
        home, "relay", "run", "--public-url", f"ws://{address}", "--listen", address, "--no-udp", "--token", token,
        "--data-dir", home / name, "--controller", found.url, "--fingerprint", found.fingerprint, "--name", name,
        "--region", "testland",
    )  # fmt: skip
    try:
        running.until("linked to the controller")
        yield running
    finally:
        running.stop()


def health(of: Machine, peer: Machine, moved: int) -> Health:
    """It talks directly to this one, and was sent so many bytes by it."""
    assert of.result is not None
    told = PeerHealth(peer=ClientID(peer.client_id), reason="direct.lan", latency_ms=12.5, rx_bytes=moved)
    return Health(network_id=of.result.answer.network_id, whole=True, direct=1, latency_ms=12.5, peers=(told,))


async def test_a_network_is_walked_through_focused_on_drawn_and_its_use_written_down(
    there: Site, home: Path, until: Until
) -> None:
    there.network("mesh", reports="full")
    one, two, _three = [await off(there.join, "mesh", name) for name in ("one", "two", "three")]
    assert isinstance(one, Machine) and isinstance(two, Machine)
    with there.api() as client:
        client.plan_set("small", PlanPut(monthly_bytes=1000))
        client.plan_assign("mesh", "small")
    app = app_at(there, home)
    async with one.online() as link, app.run_test(size=(120, 40), notifications=True) as pilot:
        shown = shows(app, pilot, until)
        await until(pilot, lambda: app.desk is not None and app.desk.console.who is not None)
        await pilot.press("3")
        await shown("1 of 3 online")
        assert isinstance(app.screen, NetworkTopologyScreen)
        assert link.post(health(one, two, 850))
        await shown("1 direct")
        await pilot.press("slash", *"two", "enter")
        await shown("1 found")
        await shown("12.5 ms")
        await pilot.press("f")
        await shown("focus: two")
        assert "three" not in screen_text(app)
        await pilot.press("e")
        app.screen.query_one(Input).value = "mesh.gif"
        await pilot.press("enter")
        await shown("End it in .svg, .png or .dot.")
        app.screen.query_one(Input).value = "mesh.svg"
        await pilot.press("enter")
        await shown("mesh.svg: 3 nodes, 1 links.")
        drawn = ElementTree.parse(home / "mesh.svg").getroot()
        ids = {e.get("data-id") for e in drawn.iter() if "node" in e.get("class", "").split()}
        assert ids == {one.client_id, two.client_id, there.url}
        await pilot.press("e", "enter")
        await shown("Replace it?")
        await pilot.press("n", "escape", "escape", "escape")  # the question, the window, the filter, the focus
        await shown("three")
        await pilot.press("g", "enter")
        await until(pilot, lambda: isinstance(app.screen, ClientWindow))
        await pilot.press("escape", "5")
        await shown("85 %")
        await shown("! over 80 %")
        assert isinstance(app.screen, UsageScreen)
        await pilot.press("t")
        await shown("by client and day")
        await pilot.press("v", "v")
        await shown("! mesh 85 % of the plan")
        await pilot.press("v", "e")
        app.screen.query_one(Input).value = "used.csv"
        await pilot.press("enter")
        await shown("used.csv: 2 lines.")
    lines = list(csv.DictReader((home / "used.csv").read_text().splitlines()))
    assert {line["client"]: int(line["direct_received"]) for line in lines} == {"one": 850, "two": 0}


async def test_a_relay_is_drained_put_back_and_removed(there: Site, home: Path, until: Until) -> None:
    there.network("relayed")
    with relay(there, home, "hub"):
        app = app_at(there, home)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            shown = shows(app, pilot, until)
            await until(pilot, lambda: app.desk is not None and app.desk.console.who is not None)
            await pilot.press("4")
            await shown("● online")
            await shown("testland")
            await pilot.press("u")
            assert isinstance(app.screen, RelaysScreen), "it isn't drained"
            await pilot.press("d")
            assert isinstance(app.screen, ConfirmScreen)
            await shown("No other relay is in use")
            await pilot.press("n", "d", "y")
            await shown("◌ draining")
            await pilot.press("u")
            await shown("● online")
            await pilot.press("x", "y")
            await shown("There is no relay.")
    with there.api() as client:
        assert client.relay_list() == []


async def test_a_guest_sees_who_is_there_and_changes_no_relay(
    there: Site, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.network("watched")
    await off(there.join, "watched", "server-1")
    there.person("gus@example.org", PASSWORD, "guest", "watched")
    with there.api() as client:
        login = accounts.Login(email="gus@example.org", password=PASSWORD)
        token = client._send("POST", "/auth/login", login).json()["access_token"]
    monkeypatch.setenv("SHADOWMESH_CONTROLLER", there.url)
    monkeypatch.setenv("SHADOWMESH_TOKEN", token)
    monkeypatch.setenv("SHADOWMESH_FINGERPRINT", there.fingerprint)
    with relay(there, home, "seen"):
        app = ShadowMeshApp(home, refresh_s=0.02, retry_s=0.5)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            shown = shows(app, pilot, until)
            app.look_at(Context("environment", there.url))
            await shown("server-1")
            assert "usage" not in screen_text(app).splitlines()[0]
            await pilot.press("5", "4")
            await shown("seen")
            for key in ("d", "u", "x"):
                await pilot.press(key)
                assert isinstance(app.screen, RelaysScreen), key
            await pilot.press("3")
            await shown("your role isn't told who is connected")
            await shown("server-1")
