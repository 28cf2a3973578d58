"""What a file says a controller shall have: networks with their members, groups, templates, relays. Parsing alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shadowmesh.client_api.desiredsinks import DesiredSink, sink_as_file, syslog_entry, webhook_entry
from shadowmesh.client_api.yamldocument import YamlDocument
from shadowmesh.model import accounts, api
from shadowmesh.model.receivers import Sink, SinkCompared
from shadowmesh.model.templates import TemplatePut, TemplateSettings
from shadowmesh.model.usage import PlanName, PlanPut, bytes_of, kbit_of

SETTINGS = (
    "description", "subnet", "subnet6", "approval", "code_approval", "max_clients", "p2p_enabled", "relay_fallback", "reports",
    "relay",
)  # fmt: skip
_TOP = (
    "schema", "prune", "settings", "templates", "plans", "groups", "networks", "relays", "webhooks", "syslog",
)  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    """`settings`: as far as the file says them. `members` (by address) and `groups`: None where it says nothing of them; `plan`
    where `says_plan`, None for no plan."""

    settings: Mapping[str, Any]
    template: str | None
    members: Mapping[str, api.GivenRole] | None
    groups: Mapping[str, api.GivenRole] | None
    plan: str | None = None
    says_plan: bool = False
    webhooks: Mapping[str, DesiredSink] | None = None


@dataclass(frozen=True, slots=True)
class DesiredGroup:
    """None: the file doesn't say."""

    description: str | None
    users: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class DesiredState:
    """A section that isn't in the file is None: nothing of it is looked at. `draining`: of relays; `mfa_required`: of the
    controller's settings."""

    prune: bool = False
    mfa_required: frozenset[str] | None = None
    plans: Mapping[str, PlanPut] | None = None
    templates: Mapping[str, TemplatePut] | None = None
    groups: Mapping[str, DesiredGroup] | None = None
    networks: Mapping[str, DesiredNetwork] | None = None
    draining: Mapping[str, bool] | None = None
    webhooks: Mapping[str, DesiredSink] | None = None  # of all networks
    syslog: Mapping[str, DesiredSink] | None = None
    document: YamlDocument = field(default_factory=lambda: YamlDocument("the file", ""), compare=False)


def desired_state(document: YamlDocument) -> DesiredState:
    """Raises ShadowMeshError(bad_file) with the lines of what is wrong."""
    found = read_desired(document)
    document.check()
    return found


def read_desired(document: YamlDocument) -> DesiredState:
    """As far as it can be understood; what is wrong is for `document.check` to tell. Raises ShadowMeshError(bad_file)."""
    top = document.mapping((), document.value, _TOP)
    prune = top.get("prune", False)
    if not isinstance(prune, bool):
        with document.going_on():
            raise document.bad(("prune",), "prune is neither true nor false", "write true or false")
        prune = False
    mfa_required = None
    if "settings" in top:
        with document.going_on():
            mfa_required = _settings(document, top["settings"])

    def of(name: str, entry: _Entry[T]) -> dict[str, T] | None:
        return _section(document, (name,), top.get(name), entry)

    return DesiredState(
        prune=prune,
        mfa_required=mfa_required,
        templates=of("templates", template_entry),
        plans=of("plans", _plan),
        groups=of("groups", _group),
        networks=of("networks", _network),
        draining=of("relays", _relay),
        webhooks=of("webhooks", webhook_entry),
        syslog=of("syslog", syslog_entry),
        document=document,
    )


_Entry = Callable[[YamlDocument, tuple[str | int, ...], Any], T]


