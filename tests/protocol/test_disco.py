"""Disco datagrams: what goes in comes out, to the one peer it is for."""

from __future__ import annotations

import nacl.bindings
import pytest
from fake_crypto import Fake
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import WireGuardPublicKey
from shadowmesh.protocol import noise
from shadowmesh.protocol.disco import (
    HEADER,
    MAX_SIZE,
    NO_SESSION_SIZE,
    AuthFailure,
    CallMeMaybe,
    Candidate,
    CandidateKind,
    DiscoBox,
    Message,
    NoSession,
    Ping,
    Pong,
    decode,
    encode,
    is_disco,
    sender,
)

ALICE, BOB, EVE = (noise.generate_private_key() for _ in range(3))
TO_BOB = DiscoBox(ALICE, noise.public_key(BOB))
FROM_ALICE = DiscoBox(BOB, noise.public_key(ALICE))
FULL = CallMeMaybe(tuple(Candidate(SockAddr("2001:db8::1", 1 + n), CandidateKind.IPV6) for n in range(32)), True, 7)


@pytest.mark.parametrize(
    "message",
    [
        Ping(b"t" * 12, 9, b"h" * 12),
        Pong(b"t" * 12, SockAddr("192.0.2.1", 4500), b"o" * 12),
        FULL,
        NoSession(0xDEADBEEF),
    ],
    ids=lambda m: type(m).__name__,
)
def test_the_peer_opens_what_was_sealed_for_it(message: Message) -> None:
    data = TO_BOB.seal(message)
    assert is_disco(data)
    assert sender(data) == noise.public_key(ALICE)
    assert FROM_ALICE.open(data) == message
    assert len(data) <= MAX_SIZE


def test_nobody_else_opens_it() -> None:
    data = TO_BOB.seal(Ping(b"t" * 12))
    with pytest.raises(AuthFailure):
        DiscoBox(EVE, noise.public_key(ALICE)).open(data)


def test_what_a_node_sent_cannot_be_turned_round_and_sent_back_to_it() -> None:
    """The box's key is the same both ways."""
    for box, own, other in ((TO_BOB, ALICE, BOB), (FROM_ALICE, BOB, ALICE)):
        data = box.seal(Ping(b"t" * 12))
        reflected = data[:4] + noise.public_key(other) + data[36:]
        with pytest.raises(AuthFailure):
            box.open(reflected)
        assert DiscoBox(other, noise.public_key(own)).open(data) == Ping(b"t" * 12)


def test_a_forged_sender_is_not_believed() -> None:
    data = DiscoBox(EVE, noise.public_key(BOB)).seal(Ping(b"t" * 12))
    with pytest.raises(AuthFailure):
        FROM_ALICE.open(data)
    with pytest.raises(AuthFailure):
        FROM_ALICE.open(data[:4] + noise.public_key(ALICE) + data[36:])


def test_the_largest_call_me_maybe_has_691_bytes() -> None:
    assert len(TO_BOB.seal(FULL)) == 691
    with pytest.raises(ValueError, match="at most 32"):
        TO_BOB.seal(CallMeMaybe(FULL.candidates + FULL.candidates[:1]))


def test_a_pong_is_no_longer_than_its_ping() -> None:
    ping, pong = Ping(b"t" * 12, 1), Pong(b"t" * 12, SockAddr("2001:db8::1", 65535))
    assert len(TO_BOB.seal(pong)) <= len(TO_BOB.seal(ping))


def test_the_bytes_are_as_written_down() -> None:
    ping = Ping(b"0123456789ab", 0x0102, b"heard to now")
    assert encode(ping) == b"\x010123456789ab\x00\x00\x01\x02heard to now" + bytes(15)
    v4 = bytes(10) + b"\xff\xff\xc0\x00\x02\x01\x11\x94"
    pong = Pong(b"0123456789ab", SockAddr("192.0.2.1", 4500), b"the own id..")
    assert encode(pong) == b"\x020123456789ab" + v4 + b"the own id.." + bytes(1)
    assert encode(NoSession(0x01020304)) == b"\x04\x01\x02\x03\x04"
    assert len(TO_BOB.seal(NoSession(7))) == NO_SESSION_SIZE == 81
    call = CallMeMaybe(
        (Candidate(SockAddr("192.0.2.1", 4500), CandidateKind.MAPPED),), ask=True, epoch=3, udp_blocked=True
    )
    assert encode(call) == b"\x03\x05\x00\x00\x00\x03\x01\x03" + v4


