"""An encrypted file as a stream: whoever has neither the passphrase nor an identity reads nothing, and no change of it is unseen.

```
"shadowmesh backup 1\\n" ‖ u32be length ‖ header, JSON ‖ SHA-256(header) 32 ‖ secretstream header 24 ‖ chunks
```
The header holds the file's key once for each way to open it: sealed under Argon2id of a passphrase, to an X25519 recipient,
or by a controller's own vault. Chunks are libsodium's secretstream (XChaCha20-Poly1305) of 64 KiB, 17 bytes longer each; the
header is authenticated with the first one, and the last one says that it is the last: what is cut off is missed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from shadowmesh.controller.keyring import Vault
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import Secret

MAGIC = b"shadowmesh backup 1\n"
CHUNK = 64 * 1024
_OVERHEAD = bindings.crypto_secretstream_xchacha20poly1305_ABYTES
_STREAM_HEADER = bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_FINAL = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MESSAGE = bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_LONGEST_HEADER = 64 * 1024
_MOST_OPERATIONS, _MOST_MEMORY = 16, 1 << 30  # what a file may ask of who opens it
_LEAST_PASSPHRASE = 8
_VAULT_LABEL = "backup file key"
_RECIPIENT, _IDENTITY = "smbr1_", "smbi1_"


class Slot(Struct, frozen=True, kw_only=True):
    """One way to the file's key. `kind`: passphrase (with Argon2id's `salt`, `operations`, `memory`), recipient, vault."""

    kind: str
    sealed: str  # base64: the file's key
    salt: str = ""
    operations: int = 0
    memory: int = 0  # bytes


class SealedHeader(Struct, frozen=True, kw_only=True):
    """What stands in clear before the content: nothing of whose it is."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Locks:
    """Who shall be able to open a file. Each of them can, alone."""

    passphrase: Secret | None = None
    recipients: tuple[PublicKey, ...] = ()
    vault: Vault | None = None


@dataclass(frozen=True, slots=True)
class Openers:
    """What whoever opens a file has."""

    passphrase: Secret | None = None
    identities: tuple[PrivateKey, ...] = ()
    vault: Vault | None = None


def generate_identity() -> tuple[str, str]:
    """A recipient, to encrypt to, and the identity that opens what is encrypted to it; both as text."""
    private = PrivateKey.generate()
    return _RECIPIENT + _text(bytes(private.public_key)), _IDENTITY + _text(bytes(private))


def parse_recipient(text: str) -> PublicKey:
    """Raises ShadowMeshError(bad_recipient)."""
    if text.startswith(_IDENTITY):
        why = "this is an identity, which opens backups and is a secret, not a recipient"
    else:
        why = "this is no recipient of backups"
    return PublicKey(_bytes(text, _RECIPIENT, "bad_recipient", why))


