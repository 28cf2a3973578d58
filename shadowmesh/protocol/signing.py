"""Ed25519 signatures (RFC 8032), each under a context of its own, and what is signed with them.

What is signed is u8(length of context) ‖ context ‖ message: a signature made for one purpose never verifies for
another. Maps are signed by one of the controller's map-signing keys, which the identity document vouches for; the
document is signed by the identity key, whose fingerprint stands in every invite.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Collection
from enum import StrEnum

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.devicelink import Signature
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import InviteID
from shadowmesh.model.keys import (
    DevicePublicKey,
    FixedBytes,
    SealingPublicKey,
    Secret,
    SigningPublicKey,
    WireGuardPublicKey,
)
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.model.urls import is_controller_url
from shadowmesh.protocol.points import is_sound_ed25519

SIGNATURE_SIZE = 64
NONCE_SIZE = 32


class Context(StrEnum):
    """What a signature is for. A new purpose, or a new form of an old one, gets a new string."""

    MAP = "shadowmesh map 1"
    IDENTITY = "shadowmesh identity 1"
    AUDIT = "shadowmesh audit 1"
    HELLO = "shadowmesh hello 1"
    REGISTRATION = "shadowmesh registration 1"
    RELAY_REGISTRATION = "shadowmesh relay registration 1"
    RELAY_HELLO = "shadowmesh relay hello 1"
    RELAY_TOKEN = "shadowmesh relay token 1"  # noqa: S105 - a label, not a secret
    RELAY_PROOF = "shadowmesh relay proof 1"
    RELAY_WELCOME = "shadowmesh relay welcome 1"


class ForgedError(MalformedError):
    """Well formed, but not signed by whom it says, or not the one that was asked for."""


def _framed(context: str, message: bytes) -> bytes:
    label = context.encode()
    return bytes((len(label),)) + label + message


class Signer:
    """An Ed25519 private key. `secret` is its 32-byte seed."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: Secret) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret.reveal())
        self.public = SigningPublicKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Signer:
        return cls(Secret(Ed25519PrivateKey.generate().private_bytes_raw()))

    @classmethod
    def from_secret(cls, secret: Secret) -> Signer:
        """Raises ValueError if `secret` hasn't 32 bytes."""
        return cls(secret)

    @property
    def secret(self) -> Secret:
        return Secret(self._key.private_bytes_raw())

    @property
    def device_key(self) -> DevicePublicKey:
        """The same public key, where the signer is a device."""
        return DevicePublicKey(self.public)

    def sign(self, context: str, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(_framed(context, message))

    def sign_raw(self, message: bytes) -> bytes:
        """Without a context, where another standard says what is signed (JWT, RFC 8037): for keys used for nothing else."""
        return self._key.sign(message)

    def verify_raw(self, message: bytes, signature: bytes) -> bool:
        """Whether `sign_raw` made this signature."""
        try:
            self._key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"Signer({self.public!r})"


def verify(public: FixedBytes, context: str, message: bytes, signature: bytes) -> bool:
    """Whether the Ed25519 key `public` (SigningPublicKey or DevicePublicKey) signed `message` in this context.

    A key of small order signed nothing, whatever the arithmetic says.
    """
    if not is_sound_ed25519(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes(public)).verify(bytes(signature), _framed(context, message))
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_text(public: FixedBytes, context: str, message: bytes, signature: str) -> bool:
    """As `verify`, with the signature in base64; text that is none doesn't verify."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    return verify(public, context, message, raw)


def sign_text(signer: Signer, context: str, message: bytes) -> str:
    """The signature in base64, as JSON messages carry it."""
    return base64.b64encode(signer.sign(context, message)).decode()


# maps


def _map_message(netmap: NetworkMap) -> bytes:
    return struct.pack(">QQ", netmap.generation, netmap.serial) + netmap.digest


def sign_map(signer: Signer, netmap: NetworkMap) -> Signature:
    """One signature serves the snapshot and every delta that leads to it."""
    return Signature(key=signer.public, value=sign_text(signer, Context.MAP, _map_message(netmap)))


def verify_map(netmap: NetworkMap, signature: Signature, allowed_keys: Collection[SigningPublicKey]) -> bool:
    """Whether one of `allowed_keys` signed exactly this map (the result, where a delta was applied)."""
    if signature.key not in allowed_keys:
        return False
    try:
        message = _map_message(netmap)
    except struct.error:  # numbers that no controller hands out
        return False
    return verify_text(signature.key, Context.MAP, message, signature.value)


# devices


def hello_message(nonce: bytes, controller_identity: SigningPublicKey, boot_id: str) -> bytes:
    """What a device signs on its link (context HELLO), or a relay on its own (RELAY_HELLO): bound to this controller.

    A relay that registers signs the same with its token in the place of the boot id (RELAY_REGISTRATION). Raises
    MalformedError for a nonce that hasn't NONCE_SIZE bytes: one that goes on as another controller's nonce and identity
    would make a signature that the other takes.
    """
    return _nonce(nonce) + controller_identity + boot_id.encode()


def _nonce(nonce: bytes) -> bytes:
    if len(nonce) != NONCE_SIZE:
        raise MalformedError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    return nonce


def registration_message(
    nonce: bytes,
    controller_identity: SigningPublicKey,
    *,
    device_key: DevicePublicKey,
    wg_key: WireGuardPublicKey,
    sealing_key: SealingPublicKey,
    invite: InviteID | str,
) -> bytes:
    """What a device signs to enrol (context REGISTRATION), and what the proof of its other keys covers.

    `invite` is the invite's id, or the short code as sent. Raises MalformedError as `hello_message` does.
    """
    return _nonce(nonce) + controller_identity + device_key + wg_key + sealing_key + invite.encode()


# the controller's identity


class IdentityDocument(Struct, frozen=True, kw_only=True):
    """What the identity key vouches for. `issued` is Unix time; `stun_ports` are UDP ports at the URLs' hosts."""

    identity: SigningPublicKey
    ca_pem: str
    signing_keys: tuple[SigningPublicKey, ...]
    audit_keys: tuple[SigningPublicKey, ...] = ()
    urls: tuple[str, ...]
    stun_ports: tuple[int, ...] = ()
    issued: float = 0.0


_SKEW = 300.0  # seconds that the clocks of one controller's nodes may differ


def goes_back(new: IdentityDocument, known: IdentityDocument) -> bool:
    """Whether `new` would bring back other keys by a document that is older than the known one.

    An old document stays signed for ever: played back, it would have clients trust what was replaced since. One that
    names the same keys harms nobody, whatever the controller's clock said when.
    """
    older = new.issued < known.issued - _SKEW
    return older and (new.ca_pem, new.signing_keys, new.audit_keys) != (
        known.ca_pem,
        known.signing_keys,
        known.audit_keys,
    )


def succeeding(new: IdentityDocument, known: IdentityDocument | None, wall: float) -> IdentityDocument:
    """`new`, as it is to be kept in place of the `known` document (None: none is known). Raises ForgedError if it goes back.

    The time that is kept never falls: else an older document of today's keys, played back, would make room for the one
    before these. Nor is it in the future of `wall`, this machine's Unix time: else a controller whose clock was set years
    ahead for a moment could renew nothing for years.
    """
    issued = min(new.issued, wall + _SKEW)
    if known is not None:
        if goes_back(new, known):
            raise ForgedError("an identity document that is older than the one known, with other keys")
        issued = max(issued, known.issued)
    return msgspec.structs.replace(new, issued=issued)


class _SignedIdentity(Struct, frozen=True, kw_only=True):
    document: str  # JSON text, kept as signed: fields that a newer controller added don't break the signature
    signature: str


def sign_identity(signer: Signer, document: IdentityDocument) -> bytes:
    """The body of `GET /api/v1/identity`. `document.identity` has to be the signer's own key."""
    if document.identity != signer.public:
        raise ValueError("the identity document names another key than its signer's")
    text = to_json(document).decode()
    return to_json(_SignedIdentity(document=text, signature=sign_text(signer, Context.IDENTITY, text.encode())))


def read_fingerprint(data: bytes) -> str:
    """The fingerprint that an identity claims: worth what the way it came by is worth. Raises MalformedError."""
    return from_json(from_json(data, _SignedIdentity).document, IdentityDocument).identity.fingerprint


def verify_identity(data: bytes, fingerprint: str) -> IdentityDocument:
    """The document, if it is the one of the controller with this fingerprint (`sha256:` and 64 hex digits), without what
    are no URLs among its URLs.

    Raises ForgedError if it is another controller's or the signature is wrong, MalformedError if it is no identity.
    """
    signed = from_json(data, _SignedIdentity)
    document = from_json(signed.document, IdentityDocument)
    if document.identity.fingerprint != fingerprint.strip().lower():
        raise ForgedError(f"this controller's fingerprint is {document.identity.fingerprint}, not {fingerprint}")
    if not verify_text(document.identity, Context.IDENTITY, signed.document.encode(), signed.signature):
        raise ForgedError("the signature of the controller's identity is wrong")
    return msgspec.structs.replace(document, urls=tuple(filter(is_controller_url, document.urls)))
