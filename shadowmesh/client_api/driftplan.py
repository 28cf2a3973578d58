"""From what a file says and what a controller has to the changes between them. Decisions alone: nothing is called here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from shadowmesh.client_api.desiredstate import DesiredNetwork, DesiredState, FoundState
from shadowmesh.client_api.drift import Drift, named, words
from shadowmesh.client_api.driftofsinks import look_at_sinks, sink_drift
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.templates import TemplatePut
from shadowmesh.model.usage import PlanPut

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient

_MAKER = "whoever makes it, if not named"
_FIXED = ("subnet6",)  # of a network that is made


def plan(desired: DesiredState, found: FoundState, *, prune: bool = False) -> list[Drift]:
    """In the order in which they can be made: what others need first, what goes away last; none twice.

    Raises ShadowMeshError(bad_file) with all lines of what can't be made so, and of what couldn't be read.
    """
    prune = prune or desired.prune
    changes = [
        *_templates(desired, found),
        *_plans(desired, found),
        *_groups(desired, found),
        *_networks(desired, found),
        *_network_plans(desired, found),
        *_relays(desired, found),
        *_members(desired, found, prune=prune),
        *_group_roles(desired, found, prune=prune),
        *_group_users(desired, found, prune=prune),
        *sink_drift(desired, found, prune=prune),
    ]
    if prune:
        changes += _gone(desired, found)
    changes += _controller_settings(desired, found)  # last: it may keep whoever runs this from all else
    desired.document.check()
    return changes


def left_alone(desired: DesiredState, found: FoundState) -> list[str]:
    """What the file's sections don't name, and `plan` would remove if it were asked to."""
    gone = [
        change for change in plan(desired, found, prune=True) if change.action == "delete" and change.name != _MAKER
    ]
    return [f"{c.kind} {c.name}" + ("" if c.of is None else f" of {c.of}") for c in gone]


def _there(desired: DesiredState, section: str, name: str) -> bool:
    """Whether the file has it, were it understood or not."""
    top = desired.document.value
    return named((top.get(section) if isinstance(top, dict) else None) or {}, name, ...) is not ...


def _templates(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, wish in (desired.templates or {}).items():
        if named(found.built_in, name) is not None:
            with desired.document.going_on():
                what = f"every controller has the template {name}, and nobody changes it"
                raise desired.document.bad(("templates", name), what, "choose another name")
        old: TemplatePut | None = named(found.templates, name)

        def do(controller: ControllerClient, name: str = name, wish: TemplatePut = wish) -> object:
            return controller.template_put(name, wish)

        before = {} if old is None else {"description": old.description} | old.settings.said()
        fields = _differences(before, {"description": wish.description} | wish.settings.said(), every=True)
        if old is None:
            yield Drift("create", "template", name, None, fields, do)
        elif fields:
            yield Drift("set", "template", name, None, fields, do)


def _plans(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, wish in (desired.plans or {}).items():
        key = next((there for there in found.plans if there.lower() == name.lower()), name)
        old = found.plans.get(key)

        def do(controller: ControllerClient, name: str = key, wish: PlanPut = wish) -> object:
            return controller.plan_set(name, wish)

        before = {} if old is None else old.model_dump(mode="json")
        fields = _differences(before, wish.model_dump(mode="json"))
        if old is None or fields:
            yield Drift("create" if old is None else "set", "plan", key, None, fields, do)


def _network_plans(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, wish in (desired.networks or {}).items():
        if not wish.says_plan:
            continue
        if wish.plan is not None and not _there(desired, "plans", wish.plan) and wish.plan not in found.plans:
            with desired.document.going_on():
                what = f"there is no plan {wish.plan!r}"
                raise desired.document.bad(("networks", name, "plan"), what, "write it below `plans`, too")
        network: api.Network | None = named(found.networks, name)
        now = None if network is None else found.network_plans.get(network.network_id)
        if now != wish.plan:
            yield Drift(
                "set", "plan", wish.plan or "(none)", name, {"plan": (now, wish.plan)},
                lambda c, name=name, plan=wish.plan: c.plan_assign(name, plan),  # type: ignore[misc]
            )  # fmt: skip


def _controller_settings(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    if desired.mfa_required is None or found.settings is None:
        return
    now, fixed = found.settings.mfa_required, frozenset[str](found.settings.mfa_required_by_file)
    if missing := sorted(fixed - desired.mfa_required):
        with desired.document.going_on():
            what = f"the controller's configuration asks {', '.join(missing)} for a second factor, and stands over this"
            raise desired.document.bad(("settings", "mfa_required"), what, "write these, too")
    if frozenset(now) != desired.mfa_required:
        wish = accounts.ControllerSettingsPatch.model_validate({"mfa_required": sorted(desired.mfa_required - fixed)})
        fields = {"mfa_required": (words(now), words(desired.mfa_required))}
        yield Drift("set", "settings", "controller", None, fields, lambda c: c.settings_set(wish))


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], *, every: bool = False
) -> dict[str, tuple[Any, Any]]:
    """`every`: also what is only before."""
    names = [*after, *(name for name in before if every and name not in after)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _groups(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, wish in (desired.groups or {}).items():
        old: accounts.Group | None = named(found.groups, name)
        if old is not None:
            if wish.description is not None and wish.description != old.description:
                patch = accounts.GroupPatch(description=wish.description)
                yield Drift(
                    "set", "group", old.name, None, {"description": (old.description, wish.description)},
                    lambda c, g=old.name, patch=patch: c.group_set(g, patch),  # type: ignore[misc]
                )  # fmt: skip
            continue
        made = accounts.GroupCreate(name=name, description=wish.description or "")
        yield Drift(
            "create",
            "group",
            name,
            None,
            _differences({}, {"description": wish.description or None}),
            lambda controller, made=made: controller.group_create(made),  # type: ignore[misc]
        )


def _group_users(desired: DesiredState, found: FoundState, *, prune: bool) -> Iterator[Drift]:
    for name, wish in (desired.groups or {}).items():
        old: accounts.Group | None = named(found.groups, name)
        inside = frozenset() if old is None else frozenset(old.users)
        for user in sorted((wish.users or frozenset()) - inside):
            _known(desired, found, ("groups", name, "users"), user)
            yield Drift("create", "user", user, f"group {name}", {}, _group_user(name, user, add=True))
        if prune and wish.users is not None:
            for user in sorted(inside - wish.users):
                yield Drift("delete", "user", user, f"group {name}", {}, _group_user(name, user, add=False))


def _known(desired: DesiredState, found: FoundState, path: tuple[str, ...], user: str) -> None:
    if found.users is not None and user not in found.users:
        with desired.document.going_on():
            raise desired.document.bad(path, f"there is no user {user}", "`shadowmesh user add` makes one")


def _group_user(group: str, user: str, *, add: bool) -> Callable[[ControllerClient], object]:
    return lambda controller: controller.group_add(group, user) if add else controller.group_remove(group, user)


def _settings(desired: DesiredState, found: FoundState, name: str, wish: DesiredNetwork) -> dict[str, Any]:
    """What the network shall be: its template, under what the file says of it."""
    if wish.template is None:
        return dict(wish.settings)
    template = named(desired.templates or {}, wish.template) or named(found.templates | found.built_in, wish.template)  # type: ignore[operator]
    if template is None:
        if not _there(desired, "templates", wish.template):
            with desired.document.going_on():
                what = f"there is no template {wish.template!r}"
                raise desired.document.bad(
                    ("networks", name, "template"), what, "`shadowmesh template list` names them"
                )
        return dict(wish.settings)
    return {**template.settings.said(), **wish.settings}


def _networks(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, wish in (desired.networks or {}).items():
        settings = _settings(desired, found, name, wish)
        if (relay := wish.settings.get("relay")) is not None and relay not in found.relays:
            with desired.document.going_on():
                what = f"there is no relay {relay!r}"
                raise desired.document.bad(("networks", name, "relay"), what, "`shadowmesh relay list` names them")
        old: api.Network | None = named(found.networks, name)
        if old is None:
            said: dict[str, Any] = {k: v for k, v in wish.settings.items() if v is not None}
            if wish.template is not None:
                said["template"] = wish.template
            made = api.NetworkCreate(name=name, **said)
            fields = {k: (None, v) for k, v in said.items()}
            yield Drift(
                "create",
                "network",
                name,
                None,
                fields,
                lambda c, made=made: c.network_create(made),  # type: ignore[misc]
            )
            continue
        fields = _differences({k: getattr(old, k) for k in settings}, settings)
        for fixed in _FIXED:
            if fixed in fields:
                with desired.document.going_on():
                    what = f"the {fixed} of {name} is {fields[fixed][0] or 'none'}, and stays"
                    raise desired.document.bad(("networks", name, fixed), what, "write that one")
        if fields:
            changed: dict[str, Any] = {name: after for name, (_, after) in fields.items() if name not in _FIXED}
            if changed.get("relay", "") is None:
                changed["relay"] = ""  # any
            patch = api.NetworkPatch(**changed)
            ref = old.network_id
            yield Drift(
                "set",
                "network",
                name,
                None,
                fields,
                lambda c, ref=ref, patch=patch: c.network_set(ref, patch),  # type: ignore[misc]
            )


def _role(given: api.GivenRole | api.NetworkMember | accounts.GroupRole | None) -> Any:
    if given is None:
        return None
    if given.permissions is None:
        return given.role
    return {"role": given.role, "permissions": sorted(map(str, given.permissions))}


def _members(desired: DesiredState, found: FoundState, *, prune: bool) -> Iterator[Drift]:
    for name, wish in (desired.networks or {}).items():
        if wish.members is None:
            continue
        network: api.Network | None = named(found.networks, name)
        there = {} if network is None else found.members[network.network_id]
        for email, given in wish.members.items():
            old = there.get(email)
            if _role(old) == _role(given):
                continue
            if old is None:
                _known(desired, found, ("networks", name, "members", email), email)
            put = api.MemberPut(email=email, role=given.role, permissions=given.permissions)
            fields = {"role": (_role(old), _role(given))}
            action: Literal["create", "set"] = "create" if old is None else "set"
            yield Drift(
                action,
                "member",
                email,
                name,
                fields,
                lambda c, name=name, put=put: c.member_set(name, put),  # type: ignore[misc]
            )
        if prune:
            for email in sorted(there.keys() - wish.members.keys()):
                fields = {"role": (_role(there[email]), None)}
                yield Drift(
                    "delete",
                    "member",
                    email,
                    name,
                    fields,
                    lambda c, name=name, email=email: c.member_remove(name, email),  # type: ignore[misc]
                )
            if network is None:  # who makes a network is its owner, whatever the file says
                yield Drift("delete", "member", _MAKER, name, {}, _others_out(name, wish.members))


def _others_out(network: str, named: Mapping[str, Any]) -> Callable[[ControllerClient], object]:
    def do(controller: ControllerClient) -> None:
        for member in controller.member_list(network):
            if member.own and member.email not in named:
                controller.member_remove(network, member.email)

    return do


def _group_roles(desired: DesiredState, found: FoundState, *, prune: bool) -> Iterator[Drift]:
    for name, wish in (desired.networks or {}).items():
        if wish.groups is None:
            continue
        network: api.Network | None = named(found.networks, name)
        for group, given in wish.groups.items():
            old: accounts.Group | None = named(found.groups, group)
            if old is None and not _there(desired, "groups", group):
                with desired.document.going_on():
                    what, path = f"there is no group {group!r}", ("networks", name, "groups", group)
                    raise desired.document.bad(path, what, "write it below `groups`, too")
            now = _given_to(old, network)
            if _role(now) != _role(given):
                action: Literal["create", "set"] = "create" if now is None else "set"
                fields = {"role": (_role(now), _role(given))}
                yield Drift(
                    action, "group", group, name, fields,
                    lambda c, g=group, n=name, given=given: c.group_set_role(g, n, given),  # type: ignore[misc]
                )  # fmt: skip
        if prune:
            for old in found.groups.values():
                now = _given_to(old, network)
                if now is not None and named(wish.groups, old.name) is None:
                    yield Drift(
                        "delete", "group", old.name, name, {"role": (_role(now), None)},
                        lambda c, g=old.name, n=name: c.group_remove_role(g, n),  # type: ignore[misc]
                    )  # fmt: skip


def _given_to(group: accounts.Group | None, network: api.Network | None) -> accounts.GroupRole | None:
    if group is None or network is None:
        return None
    return next((role for role in group.networks if role.network_id == network.network_id), None)


def _relays(desired: DesiredState, found: FoundState) -> Iterator[Drift]:
    for name, draining in (desired.draining or {}).items():
        relay: api.Relay | None = found.relays.get(name)
        if relay is None:
            with desired.document.going_on():
                what = f"there is no relay {name!r}"
                raise desired.document.bad(("relays", name), what, "relays come by themselves: `shadowmesh relay run`")
        elif relay.draining != draining:
            yield Drift(
                "set", "relay", name, None, {"draining": (relay.draining, draining)},
                lambda c, name=name, draining=draining: c.relay_drain(name, draining=draining),  # type: ignore[misc]
            )  # fmt: skip


def _gone(desired: DesiredState, found: FoundState) -> list[Drift]:
    """Networks, groups, templates and plans that the file's sections don't name. Relays aren't removed by a file."""
    sections: tuple[tuple[str, Any, Mapping[str, Any], Callable[[str], Callable[[ControllerClient], object]]], ...] = (
        (
            "network",
            desired.networks,
            found.networks,
            lambda n: lambda c: c.network_delete(found.networks[n].network_id),
        ),
        ("group", desired.groups, found.groups, lambda n: lambda c: c.group_delete(n)),
        ("template", desired.templates, found.templates, lambda n: lambda c: c.template_delete(n)),
        ("plan", desired.plans, found.plans, lambda n: lambda c: c.plan_delete(n)),
    )
    return [
        Drift("delete", kind, name, None, {}, do(name))
        for kind, wanted, there, do in sections
        if wanted is not None
        for name in there
        if named(wanted, name) is None
    ]


