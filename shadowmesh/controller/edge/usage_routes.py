"""The part of the REST API that is about what clients use, and how much they may."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from shadowmesh.controller.edge.access import At, Limit
from shadowmesh.controller.edge.needs import Administrator, MayReadLogs, MayView
from shadowmesh.controller.edge.routing import Name, NetworkQuery, Number, UserQuery, router
from shadowmesh.model import api
from shadowmesh.model.usage import Month, NetworkPlanPut, Plan, PlanName, PlanPut, Quota, UsageRow, UsageUnit

PlanPath = Annotated[PlanName, Path()]


@router.get("/usage", tags=["usage"])
async def list_usage(
    at: At,
    who: MayReadLogs,
    network: NetworkQuery = None,
    user: UserQuery = None,
    month: Annotated[Month | None, Query()] = None,
    by: Annotated[UsageUnit, Query()] = "month",
    cursor: Number = None,
    limit: Limit = 100,
) -> api.Page[UsageRow]:
    """Bytes by client, in a month (default: this one). A member of a network sees their own machines."""
    return await at.usage.list(who, network, user, month, by, int(cursor or 0), limit)


@router.get("/networks/{network}/quota", tags=["usage"])
async def show_quota(at: At, who: MayView, network: Name) -> Quota:
    return await at.usage.quota(who, network)


@router.put("/networks/{network}/plan", tags=["usage"])
async def assign_plan(at: At, who: Administrator, network: Name, wish: NetworkPlanPut) -> Quota:
    return await at.usage.assign(who, network, wish)


@router.get("/plans", tags=["usage"])
async def list_plans(at: At, who: Administrator) -> api.Page[Plan]:
    return api.Page(items=await at.usage.plans(who))


@router.put("/plans/{plan}", tags=["usage"])
async def set_plan(at: At, who: Administrator, plan: PlanPath, wish: PlanPut) -> Plan:
    return await at.usage.set_plan(who, plan, wish)


@router.delete("/plans/{plan}", tags=["usage"], status_code=204)
async def delete_plan(at: At, who: Administrator, plan: PlanPath) -> None:
    await at.usage.delete_plan(who, plan)
