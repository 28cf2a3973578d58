"""The calls of the REST API that are about where events and logs are sent, as `rest.ControllerClient` has them."""

from __future__ import annotations

from shadowmesh.client_api.peoplecalls import PeopleCalls, parse, part
from shadowmesh.model.receivers import Sink, SinkCreated, SinkTested, SyslogCreate, WebhookCreate


class SinkCalls(PeopleCalls):
    """Webhooks and syslog."""

    def webhook_create(self, wish: WebhookCreate, network: str | None = None) -> SinkCreated:
        """Of a network, or of all of them."""
        path = "/webhooks" if network is None else f"/networks/{part(network)}/webhooks"
        return self._post(path, SinkCreated, wish)

    def webhook_list(self, network: str | None = None) -> list[Sink]:
        return list(self._all("/webhooks", Sink, network=network))

    def webhook_delete(self, webhook: str) -> None:
        self._send("DELETE", f"/webhooks/{part(webhook)}")

    def webhook_test(self, webhook: str) -> SinkTested:
        return parse(self._send("POST", f"/webhooks/{part(webhook)}/test"), SinkTested)

    def syslog_create(self, wish: SyslogCreate) -> SinkCreated:
        return self._post("/syslog", SinkCreated, wish)

    def syslog_list(self) -> list[Sink]:
        return list(self._all("/syslog", Sink))

    def syslog_delete(self, syslog: str) -> None:
        self._send("DELETE", f"/syslog/{part(syslog)}")

    def syslog_test(self, syslog: str) -> SinkTested:
        return parse(self._send("POST", f"/syslog/{part(syslog)}/test"), SinkTested)
