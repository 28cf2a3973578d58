"""Proof that who enrols holds the private halves of the WireGuard and the sealing key; the device key signs.

The controller asks by two things that it can compute again from the nonce and a secret of its own, so that it keeps
no state and any of its nodes can check the answer: an ephemeral X25519 key, and a value sealed to the sealing key. Only
who holds both private keys gets the shared secret and the value, and with them the key of one HMAC:

    transcript = nonce 32 ‖ controller identity 32 ‖ device key 32 ‖ WireGuard key 32 ‖ sealing key 1216 ‖ invite
    sealed     = HPKE(sealing key, value 32, info = "shadowmesh possession value 1" ‖ transcript)     1168 bytes
    key        = HKDF-SHA256(X25519(WireGuard private, ephemeral) ‖ value, no salt, info = LABEL ‖ transcript, 32 bytes)
    proof      = HMAC-SHA256(key, LABEL ‖ transcript)                     LABEL = "shadowmesh possession 1"

The proof says nothing of the shared secret itself, so a controller can't use its clients to compute with their keys;
the transcript is of no use with another controller, other keys, another invite or later.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import EphemeralPublicKey, SealingPublicKey, Secret, WireGuardPublicKey
from shadowmesh.protocol.points import check_x25519
from shadowmesh.protocol.sealing import open_sealed, seal

LABEL = b"shadowmesh possession 1"
_VALUE_INFO = b"shadowmesh possession value 1"
SECRET_SIZE = 64  # ephemeral X25519 private key ‖ value


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the controller asks by: see the module."""

    ephemeral: EphemeralPublicKey
    sealed: bytes


def make_challenge(secret: Secret, sealing_key: SealingPublicKey, transcript: bytes) -> Challenge:
    """`secret` has SECRET_SIZE bytes, derived from the transcript. Raises MalformedError if nothing can be sealed to it."""
    ephemeral, value = _parts(secret)
    public = EphemeralPublicKey(ephemeral.public_key().public_bytes_raw())
    return Challenge(public, seal(sealing_key, value, _VALUE_INFO + transcript))


def prove(challenge: Challenge, wg_private: Secret, sealing_secret: Secret, transcript: bytes) -> bytes:
    """The 32 bytes that only the holder of both private keys can give.

    Raises MalformedError if the challenge isn't one for these keys and this transcript.
    """
    check_x25519(challenge.ephemeral, "challenge's key")
    value = open_sealed(sealing_secret, challenge.sealed, _VALUE_INFO + transcript)
    private = X25519PrivateKey.from_private_bytes(wg_private.reveal())
    return _proof(private, challenge.ephemeral, value, transcript)


def is_proof(proof: bytes, secret: Secret, wg_key: WireGuardPublicKey, transcript: bytes) -> bool:
    """Whether `prove` made this of the challenge that `make_challenge` makes of the same secret and transcript."""
    ephemeral, value = _parts(secret)
    try:
        expected = _proof(ephemeral, wg_key, value, transcript)
    except MalformedError:
        return False
    return hmac.compare_digest(proof, expected)


def _parts(secret: Secret) -> tuple[X25519PrivateKey, bytes]:
    raw = secret.reveal()
    if len(raw) != SECRET_SIZE:
        raise ValueError(f"a challenge's secret has {SECRET_SIZE} bytes, not {len(raw)}")
    return X25519PrivateKey.from_private_bytes(raw[:32]), raw[32:]


def _proof(own: X25519PrivateKey, peer: bytes, value: bytes, transcript: bytes) -> bytes:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as e:
        raise MalformedError("a public key of small order") from e
    info = LABEL + transcript
    key = HKDF(SHA256(), 32, None, info).derive(shared + value)
    return hmac.digest(key, info, "sha256")
