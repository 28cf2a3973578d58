"""The part of the REST API that is about where events and logs are sent: webhooks, syslog."""

from __future__ import annotations

from shadowmesh.controller.edge.access import At, IdempotencyKey
from shadowmesh.controller.edge.needs import Administrator, MayConfigure
from shadowmesh.controller.edge.routing import Name, NetworkQuery, router
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.model import api
from shadowmesh.model.receivers import Sink, SinkCreated, SinkTested, SyslogCreate, WebhookCreate


@router.post("/networks/{network}/webhooks", tags=["webhooks"], status_code=201)
async def create_network_webhook(
    at: At, who: MayConfigure, network: Name, wish: WebhookCreate, key: IdempotencyKey = None
) -> SinkCreated:
    """Of this network. The answer alone has the secret that what is sent is signed with."""
    return await at.sinks.create_webhook(who, network, wish, IdempotentRequest.of(key, f"webhooks of {network}", wish))


@router.post("/webhooks", tags=["webhooks"], status_code=201)
async def create_webhook(at: At, who: Administrator, wish: WebhookCreate, key: IdempotencyKey = None) -> SinkCreated:
    """Of all networks."""
    return await at.sinks.create_webhook(who, None, wish, IdempotentRequest.of(key, "webhooks", wish))


@router.get("/webhooks", tags=["webhooks"])
async def list_webhooks(at: At, who: MayConfigure, network: NetworkQuery = None) -> api.Page[Sink]:
    """Those that one may end."""
    return api.Page(items=await at.sinks.list(who, "webhook", network))


@router.delete("/webhooks/{webhook}", tags=["webhooks"], status_code=204)
async def delete_webhook(at: At, who: MayConfigure, webhook: Name) -> None:
    await at.sinks.delete(who, "webhook", webhook)


@router.post("/webhooks/{webhook}/test", tags=["webhooks"])
async def test_webhook(at: At, who: MayConfigure, webhook: Name) -> SinkTested:
    """Sends a `webhook.test`, once, and tells what came back."""
    return await at.delivery.test(at.sinks, who, "webhook", webhook)


@router.post("/syslog", tags=["webhooks"], status_code=201)
async def create_syslog(at: At, who: Administrator, wish: SyslogCreate, key: IdempotencyKey = None) -> SinkCreated:
    return await at.sinks.create_syslog(who, wish, IdempotentRequest.of(key, "syslog", wish))


@router.get("/syslog", tags=["webhooks"])
async def list_syslog(at: At, who: Administrator) -> api.Page[Sink]:
    return api.Page(items=await at.sinks.list(who, "syslog"))


@router.delete("/syslog/{syslog}", tags=["webhooks"], status_code=204)
async def delete_syslog(at: At, who: Administrator, syslog: Name) -> None:
    await at.sinks.delete(who, "syslog", syslog)


@router.post("/syslog/{syslog}/test", tags=["webhooks"])
async def test_syslog(at: At, who: Administrator, syslog: Name) -> SinkTested:
    """Sends a line that says that it is a test."""
    return await at.delivery.test(at.sinks, who, "syslog", syslog)
