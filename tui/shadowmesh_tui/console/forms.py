"""The fields of a network: checked as they are typed, and what saving them would change. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from shadowmesh.model.addresses import NO_OVERLAY
from shadowmesh.model.api import Network, NetworkCreate, NetworkPatch, Relay
from shadowmesh.model.templates import Template

Kind = Literal["text", "flag", "number", "choice", "secret"]
Value = str | bool
Values = Mapping[str, Value]
ANY_RELAY = ""
REPORTS = (("off", "off: nothing is told"), ("health", "health: how connections are"), ("full", "full: bytes too"))


@dataclass(frozen=True, slots=True)
class Field:
    """`section` stands above the first of a group; `choices`: value and what is shown for it."""

    key: str
    label: str
    kind: Kind = "text"
    section: str = ""
    hint: str = ""


FIELDS: Sequence[Field] = (
    Field("name", "Name", section="General", hint="letters, digits, . _ -"),
    Field("subnet", "Subnet", hint="10.42.0.0/24; empty: the next that is free"),
    Field("description", "Description"),
    Field("approval", "Require approval", "flag", section="Access control", hint="whoever joins waits to be let in"),
    Field("code_approval", "… by short code", "flag", hint="who joins by the short code waits"),
    Field("max_clients", "Max clients", "number"),
    Field("p2p_enabled", "Enable P2P", "flag", section="P2P", hint="direct paths between clients"),
    Field("relay_fallback", "Relay fallback", "flag", hint="by a relay while there is no direct path"),
    Field("relay", "Relay server", "choice", hint="this one alone, or any"),
    Field("reports", "Reports", "choice", hint="what clients tell of their connections"),
)
_BY_KEY = {field.key: field for field in FIELDS}
LABELS = {field.key: field.label for field in FIELDS}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a field, or worth a thought (`error` false)."""

    text: str
    error: bool = True


def choices(key: str, relays: Iterable[Relay]) -> list[tuple[str, str]]:
    """Value and words of each."""
    if key == "reports":
        return list(REPORTS)
    return [(ANY_RELAY, "any")] + [(r.name, r.name if r.online else f"{r.name} (away)") for r in relays]


def of_network(network: Network) -> dict[str, Value]:
    return {
        "name": network.name,
        "subnet": network.subnet,
        "description": network.description,
        "approval": network.approval,
        "code_approval": network.code_approval,
        "max_clients": str(network.max_clients),
        "p2p_enabled": network.p2p_enabled,
        "relay_fallback": network.relay_fallback,
        "relay": network.relay or ANY_RELAY,
        "reports": network.reports,
    }


def of_template(template: Template | None, before: Values) -> dict[str, Value]:
    """A new network's fields by a template: name, subnet and description stay as they were typed."""
    defaults: dict[str, Value] = {
        "approval": False, "code_approval": True, "max_clients": "100", "p2p_enabled": True, "relay_fallback": True,
        "relay": ANY_RELAY, "reports": "health",
    }  # fmt: skip
    said = {} if template is None else template.settings.said()
    shown = {k: v if isinstance(v, bool) else str(v) for k, v in said.items() if k in _BY_KEY}
    typed: dict[str, Value] = {k: before.get(k, "") for k in ("name", "subnet", "description")}
    return typed | defaults | {k: v for k, v in shown.items() if k != "description" or not typed["description"]}


def findings(values: Values, networks: Iterable[Network], editing: Network | None = None) -> dict[str, Finding]:
    """What is the matter, by field. `networks`: all that are known; `editing`: the one whose settings these are."""
    found: dict[str, Finding] = {}
    others = [n for n in networks if editing is None or n.network_id != editing.network_id]
    found |= _name(str(values["name"]), others)
    found |= _subnet(str(values["subnet"]), others, editing)
    found |= _number(str(values["max_clients"]), editing)
    if values["p2p_enabled"] is False and values["relay_fallback"] is False:
        text = "with neither direct paths nor relays nobody reaches anybody"
        found["relay_fallback"] = Finding(text, error=False)
    elif values["relay_fallback"] is False and values["relay"]:
        found["relay"] = Finding("counts for nothing without relay fallback", error=False)
    for key, text in _refused(values, found):
        found.setdefault(key, Finding(text))
    return found


