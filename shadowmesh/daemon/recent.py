"""`STATE_DIR/recent.json`: whom this machine talked with lately, so that they hear it at once after a restart.

A file of its own, written often and never synced: an old one, or none, costs a few seconds after a start and nothing else.
It holds addresses, no keys.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import structlog

from shadowmesh.engine import WarmStart
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.serving.files import write_private

log = structlog.get_logger(__name__)

NAME = "recent.json"
LOOK = 2.0  # seconds between two looks at what has changed
LOOK_SOON = 0.25  # the same after a handshake: often with one who isn't known here yet
RENEW = 20.0  # seconds after which times alone are worth writing
MAX_BYTES = 4 << 20


class RecentFile:
    """One per state directory. Nothing here raises."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._kept = WarmStart()

    def read(self) -> WarmStart | None:
        """What was kept last, None if there is nothing to go by."""
        try:
            with self._path.open("rb") as file:
                self._kept = from_json(file.read(MAX_BYTES), WarmStart)
                return self._kept
        except FileNotFoundError:
            return None
        except (OSError, MalformedError) as e:
            log.warning("recent peers are not known", why=str(e))
            return None

    def keep(self, warm_start: WarmStart) -> None:
        """Writes it if others, or others' ways, are in it than before, or if its times have grown old."""
        if _without_times(warm_start) == _without_times(self._kept):
            before = {peer.client_id: peer.at for peer in self._kept.peers}
            if all(abs(peer.at - before[peer.client_id]) < RENEW for peer in warm_start.peers):
                return
        try:
            write_private(self._path, to_json(warm_start), synced=False)
        except OSError as e:
            log.debug("recent peers are not kept", why=e.strerror)
            return
        self._kept = warm_start


def _without_times(warm_start: WarmStart) -> object:
    return {replace(peer, at=0.0) for peer in warm_start.peers}, warm_start.streams
