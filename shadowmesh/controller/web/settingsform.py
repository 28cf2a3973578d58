"""The settings of a network as a form has them: read, compared, turned into what the service takes."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from shadowmesh.controller.web.forms import Form
from shadowmesh.model import api

LABELS = {
    "name": "Name",
    "subnet": "Subnet",
    "description": "Description",
    "approval": "Require an administrator's approval",
    "code_approval": "Approval of those who join by the code",
    "max_clients": "Max clients",
    "p2p_enabled": "P2P",
    "relay_fallback": "Relay fallback",
    "relay": "Relay server",
    "reports": "Reports",
}


class SettingChange(NamedTuple):
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class SettingsForm:
    """As they stand in a form: numbers are text."""

    name: str
    subnet: str
    description: str
    approval: bool
    code_approval: bool
    max_clients: str
    p2p_enabled: bool
    relay_fallback: bool
    relay: str
    reports: str

    @classmethod
    def of(cls, network: api.Network) -> Self:
        values = {field.name: getattr(network, field.name) for field in dataclasses.fields(cls)}
        return cls(**values | {"max_clients": str(network.max_clients), "relay": network.relay or ""})

    @classmethod
    def read(cls, form: Form) -> Self:
        values: dict[str, Any] = {
            field.name: form.flag(field.name) if field.type == "bool" else form.text(field.name)
            for field in dataclasses.fields(cls)
        }
        return cls(**values)

    @property
    def digest(self) -> str:
        """The same for the same settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def _different(self, after: SettingsForm) -> list[str]:
        return [name for name in LABELS if getattr(self, name) != getattr(after, name)]

    def changes(self, after: SettingsForm) -> list[SettingChange]:
        return [
            SettingChange(LABELS[name], _said(getattr(self, name)), _said(getattr(after, name)))
            for name in self._different(after)
        ]

    def patch(self, after: SettingsForm) -> api.NetworkPatch:
        """What is different. Raises ValidationError."""
        wish: dict[str, Any] = {name: getattr(after, name) for name in self._different(after)}
        if "max_clients" in wish:
            wish["max_clients"] = counted(wish["max_clients"])
        return api.NetworkPatch(**wish)

    @property
    def fields(self) -> dict[str, str]:
        """To be sent once more."""
        values = dataclasses.asdict(self)
        return {name: "on" if value is True else value for name, value in values.items() if value is not False}


def counted(text: str) -> int:
    """The number that somebody typed; 0, which nothing takes, for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0


def _said(value: str | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value or "(nothing)"


def errors_of(error: ValidationError) -> dict[str, str]:
    """What is wrong with each field, in pydantic's words but for the patterns, which tell nobody anything."""
    hints = {
        "name": "letters, digits, dots, dashes and underscores, at most 63, a letter or digit first",
        "subnet": "an IPv4 network as 10.42.0.0/24",
        "max_clients": "a whole number from 1 to 1,000,000",
        "email": "an e-mail address",
    }
    found = {}
    for one in error.errors():
        name = str(one["loc"][0]) if one["loc"] else ""
        found[name] = f"This has to be {hints[name]}." if name in hints else one["msg"]
    return found
