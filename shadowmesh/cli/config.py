"""`shadowmesh config …`: what a file says, what is in force and why, what may be set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shadowmesh.cli.base import Call, new_app, table, verb
from shadowmesh.cli.configuring import ConfigFile, Set, flags

ROLE_HELP = "controller, client or relay"
RoleName = Annotated[str, typer.Argument(metavar="ROLE", help=f"{ROLE_HELP}.")]


def attach(app: typer.Typer) -> None:
    group = new_app("The roles' configuration files: check one, see what is in force, get an example.")
    verb(
        group,
        "check",
        ["config check /etc/shadowmesh/controller-config.yaml", "config check client.yaml --role client"],
    )(check)
    verb(
        group,
        "show",
        ["config show controller", "config show client --config /etc/shadowmesh/client-config.yaml"],
    )(show)
    verb(group, "example", "config example controller > controller-config.yaml")(example)
    app.add_typer(group, name="config")


def check(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file.", readable=False)],
    role: Annotated[
        str | None, typer.Option("--role", help=f"{ROLE_HELP}; told by the file's name or keys otherwise.")
    ] = None,
) -> None:
    """Say what is wrong with a configuration file, each mistake with its line; nothing is changed.

    What the file names and this host doesn't have (a certificate, a secret) is a warning: the file may be for another one. With
    a mistake the exit code is 2.
    """
    from shadowmesh.config.resolving import Given
    from shadowmesh.config.roles import not_here, resolve_role, role_named, whose

    chosen = role_named(role) if role is not None else whose(file)
    found = resolve_role(chosen, file, Given())
    warnings = [str(remark) for remark in (*found.remarks, *not_here(found, chosen))]
    number = sum(origin.kind == "file" for origin in found.origins.values())
    good = f"{file}: good for a {chosen.name}, {number} {'setting' if number == 1 else 'settings'}"
    call.done(
        "config-check/1",
        {"file": str(file), "role": chosen.name, "settings": number, "warnings": warnings},
        "\n".join([*(f"warning: {warning}" for warning in warnings), good]),
    )


def show(
    call: Call,
    role: Annotated[
        str | None,
        typer.Argument(metavar="ROLE", help=f"{ROLE_HELP}; without it the one that the file, or this host, has."),
    ] = None,
    config: ConfigFile = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", "--state-dir", help="The role's directory.", readable=False)
    ] = None,
    chosen: Set = None,
) -> None:
    """Show each setting as a role would run with it here, and where it comes from; secrets are hidden."""
    from shadowmesh.config.roles import role_named, shown, whose

    which = role_named(role) if role is not None else whose(config) if config is not None else _here()
    given = flags(which.name, chosen)
    if data_dir is not None:
        from shadowmesh.config.resolving import Flag

        given[which.directory] = Flag(data_dir, "--data-dir", checked=True)
    found = _resolved(which.name, config, given)
    rows = {
        path: {"value": shown(_at(found.config, path)), "from": origin.where, "kind": origin.kind}
        for path, origin in found.origins.items()
    }
    warnings = [str(remark) for remark in found.remarks]
    for path, looked in found.absent.items():
        warnings.append(f"{path}: the secret is not here; it is looked for in {looked}")
        rows[path] |= {"value": None, "from": "missing", "kind": "missing"}
    call.done(
        "config-show/1",
        {"role": which.name, "settings": rows, "warnings": warnings},
        lambda: "\n".join(
            [
                table(
                    ("KEY", "VALUE", "FROM"), ((path, _plain(row["value"]), row["from"]) for path, row in rows.items())
                ),
                *(f"warning: {warning}" for warning in warnings),
            ]
        ),
    )


def example(call: Call, role: RoleName) -> None:
    """Print a file with every setting of a role, each with what it does; it passes `config check` as it is."""
    from shadowmesh.config.roles import example as text_of
    from shadowmesh.config.roles import role_named

    chosen = role_named(role)
    text = text_of(chosen)
    call.done("config-example/1", {"role": chosen.name, "file": chosen.file_name, "text": text}, text.rstrip("\n"))


def _resolved(role: str, config: Path | None, given: dict[str, Any]) -> Any:
    """As the role's `run` finds it; a controller's directory says the rest."""
    from shadowmesh.config.resolving import Given
    from shadowmesh.config.roles import resolve_role, role_named

    found = resolve_role(role_named(role), config, Given(given))
    if role != "controller":
        return found
    from shadowmesh.controller.configured import kept_values
    from shadowmesh.controller.settings import DataDir

    where = DataDir(found.config.controller.data_dir)
    if not where.config.exists():
        return found
    kept = kept_values(where, where.read())
    return resolve_role(role_named(role), config, Given(given, kept=kept, kept_in=str(where.config)))


def _here() -> Any:
    """The role whose directory is on this host."""
    import os

    from shadowmesh.config.roles import ROLES

    told = Path(os.environ.get("SHADOWMESH_DATA_DIR") or "/nonexistent")
    for name, file in (("controller", "controller.json"), ("relay", "relay.json")):
        if (told / file).exists():
            return ROLES[name]
    return next((role for role in ROLES.values() if role.default_directory.exists()), ROLES["client"])


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
