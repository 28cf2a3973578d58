"""What a shell is offered for an argument: names that the daemon, the controller or the lab knows at this moment.

A completion never fails and never waits long: who can't be asked offers nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from shadowmesh.model.text import is_safe

_ASK_S = 2.0
Suggest = Callable[[typer.Context, str], list[str]]


def _offer(names: Callable[[typer.Context], Iterable[str]]) -> Suggest:
    def suggest(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []

        def ask() -> None:
            with contextlib.suppress(Exception):  # there is nobody to tell it to, and nothing to be done about it
                found.extend(names(ctx))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_ASK_S)
        return sorted({n for n in found if is_safe(n) and n.startswith(incomplete)}, key=str.casefold)

    return suggest


def words(*choices: str) -> Suggest:
    """One of these."""
    return _offer(lambda _ctx: choices)


def _permissions(_ctx: typer.Context) -> Iterable[str]:
    from shadowmesh.model.api import Permission

    return list(Permission)


permission = _offer(_permissions)


# of the daemon


def _status(ctx: typer.Context) -> list[dict[str, Any]]:
    from shadowmesh.client_api.local import DaemonClient

    answer = DaemonClient(Path(ctx.params["state_dir"])).call("status")
    networks: list[dict[str, Any]] = answer["networks"]
    return networks


def _peers(ctx: typer.Context) -> Iterable[str]:
    """By name; those whose name several networks have, as NAME@NETWORK."""
    found = [(p["name"], n["name"]) for n in _status(ctx) for p in n["peers"]]
    names = [name for name, _ in found]
    return [name if names.count(name) == 1 else f"{name}@{network}" for name, network in found]


def _networks(ctx: typer.Context) -> Iterable[str]:
    return [n["name"] for n in _status(ctx)]


peer = _offer(_peers)
network = _offer(_networks)
peer_or_network = _offer(lambda ctx: [*_peers(ctx), *_networks(ctx)])


# of this host


def _namespaces(_ctx: typer.Context) -> Iterable[str]:
    from shadowmesh.host.namespaces import NAMES

    return [entry.name for entry in NAMES.iterdir()]


namespace = _offer(_namespaces)


# of the controller


def _ask(question: Callable[[Any, typer.Context], Iterable[str]]) -> Suggest:
    def names(ctx: typer.Context) -> Iterable[str]:
        from shadowmesh.client_api.rest import ControllerClient

        directory = ctx.params.get("data_dir")
        with ControllerClient.choose(data_dir=Path(directory) if directory else None) as controller:
            return list(question(controller, ctx))

    return _offer(names)


managed_network = _ask(lambda c, _ctx: [n.name for n in c.network_list()])
client = _ask(lambda c, ctx: [m.name for m in c.client_list(ctx.params["network"])])
pending_client = _ask(lambda c, ctx: [m.name for m in c.client_list(ctx.params["network"]) if m.state == "pending"])
invite = _ask(lambda c, ctx: [i.id for i in c.invite_list(ctx.params["name"])])
device = _ask(lambda c, _ctx: [f"{m.name}@{m.network_name}" for d in c.device_list() for m in d.networks[:1]])
member = _ask(lambda c, ctx: [m.email for m in c.member_list(ctx.params["network"])])
user = _ask(lambda c, _ctx: [u.email for u in c.user_list()])
relay = _ask(lambda c, _ctx: [r.name for r in c.relay_list()])
network_template = _ask(lambda c, _ctx: [t.name for t in c.template_list()])
user_group = _ask(lambda c, _ctx: [g.name for g in c.group_list()])
user_invitation = _ask(lambda c, _ctx: [i.id for i in c.user_invitations()])
session = _ask(lambda c, _ctx: [s.id for s in c.session_list()])
api_key = _ask(lambda c, _ctx: [k.id for k in c.api_key_list()])
plan = _ask(lambda c, _ctx: [p.name for p in c.plan_list()])
webhook = _ask(lambda c, _ctx: [w.id for w in c.webhook_list()])
syslog = _ask(lambda c, _ctx: [s.id for s in c.syslog_list()])


# of the lab


def _nat_types(_ctx: typer.Context) -> Iterable[str]:
    from shadowmesh.lab.nat import NatType

    return [kind.value for kind in NatType]


def _lab(what: str) -> Callable[[typer.Context], Iterable[str]]:
    def names(ctx: typer.Context) -> Iterable[str]:
        from shadowmesh.lab import verbs

        return [thing["name"] for thing in verbs.status(lab_id=ctx.params["lab"])[what]]

    return names


nat_type = _offer(_nat_types)
site = _offer(_lab("sites"))
host = _offer(_lab("hosts"))


# of the help


def _topics(ctx: typer.Context) -> Iterable[str]:
    from shadowmesh.cli.help import TOPICS
    from shadowmesh.cli.main import GROUPS, VERBS
    from shadowmesh.model.reasons import Reason

    said = list(ctx.params.get("words") or [])
    if said[:1] == ["reason"]:
        return [reason.value for reason in Reason]
    return ["reason", "options", *VERBS, *GROUPS, *(word for names in TOPICS for word in names)]


topic = _offer(_topics)