def parse_identity(text: str) -> PrivateKey:
    """Raises ShadowMeshError(bad_identity)."""
    return PrivateKey(_bytes(text, _IDENTITY, "bad_identity", "this is no identity that opens backups"))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str, prefix: str, code: str, why: str) -> bytes:
    try:
        raw = base64.b64decode(text.strip().removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 32 or not text.strip().startswith(prefix):
        raise ShadowMeshError(code, why, f"give what `controller backup-key` made: {prefix}…", kind=Kind.USAGE)
    return raw


def check_passphrase(passphrase: Secret) -> None:
    """Raises ShadowMeshError(weak_passphrase): who has the file may try as many as they like."""
    if len(passphrase) < _LEAST_PASSPHRASE:
        raise ShadowMeshError(
            "weak_passphrase",
            f"the passphrase has {len(passphrase)} characters, fewer than {_LEAST_PASSPHRASE}",
            "choose a longer one: whoever gets the file may try passphrases for years",
            kind=Kind.USAGE,
        )


# writing


def seal_stream(content: Iterable[bytes], locks: Locks) -> Iterator[bytes]:
    """The file's bytes, piece by piece, from the content's."""
    key = os.urandom(bindings.crypto_secretstream_xchacha20poly1305_KEYBYTES)
    header = to_json(SealedHeader(slots=tuple(_slots(key, locks))))
    yield MAGIC + struct.pack(">I", len(header)) + header + hashlib.sha256(header).digest()
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    yield bindings.crypto_secretstream_xchacha20poly1305_init_push(state, key)
    extra: bytes | None = header
    waiting = bytearray()
    for piece in content:
        waiting += piece
        while len(waiting) > CHUNK:  # the last chunk is never empty, unless all is
            yield bindings.crypto_secretstream_xchacha20poly1305_push(state, bytes(waiting[:CHUNK]), extra, _MESSAGE)
            del waiting[:CHUNK]
            extra = None
    yield bindings.crypto_secretstream_xchacha20poly1305_push(state, bytes(waiting), extra, _FINAL)


def _slots(key: bytes, locks: Locks) -> Iterator[Slot]:
    if locks.passphrase is not None:
        salt = os.urandom(argon2id.SALTBYTES)
        operations, memory = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
        box = SecretBox(_derive(locks.passphrase, salt, operations, memory))
        sealed = base64.b64encode(box.encrypt(key)).decode()
        yield Slot(
            kind="passphrase",
            sealed=sealed,
            salt=base64.b64encode(salt).decode(),
            operations=operations,
            memory=memory,
        )
    for recipient in locks.recipients:
        yield Slot(kind="recipient", sealed=base64.b64encode(SealedBox(recipient).encrypt(key)).decode())
    if locks.vault is not None:
        yield Slot(kind="vault", sealed=base64.b64encode(locks.vault.encrypt(Secret(key), _VAULT_LABEL)).decode())


def _derive(passphrase: Secret, salt: bytes, operations: int, memory: int) -> bytes:
    return argon2id.kdf(SecretBox.KEY_SIZE, passphrase.reveal(), salt, opslimit=operations, memlimit=memory)


# reading


def _damaged(what: str) -> ShadowMeshError:
    return ShadowMeshError("backup_damaged", what, "take another backup; nothing was changed")


def _cut_short() -> ShadowMeshError:
    return ShadowMeshError(
        "backup_truncated",
        "the backup ends before its end: it was cut short, or not written to its end",
        "take another backup; nothing was changed",
    )


def read_header(file: IO[bytes]) -> tuple[SealedHeader, bytes]:
    """The header, also as the bytes that it was. Raises ShadowMeshError: not_a_backup, backup_damaged, backup_truncated."""
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        if magic and MAGIC.startswith(magic):
            raise _cut_short()
        if magic.startswith(b"shadowmesh backup "):
            raise ShadowMeshError(
                "backup_newer", "the backup has a form that this version doesn't know", "upgrade shadowmesh"
            )
        raise ShadowMeshError(
            "not_a_backup", "this is no backup of a controller", "give a file that `controller backup` wrote"
        )
    length = struct.unpack(">I", _exactly(file, 4))[0]
    if length > _LONGEST_HEADER:
        raise _damaged("the backup's header is damaged")
    raw = _exactly(file, length)
    if hashlib.sha256(raw).digest() != _exactly(file, 32):
        raise _damaged("the backup's header is damaged")
    try:
        return from_json(raw, SealedHeader), raw
    except MalformedError as e:
        raise _damaged("the backup's header is damaged") from e


def _exactly(file: IO[bytes], size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise _cut_short()
    return found


def asks_for(header: SealedHeader) -> frozenset[str]:
    """The kinds of what opens it: passphrase, recipient, vault."""
    return frozenset(slot.kind for slot in header.slots)


def open_stream(file: IO[bytes], header: SealedHeader, raw: bytes, openers: Openers) -> Iterator[bytes]:
    """The content, piece by piece, from a file whose header was read (`raw`: its bytes).

    Raises ShadowMeshError: wrong_passphrase, wrong_identity, no_way_to_open (before the first piece), backup_damaged,
    backup_truncated. Each piece is authentic; that they are all is known at the end alone.
    """
    key = _file_key(header.slots, openers)
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, _exactly(file, _STREAM_HEADER), key)
    extra: bytes | None = raw
    at = file.tell() if file.seekable() else 0
    while True:
        chunk = file.read(CHUNK + _OVERHEAD)
        if len(chunk) < _OVERHEAD:
            raise _cut_short()
        try:
            piece, tag = bindings.crypto_secretstream_xchacha20poly1305_pull(state, chunk, extra)
        except (CryptoError, RuntimeError) as e:
            if len(chunk) < CHUNK + _OVERHEAD:
                raise _cut_or_damaged(at) from e
            raise _damaged(f"the backup is damaged in the {CHUNK // 1024} KiB from byte {at} on") from e
        if tag == _FINAL:
            if file.read(1):
                raise _damaged("something follows the backup's end")
            yield piece
            return
        if len(chunk) < CHUNK + _OVERHEAD:
            raise _cut_short()
        yield piece
        extra, at = None, at + len(chunk)


def _cut_or_damaged(at: int) -> ShadowMeshError:
    return ShadowMeshError(
        "backup_truncated",
        f"the backup was cut short, or is damaged, after byte {at}",
        "take another backup; nothing was changed",
    )


def _file_key(slots: Sequence[Slot], openers: Openers) -> bytes:
    for slot in slots:
        try:
            sealed, salt = base64.b64decode(slot.sealed), base64.b64decode(slot.salt)
        except ValueError as e:
            raise _damaged("the backup's header is damaged") from e
        key = _try(slot, sealed, salt, openers)
        if key is not None:
            if len(key) != bindings.crypto_secretstream_xchacha20poly1305_KEYBYTES:
                raise _damaged("the backup's header is damaged")
            return key
    kinds = {slot.kind for slot in slots}
    if openers.passphrase is not None and "passphrase" in kinds:
        raise ShadowMeshError(
            "wrong_passphrase", "this passphrase doesn't open the backup", "try another one", kind=Kind.NOT_ALLOWED
        )
    if openers.identities and "recipient" in kinds:
        raise ShadowMeshError(
            "wrong_identity",
            "the backup wasn't encrypted to this identity's recipient",
            "give the identity of its recipient",
            kind=Kind.NOT_ALLOWED,
        )
    ways = {
        "passphrase": "--passphrase",
        "recipient": "--identity",
        "vault": "--data-dir of the controller that made it",
    }
    raise ShadowMeshError(
        "no_way_to_open",
        "nothing was given that opens this backup",
        f"give {' or '.join(way for kind, way in ways.items() if kind in kinds)}",
        kind=Kind.USAGE,
    )


def _try(slot: Slot, sealed: bytes, salt: bytes, openers: Openers) -> bytes | None:
    if slot.kind == "passphrase" and openers.passphrase is not None:
        if not (0 < slot.operations <= _MOST_OPERATIONS and 0 < slot.memory <= _MOST_MEMORY):
            raise _damaged("the backup's header asks for more than this host gives")
        try:
            return SecretBox(_derive(openers.passphrase, salt, slot.operations, slot.memory)).decrypt(sealed)
        except (CryptoError, ValueError, TypeError):
            return None
    if slot.kind == "recipient":
        for identity in openers.identities:
            try:
                return SealedBox(identity).decrypt(sealed)
            except (CryptoError, ValueError, TypeError):
                continue
    if slot.kind == "vault" and openers.vault is not None:
        try:
            return openers.vault.decrypt(sealed, _VAULT_LABEL).reveal()
        except ShadowMeshError:
            return None
    return None
