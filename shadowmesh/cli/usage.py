"""`shadowmesh usage`, `plan …`: what clients use, and how much they may."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, size, table, verb
from shadowmesh.cli.managed import connect, request
from shadowmesh.client_api.exports import export
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model.usage import Plan, Quota, UsageRow

_UNITS = ("month", "day", "hour")
PlanName = Annotated[str, typer.Argument(help="The plan's name.", metavar="NAME", autocompletion=suggest.plan)]
Network = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network),
]


def attach(app: typer.Typer) -> None:
    verb(app, "usage", ["usage home", "usage --month 2026-01 --csv january.csv", "usage home --by day"], managed=True)(
        usage
    )
    plans = new_app("How much networks may use.")
    verb(plans, "list", "plan list", managed=True)(plan_list)
    verb(
        plans,
        "set",
        [
            "plan set free --clients 3 --traffic 10GB --relay-rate 10mbit",
            "plan set pro --clients 10 --traffic 100GB",
            "plan set team --clients 50",
        ],
        managed=True,
    )(plan_set)
    verb(plans, "assign", ["plan assign home pro", "plan assign home --none"], managed=True)(plan_assign)
    verb(plans, "delete", "plan delete free", managed=True)(plan_delete)
    app.add_typer(plans, name="plan")


def usage(
    call: Call,
    network: Annotated[
        str | None,
        typer.Argument(
            help="The network's name or id (net_…).", metavar="[NETWORK]", autocompletion=suggest.managed_network
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Only machines of this one.", autocompletion=suggest.user)
    ] = None,
    month: Annotated[str | None, typer.Option("--month", help="YYYY-MM, in UTC; default: this one.")] = None,
    by: Annotated[
        str, typer.Option("--by", help="Sums by month, day or hour.", autocompletion=suggest.words(*_UNITS))
    ] = "month",
    file: Annotated[Path | None, typer.Option("--csv", help="Write it to a new file, in bytes.")] = None,
) -> None:
    """Bytes that clients sent and received, relayed and direct; and how much of its plan a network has used."""
    from shadowmesh.model.usage import UsageRow

    if by not in _UNITS:
        raise ShadowMeshError("bad_option", f"--by {by!r} isn't usable", "say month, day or hour", kind=Kind.USAGE)
    if month is not None and not re.fullmatch(r"[12][0-9]{3}-(0[1-9]|1[0-2])", month):
        raise ShadowMeshError("bad_option", f"--month {month!r} is no month", "write it as 2026-01", kind=Kind.USAGE)
    with connect(call) as controller:
        found = controller.usage(network, user=user, month=month, by=by)  # type: ignore[arg-type]
        if file is not None:
            count = export(file, "csv", "usage", UsageRow, found)
            call.done("export/1", {"file": str(file), "lines": count}, f"{file}: {count} lines")
            return
        rows = list(found)
        quota = None if network is None else controller.quota(network)
    document = {"usage": [row.model_dump(mode="json") for row in rows]}
    if quota is not None:
        document["quota"] = quota.model_dump(mode="json")  # type: ignore[assignment]
    call.done("usage/1", document, lambda: _shown(rows, quota, by))


def _shown(rows: list[UsageRow], quota: Quota | None, by: str) -> str:
    headers = ("NETWORK", "CLIENT", "USER", "RELAYED OUT", "RELAYED IN", "DIRECT OUT", "DIRECT IN")
    when = () if by == "month" else ("AT",)
    cells = [
        [
            *([row.since.strftime("%Y-%m-%d %H:%MZ" if by == "hour" else "%Y-%m-%d")] if when else []),
            row.network,
            row.client or row.client_id,
            row.user,
            *map(size, (row.relayed_sent, row.relayed_received, row.direct_sent, row.direct_received)),
        ]
        for row in rows
    ]
    page = table((*when, *headers), cells)
    return page if quota is None else f"{_standing(quota)}\n\n{page}"


def _standing(quota: Quota) -> str:
    of = "" if quota.monthly_bytes is None else f" of {size(quota.monthly_bytes)} ({quota.percent} %)"
    plan = "no plan" if quota.plan is None else f"plan {quota.plan}"
    over = ": used up; what clients send through relays is slowed down, and none may join" if quota.over else ""
    return f"{quota.network}, {quota.month}: {size(quota.used)}{of}, {quota.clients} of {quota.max_clients} clients, {plan}{over}"


def plan_list(call: Call) -> None:
    """The plans."""
    with connect(call) as controller:
        found = controller.plan_list()
    call.done(
        "plans/1",
        {"plans": [plan.model_dump(mode="json") for plan in found]},
        lambda: table(
            ("NAME", "CLIENTS", "TRAFFIC A MONTH", "RELAY RATE", "OF ALL", "OVER QUOTA", "NETWORKS"), map(_cells, found)
        ),
    )


def _cells(plan: Plan) -> list[object]:
    traffic = None if plan.monthly_bytes is None else size(plan.monthly_bytes)
    rates = [None if rate is None else f"{rate} kbit/s" for rate in (plan.relay_kbit, plan.network_relay_kbit)]
    return [plan.name, plan.max_clients, traffic, *rates, f"{plan.over_quota_kbit} kbit/s", plan.networks]


def plan_set(
    call: Call,
    name: PlanName,
    clients: Annotated[int | None, typer.Option("--clients", min=1, help="At most so many in a network.")] = None,
    traffic: Annotated[
        str | None, typer.Option("--traffic", help="A month, as 10GB: each byte that comes to a client.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--relay-rate", help="What each client may send through relays, as 10mbit.")
    ] = None,
    together: Annotated[
        str | None,
        typer.Option("--network-relay-rate", help="What all clients of a network may send through a relay together."),
    ] = None,
    over: Annotated[
        str, typer.Option("--over-quota-rate", help="The same, once the month's traffic is used up.")
    ] = "64kbit",
) -> None:
    """Make a plan, or change it for all who have it: what isn't given has no limit."""
    from shadowmesh.model.usage import PlanPut, bytes_of, kbit_of

    wish = request(
        PlanPut,
        max_clients=clients,
        monthly_bytes=None if traffic is None else _of(bytes_of, "--traffic", traffic),
        relay_kbit=None if rate is None else _of(kbit_of, "--relay-rate", rate),
        network_relay_kbit=None if together is None else _of(kbit_of, "--network-relay-rate", together),
        over_quota_kbit=_of(kbit_of, "--over-quota-rate", over),
    )
    with connect(call) as controller:
        plan = controller.plan_set(name, wish)
    call.done("plan/1", plan.model_dump(mode="json"), f"{plan.name}: set; networks that have it: {plan.networks}")


def _of(read: Callable[[str], int], option: str, text: str) -> int:
    try:
        return read(text)
    except ValueError as e:
        why, _, remedy = str(e).partition(": ")
        raise ShadowMeshError("bad_option", f"{option} {text!r} {why}", remedy, kind=Kind.USAGE) from e


def plan_assign(
    call: Call,
    network: Network,
    plan: Annotated[str | None, typer.Argument(help="The plan.", metavar="PLAN", autocompletion=suggest.plan)] = None,
    none: Annotated[bool, typer.Option("--none", help="No plan: no limits.")] = False,
) -> None:
    """Give a network a plan, or none."""
    if (plan is None) == (not none):
        raise ShadowMeshError("bad_option", "which plan?", "name one, or say --none", kind=Kind.USAGE)
    with connect(call) as controller:
        quota = controller.plan_assign(network, plan)
    call.done("quota/1", quota.model_dump(mode="json"), lambda: _standing(quota))


def plan_delete(call: Call, name: PlanName) -> None:
    """Delete a plan that no network has."""
    with connect(call) as controller:
        controller.plan_delete(name)
    call.done("plan-deleted/1", {"name": name}, f"{name}: deleted")
