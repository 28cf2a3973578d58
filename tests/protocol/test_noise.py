"""The handshake: both sides meet on the same keys, and on nothing less."""

from __future__ import annotations

import pytest

from shadowmesh.model.keys import Secret
from shadowmesh.protocol import noise
from shadowmesh.protocol.noise import AuthFailure, Initiation, ReceivedInitiation, StaticKeys

PSK = Secret(bytes(range(32)))


def test_both_sides_hold_the_same_keys_crosswise() -> None:
    alice, bob = StaticKeys(noise.generate_private_key()), StaticKeys(noise.generate_private_key())
    first = Initiation.create(alice, bob.public, 0x11, noise.tai64n(1.5))
    assert len(first.message) == noise.INITIATION_SIZE
    heard = ReceivedInitiation.open(bob, first.message)
    assert (heard.peer, heard.timestamp, heard.sender_index) == (alice.public, noise.tai64n(1.5), 0x11)
    second, bobs = heard.respond(0x22, PSK)
    assert len(second) == noise.RESPONSE_SIZE
    with pytest.raises(AuthFailure):
        first.consume_response(second, noise.NO_PSK)
    alices = first.consume_response(second, PSK)
    assert (alices.send, alices.recv) == (bobs.recv, bobs.send)
    assert (alices.local_index, alices.remote_index) == (bobs.remote_index, bobs.local_index) == (0x11, 0x22)
    assert alices.initiator and not bobs.initiator
