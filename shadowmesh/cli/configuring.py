"""What the verbs share that take a configuration: `--config FILE`, and `--set KEY=VALUE` for every key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli.base import read_secret
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.config.resolving import Flag, Resolved

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file with settings; `shadowmesh config example ROLE` prints one.", readable=False
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting, over environment and file; repeats. A secret only as KEY=@FILE."
    ),
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error: logging.level.")
]


def files_of(found: Resolved[Any], config: Path) -> list[Path]:
    """The file, and those that it names."""
    named = [v for path, v in found.values.items() if isinstance(v, Path) and path.endswith("_file")]
    return [config.absolute(), *named]


def flags(role: str, chosen: Sequence[str] | None, level: str | None = None) -> dict[str, Flag]:
    """The settings that arguments name, by path, with the argument each came by. Raises ShadowMeshError(wrong_use)."""
    from shadowmesh.config.coercion import nearest
    from shadowmesh.config.resolving import Flag
    from shadowmesh.config.roles import role_named
    from shadowmesh.config.setting import settings_of

    settings = settings_of(role_named(role).configuration)
    found: dict[str, Flag] = {}
    for item in chosen or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise _wrong(f"--set {item} has no value", "write it as --set KEY=VALUE")
        if key not in settings:
            near = nearest(key, list(settings)) or next((p for p in settings if p.endswith("." + key)), None)
            raise _wrong(
                f"--set: there is no key {key!r}",
                f"did you mean {near}?" if near else "see `shadowmesh config example`",
            )
        if settings[key].secret:
            if not value.startswith("@") and value != "-":
                raise _wrong(
                    f"--set {key}: arguments are seen by others", f"say {key}=@FILE, or use {settings[key].environment}"
                )
            value = read_secret(value, key)
        found[key] = Flag(value, f"--set {key}")
    if level is not None:
        found["logging.level"] = Flag(level, "--log-level")
    return found


def _wrong(what: str, remedy: str) -> ShadowMeshError:
    return ShadowMeshError("wrong_use", what, remedy, kind=Kind.USAGE)
