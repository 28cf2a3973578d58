"""Where the roles keep what is theirs on a host, unless they are told otherwise."""

from __future__ import annotations

from pathlib import Path

DEFAULT_STATE_DIR = Path("/var/lib/shadowmesh")
DEFAULT_DATA_DIR = Path("/var/lib/shadowmesh-controller")
DEFAULT_RELAY_DIR = Path("/var/lib/shadowmesh-relay")
