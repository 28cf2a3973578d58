"""The calls of the REST API that are about where events and logs are sent, as `rest.ControllerClient` has them."""

from __future__ import annotations

import secrets
from typing import Any

from shadowmesh.client_api.peoplecalls import PeopleCalls, parse, part
from shadowmesh.model.receivers import (
    Sink,
    SinkCompared,
    SinkCreated,
    SinkTested,
    SyslogCreate,
    SyslogPatch,
    WebhookCreate,
    WebhookPatch,
    blinded,
)


class SinkCalls(PeopleCalls):
    """Webhooks and syslog."""

    def webhook_create(self, wish: WebhookCreate, network: str | None = None) -> SinkCreated:
        """Of a network, or of all of them."""
        path = "/webhooks" if network is None else f"/networks/{part(network)}/webhooks"
        return self._post(path, SinkCreated, wish)

    def webhook_list(self, network: str | None = None) -> list[Sink]:
        return list(self._all("/webhooks", Sink, network=network))

    def webhook_set(self, webhook: str, wish: WebhookPatch) -> Sink:
        return parse(self._send("PATCH", f"/webhooks/{part(webhook)}", _said(wish)), Sink)

    def webhook_compare(self, webhook: str, url: str | None, secret: str | None) -> SinkCompared:
        """Whether it has these, of which neither is sent."""
        nonce = secrets.token_hex(16)
        asked = {"url": url, "secret": secret}
        digests = {name: blinded(nonce, value) for name, value in asked.items() if value is not None}
        return self._get(f"/webhooks/{part(webhook)}/compare", SinkCompared, nonce=nonce, **digests)

    def webhook_delete(self, webhook: str) -> None:
        self._send("DELETE", f"/webhooks/{part(webhook)}")

    def webhook_test(self, webhook: str) -> SinkTested:
        return parse(self._send("POST", f"/webhooks/{part(webhook)}/test"), SinkTested)

    def syslog_create(self, wish: SyslogCreate) -> SinkCreated:
        return self._post("/syslog", SinkCreated, wish)

    def syslog_list(self) -> list[Sink]:
        return list(self._all("/syslog", Sink))

    def syslog_set(self, syslog: str, wish: SyslogPatch) -> Sink:
        return parse(self._send("PATCH", f"/syslog/{part(syslog)}", _said(wish)), Sink)

    def syslog_delete(self, syslog: str) -> None:
        self._send("DELETE", f"/syslog/{part(syslog)}")

    def syslog_test(self, syslog: str) -> SinkTested:
        return parse(self._send("POST", f"/syslog/{part(syslog)}/test"), SinkTested)


def _said(wish: WebhookPatch | SyslogPatch) -> dict[str, Any]:
    return wish.model_dump(mode="json", exclude_unset=True)
