"""The controller's keys, all outside the database: who steals the database alone gets none of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.protocol.signing import Signer
from shadowmesh.serving.files import write_private

_NONCE = 12


class Vault:
    """Encrypts what lies in the database (AES-256-GCM), and hashes codes that are short enough to be guessed (HMAC)."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._aead = AESGCM(hashlib.sha256(b"shadowmesh vault 1" + secret.reveal()).digest())

    def encrypt(self, plaintext: Secret, label: str) -> bytes:
        """`label` says what it is and where it belongs: moved elsewhere it doesn't open."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, plaintext.reveal(), label.encode())

    def decrypt(self, blob: bytes, label: str) -> Secret:
        """Raises ShadowMeshError(wrong_secrets): another secrets key, or a changed database."""
        try:
            return Secret(self._aead.decrypt(blob[:_NONCE], blob[_NONCE:], label.encode()))
        except (InvalidTag, ValueError) as e:
            raise ShadowMeshError(
                "wrong_secrets",
                "the database holds secrets that this controller's secrets key doesn't open",
                "put back the keys that belong to this database",
            ) from e

    def derive(self, label: str, context: bytes, size: int) -> Secret:
        """`size` bytes that every node of this controller gets for this context, and nobody else (HKDF-SHA256)."""
        info = label.encode() + b"\0" + context
        return Secret(HKDF(SHA256(), size, None, info).derive(self._secret.reveal()))

    def mac(self, label: str, text: str) -> str:
        """64 hex digits: the form in which invites, codes and keys are stored and looked up."""
        return hmac.new(self._secret.reveal(), f"{label}\0{text}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """`identity` is what the fingerprint names; the others are vouched for by it."""

    identity: Signer
    maps: Signer
    tokens: Signer
    sessions: Signer  # people's access tokens
    audit: Signer  # checkpoints of the audit log
    vault: Vault
    _vault_secret: Secret

    _FILES = ("identity", "map-signing", "token-signing", "session-signing", "audit-signing", "secrets")

    @classmethod
    def of(cls, secrets: dict[str, Secret]) -> KeyRing:
        return cls(
            Signer.from_secret(secrets["identity"]),
            Signer.from_secret(secrets["map-signing"]),
            Signer.from_secret(secrets["token-signing"]),
            Signer.from_secret(secrets["session-signing"]),
            Signer.from_secret(secrets["audit-signing"]),
            Vault(secrets["secrets"]),
            secrets["secrets"],
        )

    def with_session_secret(self, secret: Secret) -> KeyRing:
        """With a key for access tokens that is made of an operator's own secret: all who have it take each other's."""
        seed = HKDF(SHA256(), 32, None, b"shadowmesh session signing 1").derive(secret.reveal())
        return replace(self, sessions=Signer.from_secret(Secret(seed)))

    @classmethod
    def generate(cls) -> KeyRing:
        return cls.of({name: Secret(os.urandom(32)) for name in cls._FILES})

    def secrets(self) -> dict[str, Secret]:
        signers = (self.identity, self.maps, self.tokens, self.sessions, self.audit)
        return dict(zip(self._FILES, (*(s.secret for s in signers), self._vault_secret), strict=True))

    def save(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        for name, secret in self.secrets().items():
            write_private(directory / f"{name}.key", base64.b64encode(secret.reveal()) + b"\n")

    @classmethod
    def load(cls, directory: Path) -> KeyRing:
        """Raises ShadowMeshError(unreadable_keys)."""
        found = {}
        for name in cls._FILES:
            path = directory / f"{name}.key"
            try:
                raw = base64.b64decode(path.read_bytes().strip(), validate=True)
                if len(raw) != 32:
                    raise ValueError(f"{len(raw)} bytes instead of 32")
            except PermissionError as e:
                raise ShadowMeshError(
                    "no_permission",
                    f"{path} can't be read",
                    "run as root or as the controller's user",
                    kind=Kind.NOT_ALLOWED,
                ) from e
            except (OSError, ValueError, binascii.Error) as e:
                raise ShadowMeshError(
                    "unreadable_keys",
                    f"the key {path} is missing or damaged ({e.strerror if isinstance(e, OSError) else e})",
                    "put it back from a backup",
                ) from e
            found[name] = Secret(raw)
        return cls.of(found)
