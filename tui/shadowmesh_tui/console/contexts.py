"""Which controllers there are to look at from here: the one of this host, that of the environment, those signed in to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shadowmesh.client_api import logins
from shadowmesh.client_api.localhttp import SOCKET_NAME
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_DATA_DIR

ContextKind = Literal["local", "environment", "login"]
_WORDS: dict[ContextKind, str] = {
    "local": "the controller of this host; may do all",
    "environment": "by SHADOWMESH_CONTROLLER and SHADOWMESH_TOKEN",
    "login": "signed in",
}


@dataclass(frozen=True, slots=True)
class Context:
    """A controller, and by what one gets to it. `place` is a data directory, or a URL."""

    kind: ContextKind
    place: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.place}"

    @property
    def name(self) -> str:
        """As a title bar has it."""
        return self.place.removeprefix("https://") if self.kind != "local" else "this host"

    @property
    def words(self) -> str:
        return _WORDS[self.kind]

    def open(self) -> ControllerClient:
        """Blocks. Raises ShadowMeshError."""
        if self.kind == "local":
            return ControllerClient.local(Path(self.place))
        if self.kind == "login":
            return ControllerClient.saved(self.place)
        token = os.environ.get("SHADOWMESH_TOKEN")
        if not token:
            remedy = "set both, and start again"
            what = "SHADOWMESH_CONTROLLER is set, SHADOWMESH_TOKEN isn't"
            raise ShadowMeshError("no_token", what, remedy, kind=Kind.NOT_ALLOWED)
        return ControllerClient.remote(self.place, token, os.environ.get("SHADOWMESH_FINGERPRINT"))


def contexts(data_dir: Path | None = None, environ: Mapping[str, str] = os.environ) -> list[Context]:
    """In the order in which commands choose among them. Blocks, but for moments: it looks at files of this host."""
    if data_dir is None and environ.get("SHADOWMESH_DATA_DIR"):
        data_dir = Path(environ["SHADOWMESH_DATA_DIR"])
    found = [] if data_dir is None else [Context("local", str(data_dir))]
    if environ.get("SHADOWMESH_CONTROLLER"):
        found.append(Context("environment", environ["SHADOWMESH_CONTROLLER"]))
    found += [Context("login", login.url) for login in logins.known()]
    if data_dir is None and _is_there(DEFAULT_DATA_DIR):
        found.append(Context("local", str(DEFAULT_DATA_DIR)))
    return found


def _is_there(data_dir: Path) -> bool:
    """Whether a controller of this host that one may ask has run there."""
    try:
        return (data_dir / SOCKET_NAME).exists()
    except OSError:
        return False
