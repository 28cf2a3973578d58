"""The relay's certificate of its controller's authority: `DATA_DIR/client.crt` and `client.key`, shown on each link and renewed."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from shadowmesh.client_api.clientcertificate import renewal, signing_request
from shadowmesh.client_api.contact import Contact
from shadowmesh.client_api.dialing import Connect, http_client
from shadowmesh.model.codec import to_json
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.relaylink import RelayCertificate, RelayCertificateRequest
from shadowmesh.relay.store import RelayStore

log = structlog.get_logger(__name__)

_LOOK, _RETRY = 6 * 3600.0, 3600.0  # seconds between looks whether it should be renewed, and tries
_TIMEOUT = 5.0


class RelayCertificateFiles:
    """`post(client, path, body, kind)` asks the controller. Raises ShadowMeshError."""

    def __init__(self, store: RelayStore, dial: Connect | None, post: Callable[..., Awaitable[Any]]) -> None:
        self._store = store
        self._dial = dial
        self._post = post

    def exists(self) -> bool:
        return self._store.certificate.exists()

    def request(self) -> str:
        """A signing request of the key that is here, made at the first time."""
        return signing_request(self._store.certificate_secret())

    def replace(self, pem: str) -> None:
        self._store.keep_certificate(pem)

    def show(self, contact: Contact) -> None:
        """Puts the certificate into what the controller is connected with, where there is one."""
        if self.exists():
            try:
                contact.tls.load_cert_chain(self._store.certificate, self._store.certificate_key)
            except (OSError, ssl.SSLError) as e:
                log.warning("the relay's certificate can't be used", file=str(self._store.certificate), why=str(e))

    async def keep(self, contact: Contact) -> None:
        """Has it renewed at two thirds of its life, for as long as a link lasts."""
        while self.exists():
            try:
                relay_id, due = renewal(self._store.certificate, dt.datetime.now(dt.UTC), "relay")
                if due <= 0:
                    with http_client(contact.tls, _TIMEOUT, self._dial, base_url=contact.url) as http:
                        wish = to_json(RelayCertificateRequest(csr=self.request()))
                        answer = await self._post(http, "/api/v1/relays/certificate", wish, RelayCertificate)
                    self.replace(answer.certificate)
                    log.info("certificate renewed", relay_id=relay_id)
                    due = _LOOK
            except ShadowMeshError as e:
                log.warning("the relay's certificate isn't renewed", why=str(e))
                due = _RETRY
            await asyncio.sleep(min(due, _LOOK))
