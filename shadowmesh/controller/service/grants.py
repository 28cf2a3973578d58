"""What is for one client alone: the network keys, sealed to it, and its relay token."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from sqlalchemy.engine import Row

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.model.devicelink import Grant, SealedKey
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret
from shadowmesh.model.netmap import Member
from shadowmesh.protocol.sealing import network_key_info, seal
from shadowmesh.protocol.token import RelayLimits, RelayTokenBody, sign_token

Keys: TypeAlias = Mapping[int, Secret]
"""Network keys by epoch, the valid ones."""


def key_label(ref: str, epoch: int) -> str:
    """Under what a network key is encrypted in the database."""
    return f"network key {ref} {epoch}"


def open_keys(context: ServiceContext, ref: str, epochs: Iterable[Row[Any]], known: Keys) -> Keys:
    return {
        row.epoch: known.get(row.epoch) or context.keys.vault.decrypt(row.sealed_key, key_label(ref, row.epoch))
        for row in epochs
    }


def sealed_key(network_id: NetworkID, epoch: int, key: Secret, sealing: SealingPublicKey) -> str:
    """Base64. Raises MalformedError if nothing can be sealed to `sealing`."""
    return base64.b64encode(seal(sealing, key.reveal(), network_key_info(network_id, epoch))).decode()


def make_grant(
    context: ServiceContext,
    network_id: NetworkID,
    keys: Keys,
    member: Member,
    sealing: SealingPublicKey,
    limits: RelayLimits,
    held: Collection[int] = (),
) -> Grant:
    """Every valid epoch's key, but for those `held` already, and a fresh relay token. `limits`: of what it may be used for."""
    now = context.now().timestamp()
    token = RelayTokenBody(
        device_key=member.device_key,
        client_id=member.client_id,
        network_id=network_id,
        ip=member.ip,
        issued=now,
        renew_after=now + context.timing.token_renew,
        valid_until=now + context.timing.offline_grace,
        limits=limits,
    )
    sealed = tuple(
        SealedKey(epoch=epoch, sealed=sealed_key(network_id, epoch, key, sealing))
        for epoch, key in sorted(keys.items())
        if epoch not in held
    )
    still = tuple(epoch for epoch in sorted(keys) if epoch in held)
    return Grant(network_id=network_id, keys=sealed, held=still, relay_token=sign_token(token, context.keys.tokens))
