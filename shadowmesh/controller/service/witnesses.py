"""Witnesses of the audit log: clients that keep what the controller commits to, so that it can't be taken back.

Once a minute, if there is a new entry, some connected clients of each network get a signed checkpoint
(`protocol.checkpoints`). Who they are follows a keyed order of the clients: the same ones again and again, as long as
they are there, and nobody else can tell which. `audit verify` asks them for what they keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import secrets
from dataclasses import dataclass, field

import sqlalchemy as sa

from shadowmesh.controller.keyring import Vault
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import DeviceLink, Hub, encode
from shadowmesh.controller.store import schema
from shadowmesh.model.devicelink import KEPT_CHECKPOINTS, AuditCheckpoint, AuditQuery, AuditTestimony
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey
from shadowmesh.protocol.checkpoints import commitment, sign_checkpoint, verify_checkpoint

TOLD = 3  # witnesses of each network that get a checkpoint
_ASKED = 8  # of each network, some of which may have been away
_MOST_ASKED = 200  # in all


def commitment_of(vault: Vault, seq: int, head: str) -> str:
    """To the audit log up to entry `seq`, whose hash is `head`. The salt is one that no one else can tell."""
    return commitment(bytes.fromhex(vault.mac("audit salt", str(seq))), seq, bytes.fromhex(head))


@dataclass(slots=True)
class Testimony:
    """What the asked clients keep. `checkpoints` has the commitments that are ours, with the time of their entry."""

    asked: int
    answered: int = 0
    checkpoints: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Inquiry:
    waiting: set[DevicePublicKey]
    found: Testimony
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Witnesses:
    def __init__(self, context: ServiceContext, hub: Hub) -> None:
        self._context = context
        self._hub = hub
        self._told = ""  # the hash of the newest entry that some client has a checkpoint of
        self._inquiries: dict[str, _Inquiry] = {}

    async def tell(self) -> None:
        """Commits to the newest entry, if there is one that nobody was told of and somebody to be told."""
        head, log = schema.audit_head, schema.audit
        query = sa.select(head.c.seq, head.c.hash, log.c.at).join(log, log.c.seq == head.c.seq)
        newest = await self._context.read(lambda conn: conn.execute(query).first())
        if newest is None or newest.hash == self._told:
            return
        links = self._ranked(TOLD)
        if not links:
            return
        keys = self._context.keys
        committed = commitment_of(keys.vault, newest.seq, newest.hash)
        text = encode(sign_checkpoint(keys.audit, committed, newest.at.timestamp()))
        for link in links:
            link.post(text)
        self._told = newest.hash

    async def ask(self) -> Testimony:
        """What connected witnesses answer within some seconds."""
        links = self._ranked(_ASKED)[:_MOST_ASKED]
        nonce = secrets.token_hex(16)
        inquiry = _Inquiry({link.device_key for link in links}, Testimony(len(links)))
        if links:
            self._inquiries[nonce] = inquiry
            try:
                text = encode(AuditQuery(nonce=nonce))
                for link in links:
                    link.post(text)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(inquiry.done.wait(), self._context.timing.testimony)
            finally:
                del self._inquiries[nonce]
        return inquiry.found

    def take(self, link: DeviceLink, message: AuditTestimony) -> None:
        """A client's answer: counts once, from who was asked, and only for what this controller signed."""
        inquiry = self._inquiries.get(message.nonce)
        if inquiry is None or link.device_key not in inquiry.waiting:
            return
        inquiry.waiting.remove(link.device_key)
        inquiry.found.answered += 1
        known = inquiry.found.checkpoints  # most witnesses keep the same: each signature is looked at once
        for checkpoint in message.checkpoints[:KEPT_CHECKPOINTS]:
            if checkpoint.commitment not in known and self._is_ours(checkpoint):
                known[checkpoint.commitment] = checkpoint.at
        if not inquiry.waiting:
            inquiry.done.set()

    def _is_ours(self, checkpoint: AuditCheckpoint) -> bool:
        return verify_checkpoint(checkpoint, {self._context.keys.audit.public})

    def _ranked(self, count: int) -> list[DeviceLink]:
        """The first connected clients of each network, each device once."""
        found: dict[DevicePublicKey, DeviceLink] = {}
        for ref, members in self._hub.networks.items():
            for client_id in heapq.nsmallest(count, members, key=lambda c: self._rank(ref, c)):
                found[members[client_id].device_key] = members[client_id]
        return list(found.values())

    def _rank(self, ref: NetworkRef, client_id: ClientID) -> str:
        return self._context.keys.vault.mac("audit witness", f"{ref} {client_id}")
