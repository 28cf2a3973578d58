"""`shadowmesh daemon …`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from shadowmesh.cli.base import Call, new_app, verb


def attach(app: typer.Typer) -> None:
    group = new_app("The client daemon.")
    verb(group, "run", "daemon run", client=True)(run)
    verb(group, "install", ["daemon install", "daemon install --print"], client=True)(install)
    verb(group, "reset-identity", "daemon reset-identity", client=True)(reset_identity)
    app.add_typer(group, name="daemon")


def run(call: Call) -> None:
    """Run the client daemon in the foreground.

    Its directory needs no backup: a machine that lost it joins by a new invite. A copy that runs elsewhere is the same
    machine twice, and refused.
    """
    from shadowmesh.daemon.app import run_daemon

    def set_up_log() -> None:
        from shadowmesh.cli.logs import set_up

        set_up(call)

    run_daemon(call.state_dir, set_up_log)


def reset_identity(call: Call) -> None:
    """Make this machine another one: for a copy of a machine that goes on elsewhere. Forgets its networks, keys too."""
    from shadowmesh.client_api.local import DaemonClient
    from shadowmesh.model.errors import ShadowMeshError

    call.confirm("forget this machine's identity and all its networks?")
    try:
        names = DaemonClient(call.state_dir).call("reset_identity")["networks"]
    except ShadowMeshError as error:
        if error.code != "daemon_unreachable":
            raise
        from shadowmesh.daemon.state import State

        state = State(call.state_dir)
        try:
            names = [n.name for n in state.networks()]
            state.reset_identity()
        finally:
            state.close()
    left = f"; join again with an invite: {', '.join(names)}" if names else ""
    call.done("daemon-reset-identity/1", {"networks": names}, f"this machine has a new identity{left}")


def install(
    call: Call,
    show: Annotated[bool, typer.Option("--print", help="Print the unit file, change nothing.")] = False,
    unit_dir: Annotated[
        Path | None, typer.Option("--unit-dir", help="Write it there, and don't start it (for images).")
    ] = None,
) -> None:
    """Have systemd start the daemon, now and with the machine."""
    from shadowmesh.daemon import unit

    text = unit.unit_text(_program(), call.state_dir)
    if show:
        call.done("daemon-unit/1", {"name": unit.NAME, "unit": text}, text.rstrip())
        return
    path, started = unit.install(text, unit_dir or unit.UNIT_DIR)
    call.done(
        "daemon-install/1",
        {"path": str(path), "started": started},
        f"{path}: written{' and started' if started else '; systemd was not asked to start it'}",
    )


def _program() -> tuple[str, ...]:
    """How this very program is started: the single binary, the console script, or the module."""
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    script = shutil.which(sys.argv[0])
    if script is not None and Path(script).name == "shadowmesh":
        return (str(Path(script).absolute()),)
    return (sys.executable, "-m", "shadowmesh")
