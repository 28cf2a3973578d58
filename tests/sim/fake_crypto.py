"""A stand-in for the ciphers, for worlds so large that X25519 would be all they cost. IT PROTECTS NOTHING.

It keeps what the protocol can see of real cryptography: sizes, agreement of two sides, and failure with a wrong key, a
wrong preshared key or one changed bit. Anyone who knows two public keys can compute their shared secret. Its public keys
begin with the bytes `FAKE`, so that none is ever taken for a real one.
"""

from __future__ import annotations

import random
from hashlib import blake2b, blake2s

from shadowmesh.model.keys import Secret
from shadowmesh.protocol.primitives import AuthFailure, Box, KeyPair


class _FakeKeyPair:
    def __init__(self, private: Secret) -> None:
        self.public = b"FAKE" + blake2s(private.reveal(), digest_size=28).digest()

    def exchange(self, peer: bytes) -> bytes:
        if not peer.startswith(b"FAKE"):
            raise AuthFailure("not a fake key")
        return blake2s(min(self.public, peer) + max(self.public, peer)).digest()


class _FakeBox:
    def __init__(self, shared: bytes) -> None:
        self._shared = shared

    def seal(self, nonce: bytes, plaintext: bytes) -> bytes:
        return _tag(self._shared, nonce, plaintext) + plaintext

    def open(self, nonce: bytes, ciphertext: bytes) -> bytes:
        plaintext = ciphertext[16:]
        if _tag(self._shared, nonce, plaintext) != ciphertext[:16]:
            raise AuthFailure("a fake box that doesn't open")
        return plaintext


def _tag(key: bytes, context: bytes, plaintext: bytes) -> bytes:
    return blake2s(len(context).to_bytes(2, "big") + context + plaintext, key=key, digest_size=16).digest()


class Fake:
    """`Primitives` whose private keys come from `seed`: the same seed makes the same keys."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def generate_private_key(self) -> Secret:
        return Secret(self._random.randbytes(32))

    def key_pair(self, private: Secret) -> KeyPair:
        return _FakeKeyPair(private)

    def seal(self, key: bytes, counter: int, plaintext: bytes, aad: bytes) -> bytes:
        return plaintext + _tag(key, counter.to_bytes(8, "little") + aad, plaintext)

    def open(self, key: bytes, counter: int, ciphertext: bytes, aad: bytes) -> bytes:
        plaintext = ciphertext[:-16]
        if _tag(key, counter.to_bytes(8, "little") + aad, plaintext) != ciphertext[-16:]:
            raise AuthFailure("a fake message that doesn't authenticate")
        return plaintext

    def hash(self, data: bytes) -> bytes:
        return blake2s(data).digest()

    def kdf(self, chain: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
        both = blake2b(material, key=chain).digest()
        return (both[:32], both[32:], blake2s(both).digest())[:outputs]

    def box(self, private: Secret, peer: bytes) -> Box:
        return _FakeBox(_FakeKeyPair(private).exchange(peer))