def _section(document: YamlDocument, path: tuple[str | int, ...], value: Any, entry: _Entry[T]) -> dict[str, T] | None:
    """Its entries by name, each made by `entry`. A key with nothing behind it says nothing: with `prune`, what was
    commented out below it would be all that there is."""
    if value is None:
        return None
    found: dict[str, T] = {}
    keys: set[str] = set()
    with document.going_on():
        for key, said in document.mapping(path, value).items():
            usable = False
            with document.going_on():
                document.model((*path, key), _Named, {"name": key})
                if key.lower() in keys:
                    what = f"{key} stands twice in {path[-1]}"
                    raise document.bad((*path, key), what, "names are the same whatever their case")
                usable = True
            keys.add(key.lower())
            with document.going_on():
                made = entry(document, (*path, key), said)
                if usable:
                    found[key] = made
    return found


class _Named(api.Request):
    name: api.NetworkName


class _Addressed(api.Request):
    email: api.Email


class _GroupFields(api.Request):
    description: api.Text | None = None
    users: list[api.Email] | None = None


class _PlanName(api.Request):
    plan: PlanName | None


class _RelayFields(api.Request):
    draining: api.Flag = False


def template_entry(document: YamlDocument, path: tuple[str | int, ...], value: Any) -> TemplatePut:
    """One template, as `template export` prints it."""
    said = document.mapping(path, value, ("description", "settings"))
    inside = (*path, "settings")
    settings = document.mapping(inside, said.get("settings"), tuple(TemplateSettings.model_fields))
    found = {"description": said.get("description", ""), "settings": document.model(inside, TemplateSettings, settings)}
    return document.model(path, TemplatePut, found)


def _network(document: YamlDocument, path: tuple[str | int, ...], value: Any) -> DesiredNetwork:
    said = dict(document.mapping(path, value, (*SETTINGS, "template", "plan", "members", "groups", "webhooks")))
    members, groups, webhooks = (said.pop(name, None) for name in ("members", "groups", "webhooks"))
    says_plan = "plan" in said
    plan = None
    with document.going_on():
        plan = document.model((*path, "plan"), _PlanName, {"plan": said.pop("plan")}).plan if says_plan else None
    roles = None if members is None else _roles(document, (*path, "members"), members, addressed=True)
    group_roles = None if groups is None else _roles(document, (*path, "groups"), groups, addressed=False)
    hooks = _section(document, (*path, "webhooks"), webhooks, webhook_entry)
    wish = document.model(
        path, api.NetworkCreate, {"name": path[-1]} | {k: v for k, v in said.items() if v is not None}
    )
    settings = wish.model_dump(mode="json", exclude_unset=True, exclude={"name", "template"})
    for name in ("subnet", "subnet6"):
        try:
            ipaddress.ip_network(settings.get(name, "::/0"))
        except ValueError as e:
            with document.going_on():
                what = f"{name} {settings[name]!r} is none ({e})"
                raise document.bad((*path, name), what, "give it as 10.20.0.0/16") from e
    if "relay" in said and said["relay"] is None:
        settings["relay"] = None  # any
    return DesiredNetwork(
        settings,
        wish.template,
        roles,
        group_roles,
        plan,
        says_plan,
        hooks,
    )


def _roles(
    document: YamlDocument, path: tuple[str | int, ...], value: Any, *, addressed: bool
) -> dict[str, api.GivenRole]:
    """`NAME: role`, or `NAME: {role: …, permissions: […]}`."""
    found: dict[str, api.GivenRole] = {}
    with document.going_on():
        for name, entry in document.mapping(path, value).items():
            at = (*path, name)
            key = None
            with document.going_on():
                key = document.model(at, _Addressed, {"email": name}).email if addressed else name
            with document.going_on():
                short = isinstance(entry, str)
                said = {"role": entry} if short else document.mapping(at, entry, ("role", "permissions"))
                role = document.model(at, api.GivenRole, said)
                if key is not None:
                    found[key] = role
    return found


def _settings(document: YamlDocument, value: Any) -> frozenset[str] | None:
    said = document.mapping(("settings",), value, ("mfa_required",))
    found = document.model(("settings",), accounts.ControllerSettingsPatch, said).mfa_required
    return None if found is None else frozenset(found)


