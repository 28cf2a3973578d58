from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

sys.path.insert(0, str(Path(__file__).parent))

import tui_scenarios as scenarios
from fake_daemon import FakeDaemon

from shadowmesh.model.clock import Now
from shadowmesh_tui.app import ShadowMeshApp


class SteppingClock:
    """A second passes with each look at it, so that the n-th status comes n seconds after the first."""

    def __init__(self) -> None:
        self._looks = -1

    def __call__(self) -> Now:
        self._looks += 1
        return Now(1000.0 + self._looks, scenarios.START + self._looks)


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


def new_app(state_dir: Path) -> ShadowMeshApp:
    return ShadowMeshApp(state_dir, clock=SteppingClock(), retry_s=0.05, refresh_s=0.05)


Until = Callable[[Pilot[None], Callable[[], bool]], Awaitable[None]]


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
