"""The cipher of transport packets, and a fake of it for simulations that study everything but the cipher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

Buffer: TypeAlias = bytes | bytearray | memoryview
TAG_SIZE = 16


class Aead(Protocol):
    """One direction's key. Nonce: 12 bytes; no associated data in WireGuard's transport packets."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: None, /) -> bytes: ...

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: None, /) -> bytes:
        """Raises cryptography's InvalidTag."""

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: None, buf: bytearray | memoryview, /
    ) -> int: ...

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: None, buf: bytearray | memoryview, /
    ) -> int: ...


AeadFactory: TypeAlias = Callable[[bytes], Aead]


class FakeAead:
    """NOT A CIPHER: leaves the text readable and appends 16 bytes of key and counter, so that a wrong key, a wrong
    counter or a cut packet still fails. For simulated worlds of hundreds of nodes only."""

    def __init__(self, key: bytes) -> None:
        self._mark = key[:8]

    def _tag(self, nonce: Buffer) -> bytes:
        return self._mark + bytes(nonce[4:12])

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: None, /) -> bytes:
        return bytes(data) + self._tag(nonce)

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: None, /) -> bytes:
        if bytes(data[-TAG_SIZE:]) != self._tag(nonce):
            raise InvalidTag
        return bytes(data[:-TAG_SIZE])

    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: None, buf: bytearray | memoryview, /) -> int:
        buf[:] = self.encrypt(nonce, data, None)
        return len(buf)

    def decrypt_into(self, nonce: Buffer, data: Buffer, associated_data: None, buf: bytearray | memoryview, /) -> int:
        buf[:] = self.decrypt(nonce, data, None)
        return len(buf)


__all__ = ["TAG_SIZE", "Aead", "AeadFactory", "Buffer", "ChaCha20Poly1305", "FakeAead", "InvalidTag"]
