"""`shadowmesh doctor`."""

from __future__ import annotations

import typer

from shadowmesh.cli.base import Call, verb


def attach(app: typer.Typer) -> None:
    verb(app, "doctor", "doctor", client=True)(doctor)


def doctor(call: Call) -> None:
    """What this machine needs to carry networks, one line each: exit code 0 when all is ok, else 1."""
    from shadowmesh.daemon.doctor import examine

    checks = []
    for check in examine(call.state_dir):
        checks.append(check)
        if not call.json:
            remedy = f"; {check.remedy}" if check.remedy else ""
            call.line(check, f"{check.state:<4}  {check.name}: {check.what}{remedy}")
    healthy = all(check.state == "ok" for check in checks)
    if call.json:
        call.done("doctor/1", {"ok": healthy, "checks": checks})
    raise typer.Exit(0 if healthy else 1)