def _plan(document: YamlDocument, path: tuple[str | int, ...], value: Any) -> PlanPut:
    """Numbers as the API has them, or as people write them: `monthly_bytes: 10GB`, `relay_kbit: 10mbit`."""
    said = dict(document.mapping(path, value, tuple(PlanPut.model_fields)))
    for name, text in said.items():
        if isinstance(text, str) and name != "max_clients":
            try:
                said[name] = bytes_of(text) if name == "monthly_bytes" else kbit_of(text)
            except ValueError as e:
                said[name] = None
                with document.going_on():
                    raise document.bad((*path, name), f"{name} {text!r} {e}", "correct it") from e
    return document.model(path, PlanPut, said)


def _group(document: YamlDocument, path: tuple[str | int, ...], value: Any) -> DesiredGroup:
    found = document.model(path, _GroupFields, document.mapping(path, value, ("description", "users")))
    return DesiredGroup(found.description, None if found.users is None else frozenset(found.users))


def _relay(document: YamlDocument, path: tuple[str | int, ...], value: Any) -> bool:
    return document.model(path, _RelayFields, document.mapping(path, value, ("draining",))).draining


@dataclass(frozen=True, slots=True)
class FoundState:
    """What a controller has. `members`: own roles, by network's id and address, `network_plans`: names of plans by network's id;
    of networks that were asked for. `settings`, `users` (addresses): None where they weren't, or may not be seen. `webhooks`:
    by network's id (None: of all) and name; `compared`: by id, whether they are as a file says."""

    templates: Mapping[str, TemplatePut]
    built_in: Mapping[str, TemplatePut]
    groups: Mapping[str, accounts.Group]
    networks: Mapping[str, api.Network]
    members: Mapping[str, Mapping[str, api.NetworkMember]]
    relays: Mapping[str, api.Relay]
    plans: Mapping[str, PlanPut] = field(default_factory=dict)
    network_plans: Mapping[str, str | None] = field(default_factory=dict)
    settings: accounts.ControllerSettings | None = None
    webhooks: Mapping[str | None, Mapping[str, Sink]] = field(default_factory=dict)
    syslog: Mapping[str, Sink] = field(default_factory=dict)
    compared: Mapping[str, SinkCompared] = field(default_factory=dict)
    users: frozenset[str] | None = None


def as_file(found: FoundState) -> dict[str, Any]:
    """What is there, as a file that says just that."""

    def role(given: api.NetworkMember | accounts.GroupRole) -> Any:
        if given.permissions is None:
            return given.role
        return {"role": given.role, "permissions": sorted(map(str, given.permissions))}

    networks = {}
    for network in found.networks.values():
        said = {name: getattr(network, name) for name in SETTINGS}
        groups = {
            g.name: role(r) for g in found.groups.values() for r in g.networks if r.network_id == network.network_id
        }
        networks[network.name] = {
            **{name: value for name, value in said.items() if value is not None},
            "plan": found.network_plans.get(network.network_id),
            "members": {email: role(m) for email, m in sorted(found.members[network.network_id].items())},
            "groups": groups,
            "webhooks": {name: sink_as_file(s) for name, s in found.webhooks.get(network.network_id, {}).items()},
        }
    settings = {} if found.settings is None else {"mfa_required": sorted(found.settings.mfa_required)}
    return {
        "settings": settings,
        "plans": {name: plan.model_dump(mode="json", exclude_none=True) for name, plan in found.plans.items()},
        "templates": {
            name: {"description": t.description, "settings": t.settings.model_dump(mode="json", exclude_none=True)}
            for name, t in found.templates.items()
        },
        "groups": {g.name: {"description": g.description, "users": sorted(g.users)} for g in found.groups.values()},
        "networks": networks,
        "relays": {relay.name: {"draining": relay.draining} for relay in found.relays.values()},
        "webhooks": {name: sink_as_file(s) for name, s in found.webhooks.get(None, {}).items()},
        "syslog": {name: sink_as_file(s) for name, s in found.syslog.items()},
    }
