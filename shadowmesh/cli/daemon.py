"""`shadowmesh daemon …`."""

from __future__ import annotations

import typer

from shadowmesh.cli.base import Call, new_app, verb


def attach(app: typer.Typer) -> None:
    group = new_app("The client daemon.")
    verb(group, "run", client=True)(run)
    app.add_typer(group, name="daemon")


def run(call: Call) -> None:
    """Run the client daemon in the foreground."""
    from shadowmesh.cli.logs import set_up
    from shadowmesh.daemon.app import run_daemon

    set_up(call)
    run_daemon(call.state_dir)
