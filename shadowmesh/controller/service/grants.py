"""What is for one client alone: the network keys, sealed to it, and its relay token."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from sqlalchemy.engine import Row

from shadowmesh.controller.service.core import Core
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret
from shadowmesh.model.link import Grant, SealedKey
from shadowmesh.model.netmap import Member
from shadowmesh.protocol.sealing import network_key_info, seal
from shadowmesh.protocol.token import RelayTokenBody, sign_token

Keys: TypeAlias = Mapping[int, Secret]
"""Network keys by epoch, the valid ones."""


def key_label(ref: str, epoch: int) -> str:
    """Under what a network key is encrypted in the database."""
    return f"network key {ref} {epoch}"


def open_keys(core: Core, ref: str, epochs: Iterable[Row[Any]], known: Keys) -> Keys:
    return {
        row.epoch: known.get(row.epoch) or core.keys.vault.decrypt(row.sealed_key, key_label(ref, row.epoch))
        for row in epochs
    }


def make_grant(core: Core, network_id: NetworkID, keys: Keys, member: Member, sealing: SealingPublicKey) -> Grant:
    """Every valid epoch's key, and a fresh relay token."""
    now = core.now().timestamp()
    token = RelayTokenBody(
        device_key=member.device_key,
        client_id=member.client_id,
        network_id=network_id,
        ip=member.ip,
        issued=now,
        renew_after=now + core.timing.token_renew,
        valid_until=now + core.timing.offline_grace,
    )
    sealed = tuple(
        SealedKey(
            epoch=epoch,
            sealed=base64.b64encode(seal(sealing, key.reveal(), network_key_info(network_id, epoch))).decode(),
        )
        for epoch, key in sorted(keys.items())
    )
    return Grant(network_id=network_id, keys=sealed, relay_token=sign_token(token, core.keys.tokens))