def test_what_a_later_version_adds_is_passed_over() -> None:
    for message in (Ping(b"t" * 12, 1), Pong(b"t" * 12, SockAddr("::1", 1)), FULL):
        assert decode(encode(message) + b"more") == message
    assert decode(b"\x03\xf8" + bytes(5)) == CallMeMaybe(())
    unknown_kind = (
        b"\x03\x00\x00\x00\x00\x00\x02" + b"\x63" + bytes(15) + b"\x01\x00\x01" + b"\x01" + bytes(15) + b"\x01\x00\x02"
    )
    assert decode(unknown_kind) == CallMeMaybe((Candidate(SockAddr("::1", 2), CandidateKind.HOST),))


def test_what_has_no_encoding_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        encode(Ping(b"short"))


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x05" + bytes(42),
        b"\x04" + bytes(3),
        b"\x01" + bytes(41),
        b"\x02" + bytes(42),
        b"\x03" + bytes(5) + b"\x21" + b"\x01" * 700,
    ],
    ids=["empty", "unknown", "short no-session", "short ping", "port 0", "33 candidates"],
)
def test_what_is_no_message_is_malformed(plaintext: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(plaintext)


def test_the_sender_is_read_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TO_BOB.seal(Ping(b"t" * 12))
    monkeypatch.setattr(nacl.bindings, "crypto_box_beforenm", None)
    monkeypatch.setattr(nacl.bindings, "crypto_box_open_easy_afternm", None)
    assert sender(data) == noise.public_key(ALICE)
    with pytest.raises(AuthFailure):  # a box of another peer refuses before it computes anything
        DiscoBox(BOB, noise.public_key(EVE)).open(data)


def test_the_fake_carries_disco_too() -> None:
    fake = Fake()
    a, b = fake.generate_private_key(), fake.generate_private_key()
    a_public, b_public = (WireGuardPublicKey(fake.key_pair(k).public) for k in (a, b))
    data = DiscoBox(a, b_public, fake).seal(FULL)
    assert DiscoBox(b, a_public, fake).open(data) == FULL
    with pytest.raises(AuthFailure):
        DiscoBox(b, a_public, fake).open(data[:-1] + bytes([data[-1] ^ 1]))


ips = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None and ip.scope_id is None)
)
addresses = st.builds(lambda ip, port: SockAddr(str(ip), port), ips, st.integers(1, 65535))
tx_ids = st.binary(min_size=12, max_size=12)
epochs = st.integers(0, 2**32 - 1)
candidates = st.builds(Candidate, addresses, st.sampled_from(CandidateKind))
messages = st.one_of(
    st.builds(Ping, tx_ids, epochs),
    st.builds(Pong, tx_ids, addresses),
    st.builds(CallMeMaybe, st.lists(candidates, max_size=32).map(tuple), st.booleans(), epochs, st.booleans()),
)


@given(messages)
def test_decoding_undoes_encoding(message: Message) -> None:
    assert decode(encode(message)) == message
    assert FROM_ALICE.open(TO_BOB.seal(message)) == message


@given(messages, st.data())
def test_a_flipped_bit_never_authenticates(message: Message, data: st.DataObject) -> None:
    sealed = bytearray(TO_BOB.seal(message))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedError):
        FROM_ALICE.open(bytes(sealed))


@given(st.one_of(st.binary(max_size=700), st.binary(max_size=60).map(lambda b: b"\x03" + b)))
def test_any_plaintext_is_a_message_or_malformed(data: bytes) -> None:
    try:
        message = decode(data)
    except MalformedError:
        return
    assert decode(encode(message)) == message


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: HEADER + noise.public_key(ALICE) + b)))
def test_any_datagram_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(MalformedError):
        FROM_ALICE.open(data)
