"""Sealing to one reader: HPKE (RFC 9180), base mode, MLKEM768_X25519 with HKDF-SHA256 and ChaCha20-Poly1305.

Network keys leave the controller only in this form. A secret key is the ML-KEM seed (64 bytes, FIPS 203) ‖ the X25519
private key (32); a public key is the ML-KEM encapsulation key (1184) ‖ the X25519 public key (32).
"""

from __future__ import annotations

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_SEED = 64
SECRET_SIZE = _SEED + 32
_MLKEM_PUBLIC = 1184


def generate_sealing_keys() -> tuple[Secret, SealingPublicKey]:
    """A fresh pair: 96 secret bytes to keep, 1216 public ones to give away."""
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    secret = Secret(mlkem.private_bytes_raw() + x25519.private_bytes_raw())
    return secret, SealingPublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())


def sealing_public_key(secret: Secret) -> SealingPublicKey:
    """The public half. Raises MalformedError if `secret` hasn't 96 bytes."""
    mlkem, x25519 = _private_parts(secret)
    return SealingPublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())


def _private_parts(secret: Secret) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    raw = secret.reveal()
    if len(raw) != SECRET_SIZE:
        raise MalformedError(f"a sealing secret has {SECRET_SIZE} bytes, not {len(raw)}")
    return MLKEM768PrivateKey.from_seed_bytes(raw[:_SEED]), X25519PrivateKey.from_private_bytes(raw[_SEED:])


def _public(public: SealingPublicKey) -> MLKEM768X25519PublicKey:
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:]),
        )
    except ValueError as e:
        raise MalformedError("not a sealing key") from e


def seal(public: SealingPublicKey, plaintext: bytes, info: bytes) -> bytes:
    """Enc ‖ ciphertext: 1136 bytes more than `plaintext`. `info` says what it is; the reader has to say the same.

    Raises MalformedError if `public` is no key.
    """
    try:
        return _SUITE.encrypt(plaintext, _public(public), info)
    except ValueError as e:  # the all-zero X25519 point
        raise MalformedError("not a sealing key") from e


def open_sealed(secret: Secret, blob: bytes, info: bytes) -> bytes:
    """The plaintext. Raises MalformedError if it was sealed to another key, for another purpose, or was changed."""
    private = MLKEM768X25519PrivateKey(*_private_parts(secret))
    try:
        return _SUITE.decrypt(blob, private, info)
    except (InvalidTag, ValueError) as e:
        raise MalformedError("the sealed message doesn't open with this key") from e


def key_check(network_id: NetworkID, epoch: int, key: Secret) -> str:
    """What shows to who holds the same network key that it is the same, and to nobody else anything; 32 characters.

    HMAC-SHA256(key, `shadowmesh key check 1` ‖ NetworkID ‖ u32be(epoch)), the first 16 bytes in hex. The key is random.
    """
    message = b"shadowmesh key check 1" + network_id + struct.pack(">I", epoch)
    return hmac.digest(key.reveal(), message, "sha256")[:16].hex()


def network_key_info(network_id: NetworkID, epoch: int) -> bytes:
    """The `info` under which the network key of one epoch is sealed to a client."""
    return b"shadowmesh network key 1" + network_id + struct.pack(">I", epoch)
