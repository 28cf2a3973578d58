"""The handshake: both sides meet on the same keys, and on nothing less. Real ciphers and the simulation's fake alike."""

from __future__ import annotations

import contextlib
import struct

import pytest
from fake_crypto import Fake
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol import noise
from shadowmesh.protocol.noise import AuthFailure, Initiation, Primitives, ReceivedInitiation, StaticKeys
from shadowmesh.protocol.primitives import REAL

PSK, OTHER_PSK = Secret(bytes(range(32))), Secret(bytes(range(1, 33)))
TIME = noise.tai64n(1.5)

both = pytest.mark.parametrize("primitives", [REAL, Fake()], ids=["real", "fake"])


def pair(primitives: Primitives) -> tuple[StaticKeys, StaticKeys]:
    return (
        StaticKeys(primitives.generate_private_key(), primitives),
        StaticKeys(primitives.generate_private_key(), primitives),
    )


ALICE, BOB = pair(REAL)
FIRST = Initiation.create(ALICE, BOB.public, 0x11, TIME)
SECOND, BOBS_KEYS = ReceivedInitiation.open(BOB, FIRST.message).respond(0x22, PSK)


@both
def test_both_sides_hold_the_same_keys_crosswise(primitives: Primitives) -> None:
    alice, bob = pair(primitives)
    first = Initiation.create(alice, bob.public, 0x11, TIME)
    assert len(first.message) == noise.INITIATION_SIZE
    heard = ReceivedInitiation.open(bob, first.message)
    assert (heard.peer, heard.timestamp, heard.sender_index) == (alice.public, TIME, 0x11)
    second, bobs = heard.respond(0x22, PSK)
    assert len(second) == noise.RESPONSE_SIZE
    alices = first.consume_response(second, PSK)
    assert (alices.send, alices.recv) == (bobs.recv, bobs.send)
    assert alices.send != alices.recv
    assert (alices.local_index, alices.remote_index) == (bobs.remote_index, bobs.local_index) == (0x11, 0x22)
    assert alices.initiator
    assert not bobs.initiator


@both
def test_the_initiator_may_try_one_preshared_key_after_another(primitives: Primitives) -> None:
    alice, bob = pair(primitives)
    first = Initiation.create(alice, bob.public, 1, TIME)
    second, bobs = ReceivedInitiation.open(bob, first.message).respond(2, PSK)
    for wrong in (noise.NO_PSK, OTHER_PSK):
        with pytest.raises(AuthFailure):
            first.consume_response(second, wrong)
    assert first.consume_response(second, PSK).send == bobs.recv


@both
def test_an_initiation_to_someone_else_does_not_open(primitives: Primitives) -> None:
    alice, bob = pair(primitives)
    eve, _ = pair(primitives)
    with pytest.raises(AuthFailure):
        ReceivedInitiation.open(eve, Initiation.create(alice, bob.public, 1, TIME).message)


@both
def test_a_response_by_someone_else_is_not_believed(primitives: Primitives) -> None:
    alice, bob = pair(primitives)
    eve, _ = pair(primitives)
    first = Initiation.create(alice, bob.public, 1, TIME)
    forged, _ = ReceivedInitiation.open(eve, Initiation.create(alice, eve.public, 1, TIME).message).respond(2, PSK)
    with pytest.raises(AuthFailure):
        first.consume_response(forged, PSK)


@both
def test_a_small_order_key_is_refused(primitives: Primitives) -> None:
    alice, _ = pair(primitives)
    with pytest.raises(AuthFailure):
        Initiation.create(alice, WireGuardPublicKey(bytes(32)), 1, TIME)
    zero_ephemeral = FIRST.message[:8] + bytes(32) + FIRST.message[40:]
    with pytest.raises(AuthFailure):
        ReceivedInitiation.open(BOB, zero_ephemeral)
    with pytest.raises(AuthFailure):
        FIRST.consume_response(SECOND[:12] + bytes(32) + SECOND[44:], PSK)


def test_every_handshake_has_keys_of_its_own() -> None:
    again, _ = ReceivedInitiation.open(BOB, FIRST.message).respond(0x22, PSK)
    assert FIRST.consume_response(again, PSK).send != FIRST.consume_response(SECOND, PSK).send


def test_a_response_to_another_initiation_is_refused() -> None:
    other = Initiation.create(ALICE, BOB.public, 0x12, TIME)
    with pytest.raises(AuthFailure):
        other.consume_response(SECOND, PSK)
    with pytest.raises(AuthFailure):  # the right index, still the wrong ephemeral
        Initiation.create(ALICE, BOB.public, 0x11, TIME).consume_response(SECOND, PSK)


