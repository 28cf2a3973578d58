"""`shadowmesh daemon …`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shadowmesh.cli import installing
from shadowmesh.cli.base import Call, new_app, verb
from shadowmesh.cli.configuring import ConfigFile, LogLevel, Set, flags
from shadowmesh.model.places import DEFAULT_STATE_DIR


def attach(app: typer.Typer) -> None:
    group = new_app("The client daemon.")
    verb(group, "run", ["daemon run", "daemon run --config /etc/shadowmesh/client-config.yaml"])(run)
    verb(
        group, "install", ["daemon install", "daemon install --config /etc/shadowmesh/client-config.yaml"], client=True
    )(install)
    verb(group, "reset-identity", "daemon reset-identity", client=True)(reset_identity)
    app.add_typer(group, name="daemon")


def run(
    call: Call,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar="SHADOWMESH_STATE_DIR",
            help=f"The daemon's directory on this host [default: {DEFAULT_STATE_DIR}].",
            readable=False,
            show_envvar=False,
        ),
    ] = None,
    config: ConfigFile = None,
    log_level: LogLevel = None,
    chosen: Set = None,
) -> None:
    """Run the client daemon in the foreground.

    With a --config whose `controller` section is enabled it enrols this machine there when it starts, once. What it is told is
    found, the first that says it: arguments, the environment (SHADOWMESH_…), the file.

    Its directory needs no backup: a machine that lost it joins by a new invite. A copy that runs elsewhere is the same
    machine twice, and refused.
    """
    from shadowmesh.daemon.app import run_daemon

    given = flags("client", chosen, log_level) if chosen or log_level else {}
    found = None
    if config is not None or given or _anything_set():
        from shadowmesh.config.resolving import Given
        from shadowmesh.config.roles import require_secrets, resolve_client

        found = resolve_client(config, Given(given))
        require_secrets(found)

    def set_up_log() -> None:
        from shadowmesh.cli.logs import set_up

        set_up(call, "info" if found is None else found.config.logging.level)
        if found is not None:
            import structlog

            for remark in found.remarks:
                structlog.get_logger("shadowmesh.daemon").warning("configuration", remark=str(remark))

    if found is None:
        run_daemon(state_dir or DEFAULT_STATE_DIR, set_up_log)
    else:
        from shadowmesh.daemon.options import options_in, own_enrolment

        where = state_dir or found.config.daemon.state_dir
        run_daemon(where, set_up_log, options_in(found.config), own_enrolment(found.config))


def _anything_set() -> bool:
    """Whether the environment may have a setting: else nothing is imported to look for one."""
    own = {"SHADOWMESH_STATE_DIR", "SHADOWMESH_PUMP", "SHADOWMESH_FWMARK", "SHADOWMESH_PUMP_THREADS"}
    return any(name.startswith("SHADOWMESH_") and name not in own for name in os.environ)


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
    config: ConfigFile = None,
    show: installing.Show = False,
    unit_dir: installing.UnitDir = None,
) -> None:
    """Have systemd start the daemon, now and with the machine."""
    from shadowmesh.serving.systemd import daemon_unit

    where: Path | None = call.state_dir
    if config is not None:
        from shadowmesh.config.roles import resolve_client

        if resolve_client(config).given("daemon.state_dir") and where == DEFAULT_STATE_DIR:
            where = None
    unit = daemon_unit(installing.program(), where, config)
    installing.install(call, "daemon", unit, show=show, unit_dir=unit_dir)
