"""Checkpoints of the audit log: what a controller commits to, and clients keep as witnesses.

    commitment = SHA-256("shadowmesh audit commitment 1" ‖ salt 32 ‖ u64be seq ‖ head 32)
    signed     = f64be time of the newest entry ‖ commitment, by an audit key that the identity document vouches for

A client can check the signature and nothing more: without the salt, which the controller alone can tell, the commitment
says neither how long the log is nor what is in it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection

from shadowmesh.model.devicelink import AuditCheckpoint
from shadowmesh.model.keys import SigningPublicKey
from shadowmesh.protocol.signing import Context, Signer, sign_text, verify_text

_LABEL = b"shadowmesh audit commitment 1"


def commitment(salt: bytes, seq: int, head: bytes) -> str:
    """To the log whose newest entry has number `seq` and hash `head`: 64 hex digits. `salt` has 32 bytes."""
    return hashlib.sha256(_LABEL + salt + struct.pack(">Q", seq) + head).hexdigest()


def sign_checkpoint(signer: Signer, committed: str, at: float) -> AuditCheckpoint:
    """`at`: Unix time of the newest entry."""
    value = sign_text(signer, Context.AUDIT, _message(committed, at))
    return AuditCheckpoint(key=signer.public, commitment=committed, at=at, signature=value)


def verify_checkpoint(checkpoint: AuditCheckpoint, keys: Collection[SigningPublicKey]) -> bool:
    """Whether one of `keys` signed it."""
    if checkpoint.key not in keys:
        return False
    try:
        message = _message(checkpoint.commitment, checkpoint.at)
    except ValueError:
        return False
    return verify_text(checkpoint.key, Context.AUDIT, message, checkpoint.signature)


def _message(committed: str, at: float) -> bytes:
    raw = bytes.fromhex(committed)
    if len(raw) != 32:
        raise ValueError("a commitment has 32 bytes")
    return struct.pack(">d", at) + raw
