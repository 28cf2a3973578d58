"""The app as the tests start it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import tui_scenarios as scenarios
from textual.pilot import Pilot

from shadowmesh.model.clock import Now
from shadowmesh_tui.app import ShadowMeshApp

Until = Callable[[Pilot[None], Callable[[], bool]], Awaitable[None]]


class SteppingClock:
    """A second passes with each look at it, so that the n-th status comes n seconds after the first."""

    def __init__(self) -> None:
        self._looks = -1

    def __call__(self) -> Now:
        self._looks += 1
        return Now(1000.0 + self._looks, scenarios.START + self._looks)


def new_app(state_dir: Path, *, plain: bool = False) -> ShadowMeshApp:
    return ShadowMeshApp(state_dir, clock=SteppingClock(), retry_s=0.05, refresh_s=0.05, plain=plain)
