"""The calls of the REST API that are about what clients use, as `rest.ControllerClient` has them."""

from __future__ import annotations

from collections.abc import Iterator

from shadowmesh.client_api.peoplecalls import parse, part
from shadowmesh.client_api.sinkcalls import SinkCalls
from shadowmesh.model.usage import NetworkPlanPut, Plan, PlanPut, Quota, UsageRow, UsageUnit


class UsageCalls(SinkCalls):
    """Usage and plans."""

    def usage(
        self, network: str | None = None, *, user: str | None = None, month: str | None = None, by: UsageUnit = "month"
    ) -> Iterator[UsageRow]:
        return self._all("/usage", UsageRow, network=network, user=user, month=month, by=by)

    def quota(self, network: str) -> Quota:
        return self._get(f"/networks/{part(network)}/quota", Quota)

    def plan_list(self) -> list[Plan]:
        return list(self._all("/plans", Plan))

    def plan_set(self, plan: str, wish: PlanPut) -> Plan:
        return parse(self._send("PUT", f"/plans/{part(plan)}", wish), Plan)

    def plan_delete(self, plan: str) -> None:
        self._send("DELETE", f"/plans/{part(plan)}")

    def plan_assign(self, network: str, plan: str | None) -> Quota:
        """None: no plan, no limits."""
        body = NetworkPlanPut(plan=plan).model_dump()  # None is to be said
        return parse(self._send("PUT", f"/networks/{part(network)}/plan", body), Quota)
