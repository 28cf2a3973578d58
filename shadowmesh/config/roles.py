"""The roles that have a configuration: resolving one with all its remarks, telling whose a file is, an example file of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import shadowmesh.config.clientconfig as client
import shadowmesh.config.controllerconfig as controller
import shadowmesh.config.relayconfig as relay
from shadowmesh.config.clientconfig import ClientConfig
from shadowmesh.config.controllerconfig import ControllerConfig
from shadowmesh.config.relayconfig import RelayConfig
from shadowmesh.config.resolving import ELSEWHERE, OTHERS, Given, Remark, Resolved, bad_config, resolve
from shadowmesh.config.setting import Setting, sections_of, settings_of
from shadowmesh.config.yamlfile import read_text, top_words
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.places import DEFAULT_DATA_DIR, DEFAULT_RELAY_DIR, DEFAULT_STATE_DIR


@dataclass(frozen=True, slots=True)
class Role:
    """`directory`: the path of the setting that says where its files are."""

    name: str
    configuration: type
    remarks: Callable[[Any], list[Remark]]
    file_name: str
    directory: str
    default_directory: Path


ROLES = {
    role.name: role
    for role in (
        Role("controller", ControllerConfig, controller.remarks, "controller-config.yaml", "controller.data_dir", DEFAULT_DATA_DIR),
        Role("client", ClientConfig, client.remarks, "client-config.yaml", "daemon.state_dir", DEFAULT_STATE_DIR),
        Role("relay", RelayConfig, relay.remarks, "relay-config.yaml", "relay.data_dir", DEFAULT_RELAY_DIR),
    )
}  # fmt: skip

OTHERS.update(
    name
    for role in ROLES.values()
    for setting in settings_of(role.configuration).values()
    for name in (setting.environment, *setting.says.environment)
)


def role_named(name: str) -> Role:
    """Raises ShadowMeshError(unknown_role)."""
    found = ROLES.get({"daemon": "client"}.get(name, name))
    if found is None:
        raise ShadowMeshError(
            "unknown_role", f"there is no role {name!r}", f"say one of {', '.join(ROLES)}", kind=Kind.USAGE
        )
    return found


def whose(file: Path) -> Role:
    """The role that a file is for: by its name, else by its keys."""
    text = read_text(file)
    for role in ROLES.values():
        if file.stem.lower().startswith((role.name, "daemon" if role.name == "client" else role.name)):
            return role
    words = top_words(text)

    def known(role: Role) -> int:
        return sum(word in settings_of(role.configuration) for word in words)

    return max(ROLES.values(), key=known)


def resolve_controller(file: Path | None, given: Given | None = None) -> Resolved[ControllerConfig]:
    return cast(Resolved[ControllerConfig], resolve_role(ROLES["controller"], file, given))


def resolve_client(file: Path | None, given: Given | None = None) -> Resolved[ClientConfig]:
    return cast(Resolved[ClientConfig], resolve_role(ROLES["client"], file, given))


def resolve_relay(file: Path | None, given: Given | None = None) -> Resolved[RelayConfig]:
    return cast(Resolved[RelayConfig], resolve_role(ROLES["relay"], file, given))


def resolve_role(role: Role, file: Path | None, given: Given | None = None) -> Resolved[Any]:
    """With the remarks that keys make on one another. Raises ShadowMeshError(bad_config) with all that is wrong."""
    found: Resolved[Any] = resolve(role.configuration, file, given)
    every = [*found.remarks, *role.remarks(found)]
    if wrong := [remark for remark in every if remark.error]:
        raise bad_config(wrong)
    return Resolved(found.config, found.values, found.origins, found.absent, tuple(every))


def require_secrets(found: Resolved[Any]) -> None:
    """Raises ShadowMeshError(secret_missing) where a secret that was said to be elsewhere isn't there."""
    for path, looked in found.absent.items():
        raise ShadowMeshError(
            "secret_missing",
            f"{found.where(path)}: the secret is not there; it was looked for in {looked}",
            "put it there, or take the key out",
            kind=Kind.USAGE,
        )


def not_here(found: Resolved[Any], role: Role) -> list[Remark]:
    """What a configuration names and this host, as it is now, doesn't have."""
    out = []
    for path, looked in found.absent.items():
        out.append(Remark(found.where(path), f"the secret is not here; it is looked for in {looked}"))
    for path, value in found.values.items():
        setting = settings_of(role.configuration)[path]
        if isinstance(value, Path) and setting.name.endswith("_file"):
            try:
                value.open("rb").close()
            except OSError as e:
                out.append(Remark(found.where(path), f"{value} can't be read here ({e.strerror})"))
    return out


def shown(value: Any) -> Any:
    """A value as it may be printed."""
    if isinstance(value, float):
        return _duration(value)
    if isinstance(value, Secret):
        return "***"
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def example(role: Role) -> str:
    """A file with every key: what is usual as lines, the rest commented out with its default or an example."""
    return "\n".join(_example(role)) + "\n"


def _example(role: Role) -> Iterator[str]:
    yield f"# {role.file_name}: every setting of a {role.name}; lines that are commented out show defaults or examples."
    yield "# Each is also an environment variable (named beside it), and `--set KEY=VALUE` of `run`; an argument stands over the"
    yield f"# environment, that over this file. A secret may be {ELSEWHERE}, ${{NAME}}, @/PATH, or KEY_file: PATH beside the key."
    settings = settings_of(role.configuration)
    sections = sections_of(role.configuration)
    written: set[str] = set()
    for setting in settings.values():
        parent = setting.path.rpartition(".")[0]
        for section in [s for s in sections if (parent + ".").startswith(s + ".") and s not in written]:
            written.add(section)
            depth = section.count(".")
            live = any(s.says.shown for p, s in settings.items() if p.startswith(section + "."))
            if depth == 0:
                yield ""
            yield f"{'  ' * depth}# {sections[section]}"
            yield f"{'  ' * depth}{'' if live else '#'}{section.rpartition('.')[2]}:"
        yield from _lines(setting, live=any(s.says.shown for p, s in settings.items() if p.startswith(parent + ".")))


def _lines(setting: Setting, *, live: bool) -> Iterator[str]:
    indent = "  " * setting.path.count(".")
    says = setting.says
    choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
    yield f"{indent}# {says.text}{choices}. {setting.environment}"
    value = says.example
    if value is None:
        value = ELSEWHERE if setting.secret else setting.default
    mark = "" if says.shown and live else "#"
    text = _yaml(value, setting)
    yield f"{indent}{mark}{setting.name}: {text}"


def _duration(seconds: float) -> str:
    unit, size = next((u, n) for u, n in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)) if seconds % n == 0)
    return f"{seconds / size:.0f}{unit}"


def _yaml(value: Any, setting: Setting) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if setting.kind is float and isinstance(value, float):
        return _duration(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(json.dumps(item) for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    return json.dumps(str(value))
