"""What `daemon install`, `controller install` and `relay install` share: how this program is started, and what is told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli.base import Call
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.serving.systemd import Unit

Show = Annotated[bool, typer.Option("--print", help="Print the unit file, change nothing.")]
UnitDir = Annotated[Path | None, typer.Option("--unit-dir", help="Write it there, and don't start it (for images).")]
User = Annotated[str, typer.Option("--user", help="Whom the service runs as; made if it isn't there.")]


def program() -> tuple[str, ...]:
    """How this very program is started: the single binary, the console script, or the module."""
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    script = shutil.which(sys.argv[0])
    if script is not None and Path(script).name == "shadowmesh":
        return (str(Path(script).absolute()),)
    return (sys.executable, "-m", "shadowmesh")


def install(call: Call, role: str, unit: Unit, *, show: bool, unit_dir: Path | None) -> None:
    """Prints the unit of a role, or writes it, and starts it where that is meant."""
    from shadowmesh.serving import systemd

    if show:
        call.done(f"{role}-unit/1", {"name": unit.name, "unit": unit.text}, unit.text.rstrip())
        return
    path, started = systemd.install(unit, unit_dir)
    call.done(
        f"{role}-install/1",
        {"path": str(path), "started": started},
        f"{path}: written{' and started' if started else '; systemd was not asked to start it'}",
    )


def check_not_running(role: str, lock: Path) -> None:
    """Raises ShadowMeshError(CONFLICT) where the role runs already, as another user perhaps."""
    from shadowmesh.client_api.starting import is_locked

    if is_locked(lock):
        raise ShadowMeshError(
            f"{role}_running",
            f"the {role} in {lock.parent} runs already",
            "end it, and say this again: systemd starts it then",
            kind=Kind.CONFLICT,
        )
