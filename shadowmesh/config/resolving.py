"""From arguments, environment, credentials and a file to one configuration, each value with where it came from.

An argument stands over the environment, that over systemd's credentials, these over the file, that over what the role keeps from its
making. All that is wrong is found at once.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from shadowmesh.config.coercion import coerce, nearest
from shadowmesh.config.setting import ENVIRONMENT, Setting, build, settings_of
from shadowmesh.config.yamlfile import FILE, Mistake, Written, parse, read_text
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret

T = TypeVar("T")

ELSEWHERE = "FROM_ENV_OR_SECRET"  # a secret's value in a file: it comes from the environment, or a credential
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST_SECRET = 65536


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    """`kind`: default, kept (what the role has from its making), file, credential, environment or flag; `where` names it for people."""

    kind: str
    where: str


@dataclass(frozen=True, slots=True)
class Flag:
    """An argument: its value, and its name for people. `checked`: the value is of the setting's type, and what it has to be beside
    that is the role's to say; else it is text as in a file."""

    value: Any
    name: str
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What one may be told beside the file. `flags` and `kept`: by path."""

    flags: Mapping[str, Flag] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    kept: Mapping[str, Any] = field(default_factory=dict)
    kept_in: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a configuration that a person should know. `error`: it can't be used so."""

    where: str
    what: str
    remedy: str = ""
    error: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """`absent`: secrets that are said to come from elsewhere and aren't there, with where they were looked for."""

    config: T
    values: Mapping[str, Any]
    origins: Mapping[str, SettingOrigin]
    absent: Mapping[str, str]
    remarks: Sequence[Remark] = ()

    def given(self, path: str) -> bool:
        """Whether somebody said it, or the role was made with it."""
        return path in self.values

    def get(self, path: str) -> Any:
        """The value as given, None where nobody said any."""
        return self.values.get(path)

    def where(self, path: str) -> str:
        origin = self.origins.get(path)
        if origin is None or origin.kind in ("default", "kept"):
            return path
        return f"{origin.where}: {path}"


def resolve(configuration: type[T], file: Path | None, given: Given | None = None) -> Resolved[T]:
    """The configuration of a role. Raises ShadowMeshError (`bad_config`, USAGE) with all that is wrong, a line each, and as
    `read_text` does."""
    reading = _Reading(configuration, given or Given())
    if file is not None:
        reading.read_file(file)
    reading.read_all()
    return reading.result()


def bad_config(remarks: Sequence[Remark]) -> ShadowMeshError:
    """One error of all that is wrong."""
    remarks = sorted(remarks, key=lambda remark: [int(n) if n.isdigit() else -1 for n in remark.where.split(":")[1:2]])
    first = remarks[0]
    many = f"{len(remarks)} mistakes, the first: " if len(remarks) > 1 else ""
    return ShadowMeshError(
        "bad_config", f"{many}{first.where}: {first.what}", first.remedy or "correct it", kind=Kind.USAGE,
        details=[str(remark) for remark in remarks],
    )  # fmt: skip


