"""The few cryptographic operations that handshake and disco are built from, as one replaceable object.

`REAL` is what runs. A simulation of hundreds of nodes may pass another `Primitives` where thousands of
X25519 multiplications would be the whole of its cost; nothing outside the tests has one.
"""

from __future__ import annotations

import secrets
from hashlib import blake2s
from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret


class AuthFailure(MalformedError):
    """Well-formed bytes that don't authenticate: another key, another preshared key, or tampering."""


class KeyPair(Protocol):
    """A private key, ready for Diffie–Hellman."""

    @property
    def public(self) -> bytes: ...

    def exchange(self, peer: bytes) -> bytes:
        """The 32-byte shared secret. Raises AuthFailure where it would be all zero (a point of small order)."""


class Box(Protocol):
    """Authenticated encryption between two static keys; both ends hold the same one."""

    def seal(self, nonce: bytes, plaintext: bytes) -> bytes: ...

    def open(self, nonce: bytes, ciphertext: bytes) -> bytes:
        """Raises AuthFailure."""


class Primitives(Protocol):
    """Diffie–Hellman, AEAD, hash, key derivation and box."""

    def generate_private_key(self) -> Secret: ...

    def key_pair(self, private: Secret) -> KeyPair: ...

    def seal(self, key: bytes, counter: int, plaintext: bytes, aad: bytes) -> bytes:
        """`counter` makes the nonce as in WireGuard: 4 zero bytes, u64 little-endian."""

    def open(self, key: bytes, counter: int, ciphertext: bytes, aad: bytes) -> bytes:
        """Raises AuthFailure."""

    def hash(self, data: bytes) -> bytes: ...

    def kdf(self, chain: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
        """KDF1, KDF2, KDF3 of the WireGuard paper, section 5.4."""

    def box(self, private: Secret, peer: bytes) -> Box: ...


_IPAD: Final = bytes(i ^ 0x36 for i in range(256))
_OPAD: Final = bytes(i ^ 0x5C for i in range(256))
_INNER_REST: Final = b"\x36" * 32
_OUTER_REST: Final = b"\x5c" * 32


def hmac_blake2s(key: bytes, data: bytes) -> bytes:
    """HMAC-BLAKE2s (RFC 2104) with a 32-byte key; half the cost of `hmac.new`, and a handshake needs twenty."""
    inner = blake2s(key.translate(_IPAD) + _INNER_REST + data).digest()
    return blake2s(key.translate(_OPAD) + _OUTER_REST + inner).digest()


class _X25519KeyPair:
    __slots__ = ("_private", "public")

    def __init__(self, private: Secret) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private.reveal())
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as e:  # how OpenSSL refuses the all-zero result
            raise AuthFailure("a public key of small order") from e


class _NaClBox:
    """crypto_box: X25519, HSalsa20, XSalsa20-Poly1305, the shared key computed once."""

    __slots__ = ("_shared",)

    def __init__(self, private: Secret, peer: bytes) -> None:
        try:
            self._shared = nacl.bindings.crypto_box_beforenm(peer, private.reveal())
        except (nacl.exceptions.CryptoError, RuntimeError) as e:
            raise AuthFailure("a public key of small order") from e

    def seal(self, nonce: bytes, plaintext: bytes) -> bytes:
        return nacl.bindings.crypto_box_easy_afternm(plaintext, nonce, self._shared)

    def open(self, nonce: bytes, ciphertext: bytes) -> bytes:
        try:
            return nacl.bindings.crypto_box_open_easy_afternm(ciphertext, nonce, self._shared)
        except (nacl.exceptions.CryptoError, nacl.exceptions.TypeError) as e:
            raise AuthFailure("a box that doesn't open") from e


class _Real:
    __slots__ = ()

    def generate_private_key(self) -> Secret:
        key = bytearray(secrets.token_bytes(32))
        key[0] &= 248  # clamped as `wg genkey` does, so that an exported key reads the same everywhere
        key[31] = key[31] & 127 | 64
        return Secret(bytes(key))

    def key_pair(self, private: Secret) -> KeyPair:
        return _X25519KeyPair(private)

    def seal(self, key: bytes, counter: int, plaintext: bytes, aad: bytes) -> bytes:
        return ChaCha20Poly1305(key).encrypt(_nonce(counter), plaintext, aad)

    def open(self, key: bytes, counter: int, ciphertext: bytes, aad: bytes) -> bytes:
        try:
            return ChaCha20Poly1305(key).decrypt(_nonce(counter), ciphertext, aad)
        except InvalidTag as e:
            raise AuthFailure("a message that doesn't authenticate") from e

    def hash(self, data: bytes) -> bytes:
        return blake2s(data).digest()

    def kdf(self, chain: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
        secret = hmac_blake2s(chain, material)
        first = hmac_blake2s(secret, b"\x01")
        if outputs == 1:
            return (first,)
        second = hmac_blake2s(secret, first + b"\x02")
        if outputs == 2:
            return first, second
        return first, second, hmac_blake2s(secret, second + b"\x03")

    def box(self, private: Secret, peer: bytes) -> Box:
        return _NaClBox(private, peer)


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


REAL: Final[Primitives] = _Real()
