"""Cookies: a flood from forged addresses costs a hash, an honest peer gets through with one more round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol import noise
from shadowmesh.protocol.cookies import CookieChecker, CookieJar, LoadGauge, mac1_key, verify_mac1
from shadowmesh.protocol.noise import AuthFailure, Initiation, StaticKeys

ALICE, BOB = StaticKeys(noise.generate_private_key()), StaticKeys(noise.generate_private_key())
HERE, ELSEWHERE = SockAddr("192.0.2.1", 51820), SockAddr("192.0.2.1", 51821)
T0 = Now(1000.0, 1.7e9)


@pytest.fixture
def initiation() -> bytes:
    return Initiation.create(ALICE, BOB.public, 7, noise.tai64n(1.0)).message


def test_mac1_says_whom_a_message_is_for(initiation: bytes) -> None:
    message = CookieJar(BOB.public).add_macs(initiation, T0)
    assert verify_mac1(message, mac1_key(BOB.public))
    assert not verify_mac1(message, mac1_key(ALICE.public))
    assert not verify_mac1(initiation, mac1_key(BOB.public))
    assert message[:-32] == initiation[:-32]
    assert message[-16:] == bytes(16)


def test_after_a_cookie_reply_the_next_message_proves_the_address(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    first = jar.add_macs(initiation, T0)
    assert not checker.check_mac2(first, HERE, T0)
    reply = checker.reply(first, HERE, T0)
    assert len(reply) == noise.COOKIE_REPLY_SIZE
    assert noise.receiver_index(reply) == 7
    jar.consume_reply(reply, T0)
    second = jar.add_macs(initiation, T0)
    assert checker.check_mac2(second, HERE, T0)
    assert verify_mac1(second, mac1_key(BOB.public))


def test_a_cookie_is_bound_to_address_and_port(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    jar.consume_reply(checker.reply(jar.add_macs(initiation, T0), HERE, T0), T0)
    second = jar.add_macs(initiation, T0)
    assert not checker.check_mac2(second, ELSEWHERE, T0)
    assert not checker.check_mac2(second, SockAddr("192.0.2.2", HERE.port), T0)


def test_a_cookie_lives_120_seconds_on_both_sides(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    jar.consume_reply(checker.reply(jar.add_macs(initiation, T0), HERE, T0), T0)
    late = T0.after(119.9)
    with_cookie = jar.add_macs(initiation, late)
    assert checker.check_mac2(with_cookie, HERE, late)
    gone = T0.after(120)
    assert not checker.check_mac2(with_cookie, HERE, gone)
    assert jar.add_macs(initiation, gone)[-16:] == bytes(16)


def test_the_secret_rotates(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    jar.consume_reply(checker.reply(jar.add_macs(initiation, T0), HERE, T0), T0)
    old = jar.add_macs(initiation, T0)
    later = T0.after(121)
    checker.reply(old, HERE, later)
    assert not checker.check_mac2(old, HERE, later)


def test_a_wall_clock_jump_changes_nothing(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    jar.consume_reply(checker.reply(jar.add_macs(initiation, T0), HERE, T0), T0)
    jumped = Now(T0.boot + 1, 0.0)
    assert checker.check_mac2(jar.add_macs(initiation, jumped), HERE, jumped)


def test_a_reply_counts_once_and_only_for_the_message_it_answers(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    reply = checker.reply(CookieJar(BOB.public).add_macs(initiation, T0), HERE, T0)
    with pytest.raises(AuthFailure):  # nothing was sent
        jar.consume_reply(reply, T0)
    other = Initiation.create(ALICE, BOB.public, 8, noise.tai64n(2.0)).message
    jar.add_macs(other, T0)
    with pytest.raises(AuthFailure):  # something else was sent
        jar.consume_reply(reply, T0)
    jar.add_macs(initiation, T0)
    jar.consume_reply(reply, T0)
    with pytest.raises(AuthFailure):
        jar.consume_reply(reply, T0)


def test_only_handshake_messages_are_answered(initiation: bytes) -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    with pytest.raises(MalformedError):
        checker.reply(b"\x04\x00\x00\x00" + bytes(40), HERE, T0)
    with pytest.raises(MalformedError):
        jar.consume_reply(initiation, T0)


def test_the_gauge_reports_load_beyond_its_rate_and_for_a_second_after() -> None:
    gauge = LoadGauge(per_second=10)
    assert not any(gauge.note(T0) for _ in range(10))
    assert gauge.note(T0)
    assert gauge.note(T0.after(0.9))
    assert not gauge.note(T0.after(2.0))


def test_a_steady_rate_within_the_limit_is_no_load() -> None:
    gauge = LoadGauge(per_second=10)
    assert not any(gauge.note(T0.after(i / 9)) for i in range(200))


MESSAGE = Initiation.create(ALICE, BOB.public, 7, noise.tai64n(1.0)).message
JAR, CHECKER = CookieJar(BOB.public), CookieChecker(BOB.public)
REPLY = CHECKER.reply(JAR.add_macs(MESSAGE, T0), HERE, T0)


def flip(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.integers(8 * 8, 64 * 8 - 1))  # the type and the receiver's index are not authenticated
def test_a_flipped_bit_of_a_reply_never_authenticates(bit: int) -> None:
    JAR.add_macs(MESSAGE, T0)
    with pytest.raises(AuthFailure):
        JAR.consume_reply(flip(REPLY, bit), T0)


@given(st.integers(0, 116 * 8 + 127))
def test_a_flipped_bit_breaks_mac1(bit: int) -> None:
    assert not verify_mac1(flip(JAR.add_macs(MESSAGE, T0), bit), mac1_key(BOB.public))


@given(st.integers(0, 148 * 8 - 1))
def test_a_flipped_bit_breaks_mac2(bit: int) -> None:
    jar = CookieJar(BOB.public)
    jar.add_macs(MESSAGE, T0)
    jar.consume_reply(REPLY, T0)
    assert not CHECKER.check_mac2(flip(jar.add_macs(MESSAGE, T0), bit), HERE, T0)


@given(st.one_of(st.binary(max_size=200), st.binary(min_size=60, max_size=60).map(lambda b: b"\x03\x00\x00\x00" + b)))
def test_any_bytes_are_refused_in_one_way(data: bytes) -> None:
    JAR.add_macs(MESSAGE, T0)
    with pytest.raises(MalformedError):
        JAR.consume_reply(data, T0)
    assert not verify_mac1(data, mac1_key(BOB.public))
    assert not CHECKER.check_mac2(data, HERE, T0)


def test_a_cookie_for_a_relayed_sender_is_bound_to_its_overlay_address() -> None:
    jar, checker = CookieJar(BOB.public), CookieChecker(BOB.public)
    relayed, other = SockAddr("100.64.0.7", 0), SockAddr("100.64.0.8", 0)
    jar.consume_reply(checker.reply(jar.add_macs(MESSAGE, T0), relayed, T0), T0)
    message = jar.add_macs(MESSAGE, T0)
    assert checker.check_mac2(message, relayed, T0)
    assert not checker.check_mac2(message, other, T0)
