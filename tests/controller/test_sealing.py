"""What is sealed opens with the right key and purpose, and with nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret
from shadowmesh.protocol import sealing

SECRET, PUBLIC = sealing.generate_sealing_keys()
OTHER_SECRET, _ = sealing.generate_sealing_keys()


@given(st.binary(max_size=300), st.binary(max_size=64))
def test_open_undoes_seal(plaintext: bytes, info: bytes) -> None:
    blob = sealing.seal(PUBLIC, plaintext, info)
    assert sealing.open_sealed(SECRET, blob, info) == plaintext
    assert sealing.seal(PUBLIC, plaintext, info) != blob


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_doesnt_open(position: int, flip: int) -> None:
    blob = bytearray(sealing.seal(PUBLIC, b"k" * 32, b"info"))
    blob[position % len(blob)] ^= flip
    with pytest.raises(MalformedError):
        sealing.open_sealed(SECRET, bytes(blob), b"info")


def test_another_key_or_purpose_doesnt_open() -> None:
    network = NetworkID(bytes(32))
    blob = sealing.seal(PUBLIC, b"k" * 32, sealing.network_key_info(network, 3))
    assert sealing.open_sealed(SECRET, blob, sealing.network_key_info(network, 3)) == b"k" * 32
    for secret, info in (
        (OTHER_SECRET, sealing.network_key_info(network, 3)),
        (SECRET, sealing.network_key_info(network, 4)),
        (SECRET, sealing.network_key_info(NetworkID(b"\1" * 32), 3)),
    ):
        with pytest.raises(MalformedError):
            sealing.open_sealed(secret, blob, info)


@given(st.binary(max_size=1300))
def test_any_bytes_are_malformed_never_a_crash(blob: bytes) -> None:
    with pytest.raises(MalformedError):
        sealing.open_sealed(SECRET, blob, b"")


def test_bytes_that_are_no_key_are_refused() -> None:
    for bad in (bytes(1216), b"\xff" * 1216):
        with pytest.raises(MalformedError):
            sealing.seal(SealingPublicKey(bad), b"", b"")
    with pytest.raises(MalformedError):
        sealing.sealing_public_key(Secret(b"short"))
    assert sealing.sealing_public_key(SECRET) == PUBLIC
