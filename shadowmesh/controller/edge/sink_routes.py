"""The part of the REST API that is about where events and logs are sent: webhooks, syslog."""

from __future__ import annotations

from shadowmesh.controller.edge.access import At, IdempotencyKey
from shadowmesh.controller.edge.needs import Administrator, MayConfigure
from shadowmesh.controller.edge.routing import Name, NetworkQuery, router
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.model import api
from shadowmesh.model.receivers import (
    Blinded,
    Nonce,
    Sink,
    SinkCompared,
    SinkCreated,
    SinkTested,
    SyslogCreate,
    SyslogPatch,
    WebhookCreate,
    WebhookPatch,
)


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


@router.patch("/webhooks/{webhook}", tags=["webhooks"])
async def set_webhook(at: At, who: MayConfigure, webhook: Name, wish: WebhookPatch) -> Sink:
    """What waits for it is sent there from now on. It lives by the rights of who changed it last."""
    return await at.sinks.set(who, "webhook", webhook, wish)


@router.get("/webhooks/{webhook}/compare", tags=["webhooks"])
async def compare_webhook(
    at: At, who: MayConfigure, webhook: Name, nonce: Nonce, url: Blinded | None = None, secret: Blinded | None = None
) -> SinkCompared:
    """Whether it has a URL and a secret that one knows: of each, HMAC-SHA256 in hex, with the nonce's characters as the key."""
    return await at.sinks.compare(who, webhook, nonce, url, secret)


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


@router.patch("/syslog/{syslog}", tags=["webhooks"])
async def set_syslog(at: At, who: Administrator, syslog: Name, wish: SyslogPatch) -> Sink:
    return await at.sinks.set(who, "syslog", syslog, wish)


@router.delete("/syslog/{syslog}", tags=["webhooks"], status_code=204)
async def delete_syslog(at: At, who: Administrator, syslog: Name) -> None:
    await at.sinks.delete(who, "syslog", syslog)


@router.post("/syslog/{syslog}/test", tags=["webhooks"])
async def test_syslog(at: At, who: Administrator, syslog: Name) -> SinkTested:
    """Sends a line that says that it is a test."""
    return await at.delivery.test(at.sinks, who, "syslog", syslog)