def _name(name: str, others: Sequence[Network]) -> dict[str, Finding]:
    if not name:
        return {"name": Finding("a network has a name")}
    if any(n.name.casefold() == name.casefold() for n in others):
        return {"name": Finding(f"there is a network {name} already")}
    return {}


def _subnet(text: str, others: Sequence[Network], editing: Network | None) -> dict[str, Finding]:
    if not text:
        return {} if editing is None else {"subnet": Finding("a network has a subnet")}
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as e:
        if "host bits" in str(e):
            right = ipaddress.IPv4Network(text, strict=False)
            return {"subnet": Finding(f"host bits are set: {right}?")}
        return {"subnet": Finding("write it as 10.42.0.0/24")}
    if not 8 <= subnet.prefixlen <= 30:
        return {"subnet": Finding("from /8 to /30")}
    refused = next((n for n in NO_OVERLAY if n.version == 4 and n.overlaps(subnet)), None)
    if refused is not None:
        return {"subnet": Finding(f"it overlaps {refused}, which is for something else")}
    if editing is not None and subnet.num_addresses - 2 < editing.clients:
        return {"subnet": Finding(f"it has {subnet.num_addresses - 2} addresses for {editing.clients} clients")}
    alike = next((n for n in others if _overlaps(subnet, n.subnet)), None)
    if alike is not None:
        return {"subnet": Finding(f"no machine can be in this and in {alike.name} at once: they overlap", error=False)}
    return {}


def _overlaps(subnet: ipaddress.IPv4Network, other: str) -> bool:
    try:
        return subnet.overlaps(ipaddress.IPv4Network(other))
    except ValueError:
        return False


def _number(text: str, editing: Network | None) -> dict[str, Finding]:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 1_000_000:
        return {"max_clients": Finding("a number from 1 to 1,000,000")}
    if editing is not None and int(text) < editing.clients:
        return {"max_clients": Finding(f"there are {editing.clients} clients: no more can join", error=False)}
    return {}


def _refused(values: Values, found: Mapping[str, Finding]) -> list[tuple[str, str]]:
    """What the API itself would refuse of the rest."""
    sent = {k: v for k, v in _sent(values).items() if not (k in found and found[k].error)}
    try:
        NetworkPatch.model_validate(sent)
    except ValidationError as e:
        return [
            (str(error["loc"][0]), _words(str(error["loc"][0]), error["msg"])) for error in e.errors() if error["loc"]
        ]
    return []


def _words(key: str, message: str) -> str:
    if key == "name":
        return "1 to 63 letters, digits, dots, dashes, underlines; a letter or digit first"
    return message.removeprefix("Value error, ")


def _sent(values: Values) -> dict[str, Any]:
    sent: dict[str, Any] = dict(values)
    number = str(values["max_clients"])
    sent["max_clients"] = int(number) if number.isascii() and number.isdecimal() else 1
    if not sent["subnet"]:
        del sent["subnet"]
    return sent


def wish(values: Values, template: str | None = None) -> NetworkCreate:
    """What is to be made, of fields without an error."""
    sent = _sent(values)
    sent["relay"] = sent["relay"] or None
    return NetworkCreate.model_validate(sent | {"template": template})


def changed(before: Values, after: Values) -> dict[str, tuple[Value, Value]]:
    """What saving would change: by field, the old value and the new, in the fields' order."""
    return {f.key: (before[f.key], after[f.key]) for f in FIELDS if before[f.key] != after[f.key]}


def patch(before: Values, after: Values) -> NetworkPatch:
    """What is sent for it: what wasn't touched stays as others have set it meanwhile."""
    sent = _sent(after)
    return NetworkPatch.model_validate({key: sent[key] for key in changed(before, after) if key in sent})


def words(key: str, value: Value) -> str:
    """A value as a sentence has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "relay":
        return value or "any"
    return value or "(nothing)"
