"""A pair's preshared key depends on everything that sets it apart, and not on who asks."""

from __future__ import annotations

import hashlib
import hmac

from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.protocol.psk import derive_psk

KEY = Secret(b"k" * 32)
ID = NetworkID.of(KEY)
A, B, C = (WireGuardPublicKey(bytes([n]) * 32) for n in (1, 2, 3))


def test_it_is_hkdf_as_written_down() -> None:
    extracted = hmac.digest(bytes(32), KEY.reveal(), "sha256")  # RFC 5869: no salt is a block of zeros
    info = b"shadowmesh psk 1" + ID + b"\x00\x00\x01\x02" + A + B
    assert derive_psk(KEY, ID, 0x102, A, B).reveal() == hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_both_ends_of_a_pair_derive_the_same() -> None:
    assert derive_psk(KEY, ID, 0, A, B) == derive_psk(KEY, ID, 0, B, A)


def test_each_network_epoch_and_pair_has_its_own() -> None:
    other_id = NetworkID.of(Secret(b"x" * 32))
    keys = {
        derive_psk(KEY, ID, 0, A, B).reveal(),
        derive_psk(Secret(b"j" * 32), ID, 0, A, B).reveal(),
        derive_psk(KEY, other_id, 0, A, B).reveal(),
        derive_psk(KEY, ID, 1, A, B).reveal(),
        derive_psk(KEY, ID, 0, A, C).reveal(),
    }
    assert len(keys) == 5
