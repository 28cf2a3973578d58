"""A change between what a file says and what a controller has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient


@dataclass(frozen=True, slots=True)
class Drift:
    """One call that brings the controller nearer to the file. `fields`: before and after, of what is another."""

    action: Literal["create", "set", "delete"]
    kind: str  # network, member, group, …
    name: str
    of: str | None = None  # the network or group that it belongs to
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    do: Callable[[ControllerClient], object] = field(default=lambda _: None, compare=False, repr=False)


def named(found: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """What has this name, whatever its case."""
    return next((value for key, value in found.items() if key.lower() == name.lower()), default)


def words(roles: Iterable[str]) -> str:
    return ", ".join(sorted(roles)) or "none"
