from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tui_scenarios as scenarios
from fake_daemon import FakeDaemon
from textual.pilot import Pilot
from tuikit import Until, new_app

from shadowmesh_tui.app import ShadowMeshApp


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def daemon(state_dir: Path) -> Iterator[FakeDaemon]:
    """The office, running."""
    with FakeDaemon(state_dir, scenarios.office(4)) as running:
        for peer in scenarios.office_peers(3):
            running.whys[peer.client_id] = scenarios.why_of(peer)
        running.pings["cli_0001"] = scenarios.answers(0.41, 0.39, None, 0.44, 0.40)
        yield running


@pytest.fixture
def app(state_dir: Path) -> ShadowMeshApp:
    return new_app(state_dir)


@pytest.fixture
def until() -> Until:
    """Waits for a condition that comes true with messages of the app and the daemon; fails after 10 s."""

    async def wait(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("it did not come true within 10 s")
            await pilot.pause(0.01)
        await pilot.pause()

    return wait