def look(controller: ControllerClient, desired: DesiredState | None) -> FoundState:
    """What the controller has, as far as the file speaks of it; all of it where there is no file.

    Raises ShadowMeshError(network_ambiguous) for a name that several networks have, and what the calls raise.
    """
    everything = desired is None or desired.networks is not None
    wishes: Mapping[str, DesiredNetwork] = {} if desired is None or desired.networks is None else desired.networks
    networks: dict[str, api.Network] = {}
    for network in controller.network_list() if everything else ():
        if network.name in networks and (desired is None or named(desired.networks or {}, network.name) is not None):
            raise ShadowMeshError(
                "network_ambiguous",
                f"there are several networks called {network.name}, and a file tells networks by their names",
                "give one of them another name (`network set ID --rename …`)",
                kind=Kind.CONFLICT,
            )
        networks[network.name] = network
    wanted = [
        n
        for n in networks.values()
        if desired is None or ((wish := named(desired.networks or {}, n.name)) is not None and wish.members is not None)
    ]
    templates = controller.template_list() if desired is None or desired.templates is not None or everything else []
    groups = controller.group_list() if _speaks_of_groups(desired) else []
    says_relay = any(network.settings.get("relay") is not None for network in wishes.values())
    relays = controller.relay_list() if desired is None or desired.draining is not None or says_relay else []
    webhooks, syslog, compared = look_at_sinks(controller, desired, networks)
    speaks_of_plans = any(network.says_plan for network in wishes.values())
    plans = controller.plan_list() if desired is None or desired.plans is not None or speaks_of_plans else []
    having = [n for n in networks.values() if desired is None or _says_plan(desired, n.name)]
    puts = {t.name: TemplatePut(description=t.description, settings=t.settings) for t in templates}
    return FoundState(
        templates={t.name: puts[t.name] for t in templates if not t.built_in},
        built_in={t.name: puts[t.name] for t in templates if t.built_in},
        groups={g.name: g for g in groups},
        networks=networks,
        members={n.network_id: {m.email: m for m in controller.member_list(n.network_id) if m.own} for n in wanted},
        relays={r.name: r for r in relays},
        plans={p.name: PlanPut.model_validate(p.model_dump(include=set(PlanPut.model_fields))) for p in plans},
        network_plans={n.network_id: controller.quota(n.network_id).plan for n in having},
        settings=controller.settings_show() if desired is None or desired.mfa_required is not None else None,
        webhooks=webhooks,
        syslog=syslog,
        compared=compared,
        users=_users(controller, desired),
    )


def _users(controller: ControllerClient, desired: DesiredState | None) -> frozenset[str] | None:
    """The addresses of all, as far as they are asked for and may be seen."""
    if desired is None:
        return None
    named = any(network.members for network in (desired.networks or {}).values())
    if not named and not any(group.users for group in (desired.groups or {}).values()):
        return None
    try:
        return frozenset(user.email for user in controller.user_list())
    except ShadowMeshError as e:
        if e.kind is not Kind.NOT_ALLOWED:
            raise
        return None


def _says_plan(desired: DesiredState, network: str) -> bool:
    wish = named(desired.networks or {}, network)
    return wish is not None and wish.says_plan


def _speaks_of_groups(desired: DesiredState | None) -> bool:
    if desired is None or desired.groups is not None:
        return True
    return any(network.groups is not None for network in (desired.networks or {}).values())
