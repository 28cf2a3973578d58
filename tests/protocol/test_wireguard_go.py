"""wireguard-go is the oracle: what it says we understand, what we say it understands.

The first half replays a recorded conversation (see `wireguard_go_peer`), the second talks to a running one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator

import pytest
from wireguard_go_peer import VECTORS, WireGuardGo, cookie_under_load, is_echo_answer, now, unseal

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import Secret
from shadowmesh.protocol import noise
from shadowmesh.protocol.cookies import CookieChecker, CookieJar, mac1_key, verify_mac1
from shadowmesh.protocol.noise import AuthFailure, Initiation, ReceivedInitiation, StaticKeys

RECORDED = {
    group: {name: bytes.fromhex(value) for name, value in values.items()}
    for group, values in json.loads(VECTORS.read_text()).items()
}
KEYS = {name: Secret(value) for name, value in RECORDED["keys"].items()}
OURS, THEIRS = StaticKeys(KEYS["ours"]), noise.public_key(KEYS["theirs"])
T0 = Now(0.0, 0.0)


def test_the_recorded_response_to_our_initiation_makes_the_session() -> None:
    said = RECORDED["initiator"]
    first = Initiation.create(OURS, THEIRS, 0xA1, said["timestamp"], ephemeral=KEYS["ephemeral"])
    assert CookieJar(THEIRS).add_macs(first.message, T0) == said["initiation"]
    assert verify_mac1(said["response"], mac1_key(OURS.public))
    with pytest.raises(AuthFailure):
        first.consume_response(said["response"], noise.NO_PSK)
    keys = first.consume_response(said["response"], KEYS["psk"])
    assert is_echo_answer(unseal(keys, said["transport"]))


def test_the_recorded_initiation_is_answered_with_the_response_that_it_accepted() -> None:
    said = RECORDED["responder"]
    assert verify_mac1(said["initiation"], mac1_key(OURS.public))
    heard = ReceivedInitiation.open(OURS, said["initiation"])
    assert heard.peer == THEIRS
    assert noise.tai64n(1.7e9) < heard.timestamp < noise.tai64n(2**32)
    message, keys = heard.respond(0xB2, KEYS["psk"], ephemeral=KEYS["ephemeral"])
    assert CookieJar(THEIRS).add_macs(message, T0) == said["response"]
    assert unseal(keys, said["transport"]) == b""


def test_the_recorded_cookie_is_taken() -> None:
    said, jar = RECORDED["cookie"], CookieJar(THEIRS)
    assert jar.add_macs(said["initiation"], T0) == said["initiation"]
    jar.consume_reply(said["reply"], T0)
    assert jar.add_macs(said["initiation"], T0)[-16:] != bytes(16)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("wireguard-go", "wg", "ip"))),
    reason="needs root, wireguard-go, wg and ip",
)
PSK = Secret(os.urandom(32))
US = StaticKeys(noise.generate_private_key())


@pytest.fixture
def answering() -> Iterator[WireGuardGo]:
    with WireGuardGo(noise.generate_private_key(), US.public, PSK, initiates=False) as peer:
        yield peer


@pytest.fixture
def asking() -> Iterator[WireGuardGo]:
    with WireGuardGo(noise.generate_private_key(), US.public, PSK, initiates=True) as peer:
        yield peer


@needs_root
@pytest.mark.lab
def test_wireguard_go_answers_our_initiation_and_carries_packets(answering: WireGuardGo) -> None:
    first = Initiation.create(US, answering.public, 0x0A, noise.tai64n(time.time()))
    answering.send(CookieJar(answering.public).add_macs(first.message, now()))
    response = answering.receive(noise.RESPONSE)
    assert verify_mac1(response, mac1_key(US.public))
    keys = first.consume_response(response, PSK)
    assert is_echo_answer(unseal(keys, answering.echo(keys, 0)))


@needs_root
@pytest.mark.lab
def test_wireguard_go_takes_our_response_and_carries_packets(asking: WireGuardGo) -> None:
    heard = ReceivedInitiation.open(US, asking.receive(noise.INITIATION))
    assert heard.peer == asking.public
    message, keys = heard.respond(0x0B, PSK)
    asking.send(CookieJar(asking.public).add_macs(message, now()))
    assert unseal(keys, asking.receive(noise.TRANSPORT)) == b""  # the keepalive that confirms the session
    assert is_echo_answer(unseal(keys, asking.echo(keys, 0)))


@needs_root
@pytest.mark.lab
def test_another_preshared_key_makes_no_session(answering: WireGuardGo) -> None:
    first = Initiation.create(US, answering.public, 0x0C, noise.tai64n(time.time()))
    answering.send(CookieJar(answering.public).add_macs(first.message, now()))
    response = answering.receive(noise.RESPONSE)
    with pytest.raises(AuthFailure):
        first.consume_response(response, noise.NO_PSK)


@needs_root
@pytest.mark.lab
def test_under_load_wireguard_go_hands_us_a_cookie_and_lets_us_in_with_it(answering: WireGuardGo) -> None:
    jar = CookieJar(answering.public)
    _, reply = cookie_under_load(answering, US, jar)
    jar.consume_reply(reply, now())
    second = Initiation.create(US, answering.public, 0x0D, noise.tai64n(time.time()))
    message = jar.add_macs(second.message, now())
    assert message[-16:] != bytes(16)
    answering.send(message)
    while noise.receiver_index(response := answering.receive(noise.RESPONSE)) != 0x0D:
        pass
    keys = second.consume_response(response, PSK)
    assert is_echo_answer(unseal(keys, answering.echo(keys, 0)))


@needs_root
@pytest.mark.lab
def test_wireguard_go_proves_its_address_by_our_cookie_at_its_next_try(asking: WireGuardGo) -> None:
    checker, source = CookieChecker(US.public), SockAddr(*asking.endpoint)
    first = asking.receive(noise.INITIATION)
    assert not checker.check_mac2(first, source, now())
    asking.send(checker.reply(first, source, now()))
    second = asking.receive(noise.INITIATION, timeout=8)  # it tries again after five seconds
    assert checker.check_mac2(second, source, now())
    assert ReceivedInitiation.open(US, second).peer == asking.public
