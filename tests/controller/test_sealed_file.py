"""An encrypted file: who opens it, and that no change of it goes unseen."""

from __future__ import annotations

import io
import os
import random

import pytest
from nacl.pwhash import argon2id

from shadowmesh.controller.backup import sealedfile
from shadowmesh.controller.backup.sealedfile import (
    CHUNK,
    Locks,
    Openers,
    generate_identity,
    open_stream,
    parse_identity,
    parse_recipient,
    read_header,
    seal_stream,
)
from shadowmesh.controller.keyring import Vault
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import Secret

PASSPHRASE = Secret(b"correct horse battery")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2id, "OPSLIMIT_MODERATE", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", argon2id.MEMLIMIT_MIN)


def sealed(content: bytes, locks: Locks) -> bytes:
    return b"".join(seal_stream([content[i : i + 1000] for i in range(0, len(content), 1000)], locks))


def opened(file: bytes, openers: Openers) -> bytes:
    stream = io.BytesIO(file)
    header, raw = read_header(stream)
    return b"".join(open_stream(stream, header, raw, openers))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_sealed_comes_out_again(size: int) -> None:
    content = os.urandom(size)
    file = sealed(content, Locks(PASSPHRASE))
    assert opened(file, Openers(PASSPHRASE)) == content
    assert size < 64 or content[:64] not in file


def test_each_way_opens_it_alone_and_nothing_else_does() -> None:
    recipient, identity = generate_identity()
    vault = Vault(Secret(b"v" * 32))
    file = sealed(b"content", Locks(PASSPHRASE, (parse_recipient(recipient),), vault))
    for openers in (Openers(PASSPHRASE), Openers(identities=(parse_identity(identity),)), Openers(vault=vault)):
        assert opened(file, openers) == b"content"
    other = parse_identity(generate_identity()[1])
    for openers, code in (
        (Openers(Secret(b"something else")), "wrong_passphrase"),
        (Openers(identities=(other,)), "wrong_identity"),
        (Openers(vault=Vault(Secret(b"w" * 32))), "no_way_to_open"),
        (Openers(), "no_way_to_open"),
    ):
        with pytest.raises(ShadowMeshError) as refused:
            opened(file, openers)
        assert refused.value.code == code and refused.value.remedy


def test_no_end_but_the_whole_files_is_taken_for_its_end() -> None:
    """Also where it is cut between two chunks."""
    file = sealed(os.urandom(2 * CHUNK + 100), Locks(PASSPHRASE))
    last = CHUNK + 17
    begin = len(file) - 2 * last - 117
    for length in (*range(1, begin, 7), begin, begin + last, begin + last + 1, begin + 2 * last, len(file) - 1):
        with pytest.raises(ShadowMeshError) as refused:
            opened(file[:length], Openers(PASSPHRASE))
        assert refused.value.code == "backup_truncated", length


def test_a_flipped_bit_anywhere_is_seen_and_the_passphrase_not_blamed() -> None:
    file = sealed(os.urandom(CHUNK + 5000), Locks(PASSPHRASE))
    source = random.Random(1)
    for at in (*range(len(sealedfile.MAGIC), 400), *(source.randrange(400, len(file)) for _ in range(60))):
        flipped = bytearray(file)
        flipped[at] ^= 1 << source.randrange(8)
        with pytest.raises(ShadowMeshError) as refused:
            opened(bytes(flipped), Openers(PASSPHRASE))
        assert refused.value.code in ("backup_damaged", "backup_truncated"), at


def test_chunks_cant_change_places_and_nothing_can_follow() -> None:
    file = sealed(os.urandom(3 * CHUNK), Locks(PASSPHRASE))
    size, begin = CHUNK + 17, len(file) - 3 * (CHUNK + 17)
    first, second = file[begin : begin + size], file[begin + size : begin + 2 * size]
    swapped = file[:begin] + second + first + file[begin + 2 * size :]
    for wrong in (swapped, file + b"x"):
        with pytest.raises(ShadowMeshError, match=r"damaged|follows"):
            opened(wrong, Openers(PASSPHRASE))


def test_a_file_may_not_ask_for_any_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealedfile, "_derive", lambda *_: b"k" * 32)
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", 1 << 40)
    file = sealed(b"x", Locks(PASSPHRASE))
    with pytest.raises(ShadowMeshError, match="more than this host gives"):
        opened(file, Openers(PASSPHRASE))


@pytest.mark.parametrize("text", ["", "smbr1_", "smbr1_x", "age1abc", "smbi1_" + "A" * 43])
def test_what_is_no_recipient_is_told_from_one(text: str) -> None:
    with pytest.raises(ShadowMeshError) as refused:
        parse_recipient(text)
    assert refused.value.code == "bad_recipient"


def test_another_file_is_told_from_a_backup() -> None:
    for content in (b"hello, this is a text file", b""):
        with pytest.raises(ShadowMeshError) as refused:
            read_header(io.BytesIO(content))
        assert refused.value.code == "not_a_backup"
