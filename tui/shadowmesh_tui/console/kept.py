"""What the app keeps between two runs: which hat was on, which controller, its screen, network and order. Never a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from shadowmesh.serving.files import write_private

_MOST = 50


class KeptContext(BaseModel):
    """How a controller was looked at last."""

    screen: str | None = None
    network: str | None = None
    sort: str = "name"
    descending: bool = False


class Kept(BaseModel):
    """`context`: the key of the controller that was looked at; None: this machine was."""

    context: str | None = None
    contexts: dict[str, KeptContext] = Field(default_factory=dict)

    def of(self, key: str) -> KeptContext:
        """Of this controller; the newest stand last, and the oldest go."""
        found = self.contexts.pop(key, None) or KeptContext()
        self.contexts[key] = found
        for old in list(self.contexts)[:-_MOST]:
            del self.contexts[old]
        return found


def kept_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_STATE_HOME/shadowmesh/tui.json`."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "shadowmesh" / "tui.json"


def load(path: Path | None) -> Kept:
    """What can't be read is as if nothing had been kept."""
    with suppress(OSError, ValidationError):
        if path is not None:
            return Kept.model_validate_json(path.read_bytes())
    return Kept()


def save(path: Path | None, kept: Kept) -> None:
    """Where it can't be written the next run begins as the first did."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, kept.model_dump_json().encode())
