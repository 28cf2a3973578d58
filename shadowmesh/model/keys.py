"""Keys and secrets as types of their own."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import ClassVar, Self

from shadowmesh.model.errors import MalformedError


class FixedBytes(bytes):
    """Public bytes of one exact length. Text form: standard base64, as wg(8) prints keys."""

    LENGTH: ClassVar[int] = 32
    __slots__ = ()

    def __new__(cls, value: bytes | bytearray | memoryview) -> Self:
        if len(value) != cls.LENGTH:
            raise MalformedError(f"{cls.__name__} has {cls.LENGTH} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def pattern(cls) -> str:
        """A regular expression of the text form."""
        whole, rest = divmod(cls.LENGTH, 3)
        end = ("", "[A-Za-z0-9+/][AQgw]==", "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=")[rest]
        return f"^(?:[A-Za-z0-9+/]{{4}}){{{whole}}}{end}$"

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as e:
            raise MalformedError(f"not a {cls.__name__} in base64: {text[:60]!r}") from e

    def __str__(self) -> str:
        return base64.b64encode(self).decode()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)[:8]}…)"


class WireGuardPublicKey(FixedBytes):
    """X25519, fresh for each network: it names a network and a peer in it."""

    __slots__ = ()


class DevicePublicKey(FixedBytes):
    """Ed25519: authenticates a device to the controller and to relays, nothing else."""

    __slots__ = ()


class SigningPublicKey(FixedBytes):
    """Ed25519: the controller's identity key, or one of its map-signing keys, or a relay's own."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        return "sha256:" + hashlib.sha256(self).hexdigest()


class EphemeralPublicKey(FixedBytes):
    """X25519, for one exchange and never again."""

    __slots__ = ()


class SealingPublicKey(FixedBytes):
    """HPKE MLKEM768_X25519 public key (1184 + 32 bytes): network keys are sealed to it."""

    LENGTH = 1216
    __slots__ = ()


class NetworkID(FixedBytes):
    """SHA-256 of the network key of epoch 0. Public."""

    __slots__ = ()

    @classmethod
    def of(cls, network_key: Secret) -> NetworkID:
        return cls(hashlib.sha256(network_key.reveal()).digest())


class Secret:
    """Bytes that must not be seen: prints as `***`, compares in constant time, is not JSON."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac

        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
