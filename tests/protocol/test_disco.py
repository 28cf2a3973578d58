"""Disco datagrams: what goes in comes out, to the one peer it is for."""

from __future__ import annotations

import pytest

from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import noise
from shadowmesh.protocol.disco import (
    MAX_SIZE,
    AuthFailure,
    CallMeMaybe,
    Candidate,
    CandidateKind,
    DiscoBox,
    Message,
    Ping,
    Pong,
    is_disco,
    sender,
)

ALICE, BOB, EVE = (noise.generate_private_key() for _ in range(3))
TO_BOB = DiscoBox(ALICE, noise.public_key(BOB))
FROM_ALICE = DiscoBox(BOB, noise.public_key(ALICE))
FULL = CallMeMaybe(tuple(Candidate(SockAddr("2001:db8::1", 1 + n), CandidateKind.IPV6) for n in range(32)), True, 7)


@pytest.mark.parametrize(
    "message", [Ping(b"t" * 12, 9), Pong(b"t" * 12, SockAddr("192.0.2.1", 4500)), FULL], ids=lambda m: type(m).__name__
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


def test_a_forged_sender_is_not_believed() -> None:
    data = DiscoBox(EVE, noise.public_key(BOB)).seal(Ping(b"t" * 12))
    with pytest.raises(AuthFailure):
        FROM_ALICE.open(data)
    with pytest.raises(AuthFailure):
        FROM_ALICE.open(data[:4] + noise.public_key(ALICE) + data[36:])
