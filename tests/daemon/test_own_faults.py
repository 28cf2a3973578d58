"""A fault of the daemon's own: what it happens to is tried again and logged, and all else goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, controller, until
from structlog.testing import capture_logs

from shadowmesh.engine import PathChanged
from shadowmesh.model.clock import Now
from shadowmesh.model.pump import Wants


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


class Faulty:
    """What is always due, and can't do what is due."""

    def __init__(self) -> None:
        self.queued_at = inf
        self.turns = 0

    def deadline(self) -> float:
        return 0.0

    def on_timer(self, now: Now) -> None:
        self.turns += 1
        raise ZeroDivisionError


async def test_what_raises_at_its_turn_stops_nothing_and_is_logged_once(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shadowmesh.engine.timers.AGAIN", 0.02)
    a, b = await there.member("a"), await there.member("b")
    bad = Faulty()
    with capture_logs() as logged:
        a.daemon.mesh.node.timers.schedule(bad)
        a.daemon.mesh.poke()
        await until(lambda: bad.turns > 5)
        assert await a.reaches(b)
    assert Counter(entry["event"] for entry in logged)["a turn of Faulty failed; all else goes on"] == 1


async def test_an_event_that_cant_be_taken_stops_none_of_the_others(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one of the pump's nor one of the Node's: the timer is set, and those after it are taken."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    a, b = await there.member("a"), await there.member("b")
    node, mesh = a.daemon.mesh.node, a.daemon.mesh
    on_event = mesh._on_event
    monkeypatch.setattr(mesh, "_on_event", lambda e: fail() if isinstance(e, PathChanged) else on_event(e))
    monkeypatch.setitem(node._handlers, Wants, fail)
    with capture_logs() as logged:
        assert not await a.reaches(b, patience=0.2)
        assert await b.reaches(a)
        assert await a.reaches(b)
    events = {entry["event"] for entry in logged}
    assert {"taking Wants failed; all else goes on", "taking PathChanged failed; all else goes on"} <= events