@given(st.integers(32, 116 * 8 - 1))  # beyond the type; the macs are the cookies' business
def test_one_flipped_bit_of_an_initiation_is_noticed(bit: int) -> None:
    message = flip(FIRST.message, bit)
    if 32 <= bit < 64:  # the sender's index is not authenticated by message 1: the response it causes will be
        assert ReceivedInitiation.open(BOB, message).sender_index != 0x11
    else:  # the top bit of the ephemeral too, which X25519 ignores: the transcript doesn't
        with pytest.raises(AuthFailure):
            ReceivedInitiation.open(BOB, message)


@given(st.integers(64, 60 * 8 - 1))
def test_one_flipped_bit_of_a_response_is_noticed(bit: int) -> None:
    with pytest.raises(AuthFailure):
        FIRST.consume_response(flip(SECOND, bit), PSK)


def flip(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


handshake_like = st.one_of(
    st.binary(max_size=200),
    st.binary(min_size=147, max_size=147).map(lambda b: b"\x01\x00\x00\x00" + b[3:]),
    st.binary(min_size=144, max_size=144).map(lambda b: b"\x01\x00\x00\x00" + b),
    st.binary(min_size=88, max_size=88).map(lambda b: b"\x02\x00\x00\x00" + b),
    st.binary(min_size=80, max_size=80).map(lambda b: b"\x02\x00\x00\x00" + b[:4] + struct.pack("<I", 0x11) + b[4:]),
    st.binary(min_size=60, max_size=60).map(lambda b: b"\x03\x00\x00\x00" + b),
    st.binary(min_size=28, max_size=80).map(lambda b: b"\x04\x00\x00\x00" + b),
)


@given(handshake_like)
def test_any_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(MalformedError):
        ReceivedInitiation.open(BOB, data)
    with pytest.raises(MalformedError):
        FIRST.consume_response(data, PSK)
    for read in (noise.message_type, noise.receiver_index, noise.sender_index):
        with contextlib.suppress(MalformedError):
            assert 0 <= read(data) < 2**32


def test_messages_name_their_type_and_indices() -> None:
    assert noise.message_type(FIRST.message) == 1
    assert noise.message_type(SECOND) == 2
    assert noise.sender_index(FIRST.message) == noise.receiver_index(SECOND) == 0x11
    assert noise.sender_index(SECOND) == 0x22
    transport = b"\x04\x00\x00\x00\x78\x56\x34\x12" + bytes(24)
    assert noise.receiver_index(transport) == 0x12345678
    with pytest.raises(MalformedError):
        noise.receiver_index(FIRST.message)


def test_tai64n_counts_from_ten_seconds_before_1970_and_sorts_as_time_does() -> None:
    assert noise.tai64n(0.0) == bytes.fromhex("400000000000000a00000000")
    assert noise.tai64n(1.5) == bytes.fromhex("400000000000000b1dcd6500")
    # cr.yp.to/libtai/tai64.html: 1992-06-02 08:07:09 TAI is 4000…2a2b2c2d: 707472429 s by the POSIX count, plus those 10
    assert noise.tai64n(0x2A2B2C2D - 10)[:8] == bytes.fromhex("400000002a2b2c2d")
    assert noise.tai64n(-0.5) == bytes.fromhex("40000000000000091dcd6500")


@given(st.floats(0, 2**40), st.floats(0, 2**40))
def test_later_timestamps_are_greater(a: float, b: float) -> None:
    early, late = sorted((a, b))
    assert noise.tai64n(early) <= noise.tai64n(late)


def test_no_key_shows_when_printed() -> None:
    shown = repr((BOBS_KEYS, ALICE))
    for secret in (BOBS_KEYS.send, BOBS_KEYS.recv):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


def test_a_fresh_private_key_is_clamped_as_wg_genkey_does() -> None:
    for _ in range(20):
        key = noise.generate_private_key().reveal()
        assert key[0] & 7 == 0
        assert key[31] & 0xC0 == 0x40


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_message_with_something_in_its_reserved_bytes_is_malformed(at: int) -> None:
    for message in (FIRST.message, SECOND, b"\x04" + bytes(31)):
        with pytest.raises(MalformedError):
            noise.message_type(message[:at] + b"\x01" + message[at + 1 :])
