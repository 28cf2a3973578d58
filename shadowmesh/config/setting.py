"""A setting: its path in the file, its type, its name in the environment, and the sentence that says what it does."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from shadowmesh.model.keys import Secret

ENVIRONMENT = "SHADOWMESH_"


@dataclass(frozen=True, slots=True)
class Says:
    """What a field of a configuration is, beside its type.

    `example`: a value for the example file. `shown`: it stands there as a line of its own, not commented out. `check`: takes the
    value, returns its normal form; a ValueError says what it should be. `kept`: a file in the role's directory that holds the
    secret where nothing else does. `own`: the role makes one for itself, where it is said to come from elsewhere and doesn't. `environment`: further names, which others gave it.
    """

    text: str
    example: Any = None
    shown: bool = False
    check: Callable[[Any], Any] | None = None
    kept: str | None = None
    own: bool = False
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of a configuration. `kind`: str, int, bool, float (a duration in seconds), Path, Secret, a Literal or a tuple of str or of these."""

    path: str
    kind: Any
    default: Any
    says: Says

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def environment(self) -> str:
        return ENVIRONMENT + self.path.upper().replace(".", "_")

    @property
    def secret(self) -> bool:
        return self.kind is Secret

    @property
    def choices(self) -> tuple[str, ...]:
        """What a Literal, or each item of a list of them, may be; empty for others."""
        kind = typing.get_args(self.kind)[0] if typing.get_origin(self.kind) is tuple else self.kind
        return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()

    @property
    def listed(self) -> bool:
        return typing.get_origin(self.kind) is tuple


@cache
def settings_of(configuration: type) -> dict[str, Setting]:
    """All leaves of a configuration by path, in the order in which they are written down."""
    return {setting.path: setting for setting in _leaves(configuration, "")}


@cache
def sections_of(configuration: type) -> dict[str, str]:
    """The paths of all sections, each with its docstring's first line."""
    return dict(_sections(configuration, ""))


def build(configuration: type, values: dict[str, Any], prefix: str = "") -> Any:
    """The tree of a configuration: `values` by path, defaults for the rest."""
    fields = {}
    for field, kind, _ in _fields(configuration):
        path = prefix + field.name
        if dataclasses.is_dataclass(kind):
            fields[field.name] = build(typing.cast(type, kind), values, path + ".")
        elif path in values:
            fields[field.name] = values[path]
    return configuration(**fields)


def _leaves(configuration: type, prefix: str) -> Iterator[Setting]:
    for field, kind, says in _fields(configuration):
        path = prefix + field.name
        if dataclasses.is_dataclass(kind):
            yield from _leaves(typing.cast(type, kind), path + ".")
        else:
            assert says is not None, path
            yield Setting(path, kind, field.default, says)


def _sections(configuration: type, prefix: str) -> Iterator[tuple[str, str]]:
    for field, kind, _ in _fields(configuration):
        if dataclasses.is_dataclass(kind):
            path = prefix + field.name
            yield path, (kind.__doc__ or "").partition("\n")[0]
            yield from _sections(typing.cast(type, kind), path + ".")


def _fields(configuration: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Says | None]]:
    hints = typing.get_type_hints(configuration, include_extras=True)
    for field in dataclasses.fields(configuration):
        kind, says = hints[field.name], None
        if typing.get_origin(kind) is typing.Annotated:
            kind, *more = typing.get_args(kind)
            says = next((m for m in more if isinstance(m, Says)), None)
        if isinstance(kind, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        yield field, kind, says