class _Reading:
    """One resolution under way."""

    def __init__(self, configuration: type, given: Given) -> None:
        self._configuration = configuration
        self._settings = settings_of(configuration)
        self._given = given
        self._file: Path | None = None
        self._written: dict[str, Written] = {}
        self._values: dict[str, Any] = {}
        self._origins: dict[str, SettingOrigin] = {}
        self._absent: dict[str, str] = {}
        self._remarks: list[Remark] = []

    def read_file(self, file: Path) -> None:
        self._file = file
        self._written, mistakes = parse(read_text(file), self._configuration)
        for mistake in mistakes:
            self._wrong(self._line(mistake), mistake.what, mistake.remedy)

    def _line(self, mistake: Mistake | Written) -> str:
        return f"{self._file}:{mistake.line}" if mistake.line else str(self._file)

    def _wrong(self, where: str, what: str, remedy: str = "") -> None:
        self._remarks.append(Remark(where, what, remedy, error=True))

    def read_all(self) -> None:
        for setting in self._settings.values():
            if setting.secret:
                self._read_secret(setting)
            else:
                self._read(setting)
        self._look_for_mistyped()

    def _take(self, setting: Setting, value: Any, origin: SettingOrigin) -> None:
        self._values[setting.path] = value
        self._origins[setting.path] = origin

    def _coerce(self, setting: Setting, raw: str | list[str], origin: SettingOrigin, base: Path | None = None) -> None:
        try:
            self._take(setting, coerce(setting, raw, base), origin)
        except ValueError as e:
            if origin.kind == "file":
                self._wrong(origin.where, f"{setting.path}: {e}")
            else:
                self._wrong(origin.where, str(e))

    def _read(self, setting: Setting) -> None:
        path, environment = setting.path, self._given.environment
        if path in self._given.flags:
            flag = self._given.flags[path]
            if flag.checked:
                self._take(setting, flag.value, SettingOrigin("flag", flag.name))
            else:
                self._coerce(setting, flag.value, SettingOrigin("flag", flag.name))
            return
        for name in (setting.environment, *setting.says.environment):
            if environment.get(name):
                self._coerce(setting, environment[name], SettingOrigin("environment", name))
                return
        if (written := self._written.get(path)) is not None:
            assert self._file is not None
            self._coerce(setting, written.raw, SettingOrigin("file", self._line(written)), self._file.absolute().parent)
        elif path in self._given.kept:
            self._take(setting, self._given.kept[path], SettingOrigin("kept", self._given.kept_in))

    # secrets

    def _read_secret(self, setting: Setting) -> None:
        path, environment = setting.path, self._given.environment
        if path in self._given.flags:
            flag = self._given.flags[path]
            self._take(setting, Secret(str(flag.value).encode()), SettingOrigin("flag", flag.name))
            return
        for name in (setting.environment, *setting.says.environment):
            if environment.get(name):
                self._secret_text(setting, environment[name], SettingOrigin("environment", name))
                return
            if file := environment.get(name + FILE.upper()):
                self._secret_file(setting, Path(file), SettingOrigin("environment", f"{name}{FILE.upper()}={file}"))
                return
        if (directory := environment.get("CREDENTIALS_DIRECTORY")) and (Path(directory) / path).is_file():
            self._secret_file(setting, Path(directory) / path, SettingOrigin("credential", f"credential {path}"))
            return
        literal, named = self._written.get(path), self._written.get(path + FILE)
        if literal is not None and named is not None:
            self._wrong(self._line(named), f"{path} and {path}{FILE} stand both here", "keep one of them")
        elif literal is not None:
            self._written_secret(setting, literal)
        elif named is not None:
            self._named_file(setting, named)
        elif path in self._given.kept:
            self._take(setting, self._given.kept[path], SettingOrigin("kept", self._given.kept_in))

    def _written_secret(self, setting: Setting, written: Written) -> None:
        if not isinstance(written.raw, str):
            self._wrong(self._line(written), f"{setting.path}: it is one value, not a list")
        elif written.raw == ELSEWHERE:
            if setting.path in self._given.kept:
                self._take(setting, self._given.kept[setting.path], SettingOrigin("kept", self._given.kept_in))
            elif not setting.says.own:
                names = f"the environment ({setting.environment} or {setting.environment}{FILE.upper()})"
                self._absent[setting.path] = f"{names}, or a credential of systemd ({setting.path})"
                if setting.says.kept:
                    self._absent[setting.path] += f", or {setting.says.kept} in its directory"
        else:
            origin = SettingOrigin("file", self._line(written))
            literal = self._secret_text(setting, written.raw, origin)
            if literal and self._file is not None and _others_read(self._file):
                what = f"{setting.path} stands in a file that others can read"
                self._remarks.append(Remark(origin.where, what, f"`chmod 600 {self._file}`, or say {ELSEWHERE}"))

    def _named_file(self, setting: Setting, named: Written) -> None:
        assert self._file is not None
        if isinstance(named.raw, str) and named.raw.strip():
            path = self._file.absolute().parent / Path(named.raw.strip()).expanduser()
            self._secret_file(setting, path, SettingOrigin("file", f"{self._line(named)}, {path}"))
        else:
            self._wrong(self._line(named), f"{setting.path}{FILE}: it is no path")

    def _secret_text(self, setting: Setting, text: str, origin: SettingOrigin) -> bool:
        """Takes a text that is the secret, or says where it is: `@/PATH` or `${NAME}`. Returns whether it was literal."""
        if named := _NAMED.fullmatch(text.strip()):
            value = self._given.environment.get(named[1])
            if value:
                self._keep_secret(setting, value, SettingOrigin(origin.kind, f"{origin.where}, {named[1]}"))
            else:
                self._absent[setting.path] = f"the environment ({named[1]})"
            return False
        if text.startswith("@/"):
            self._secret_file(
                setting, Path(text[1:].strip()), SettingOrigin(origin.kind, f"{origin.where}, {text[1:].strip()}")
            )
            return False
        self._keep_secret(setting, text, origin)
        return True

    def _secret_file(self, setting: Setting, path: Path, origin: SettingOrigin) -> None:
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST_SECRET).decode()
        except FileNotFoundError:
            self._absent[setting.path] = str(path)
        except (OSError, UnicodeDecodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "not text"
            self._wrong(origin.where, f"{setting.path} can't be read from {path} ({why})")
        else:
            self._keep_secret(setting, text, origin)

    def _keep_secret(self, setting: Setting, text: str, origin: SettingOrigin) -> None:
        stripped = text.strip()
        if not stripped:
            self._wrong(origin.where, f"{setting.path} is empty")
            return
        self._coerce(setting, stripped, origin)

    def _look_for_mistyped(self) -> None:
        """A name in the environment that is one letter off from a setting's does nothing, and should not do so in silence."""
        names = [s.environment for s in self._settings.values()]
        sections = {ENVIRONMENT + s.path.upper().partition(".")[0] + "_" for s in self._settings.values()}
        known = {*names, *(n + FILE.upper() for n in names), *OTHERS, *(n + FILE.upper() for n in OTHERS)}
        for name in self._given.environment:
            if any(name.startswith(section) for section in sections) and name not in known:
                near = nearest(name, names)
                self._remarks.append(Remark(name, "it has no effect here", f"did you mean {near}?" if near else ""))

    def result(self) -> Resolved[Any]:
        if wrong := [remark for remark in self._remarks if remark.error]:
            raise bad_config(wrong)
        origins = {path: self._origins.get(path, SettingOrigin("default", "default")) for path in self._settings}
        config = build(self._configuration, self._values)
        return Resolved(config, self._values, origins, self._absent, tuple(self._remarks))


OTHERS: set[str] = set()
"""Names in the environment that settings of other roles have: `roles` fills it."""


def _others_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH) & ~_group_reads(path))
    except OSError:
        return False


def _group_reads(path: Path) -> int:
    """A file that root gave to a service's group (0640) is not open to others."""
    return stat.S_IRGRP if path.stat().st_uid == 0 and not path.stat().st_mode & stat.S_IROTH else 0
