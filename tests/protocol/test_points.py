"""Public keys of small order, and second spellings of good ones, are no keys."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import SigningPublicKey
from shadowmesh.protocol.points import check_ed25519, check_x25519, has_small_order, is_sound_ed25519, is_sound_x25519
from shadowmesh.protocol.signing import Context, verify

P = 2**255 - 19

# cr.yp.to/ecdh.html, "Don't I need to validate Curve25519 public keys?": all twelve spellings
SMALL_X25519 = [
    n.to_bytes(32, "little")
    for n in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
        P + 325606250916557431795983626356110631294008115727848805560023387167927233504,
        P + 39382357235489614581723060781553021112529911719440698176882885853963445705823,
        2 * P - 1,
        2 * P,
        2 * P + 1,
    )
]
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
SMALL_ED25519 = [
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, P - 1, P, P + 1, int.from_bytes(ORDER_8, "little"), P - int.from_bytes(ORDER_8, "little"))
    for sign in (0, 1)
]


@pytest.mark.parametrize("point", SMALL_X25519, ids=lambda p: p.hex()[:16])
def test_a_point_of_small_order_is_no_x25519_key(point: bytes) -> None:
    if point[31] < 0x80:  # of the others X25519 reads 255 bits, which are another point
        assert has_small_order(point)
        with pytest.raises(ValueError, match="shared key"):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(point))
    assert not is_sound_x25519(point)
    with pytest.raises(MalformedError, match="the WireGuard key"):
        check_x25519(point, "WireGuard key")


@pytest.mark.parametrize("point", SMALL_ED25519, ids=lambda p: p.hex()[:16])
def test_a_point_of_small_order_signs_nothing(point: bytes) -> None:
    assert not is_sound_ed25519(point)
    with pytest.raises(MalformedError, match="the device key"):
        check_ed25519(point, "device key")


def test_a_signature_that_every_message_has_is_none() -> None:
    """With the neutral element as key, R = A and S = 0 satisfy the equation for all messages."""
    neutral = (1).to_bytes(32, "little")
    signature = neutral + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(signature, b"any message")  # the library takes it
    assert not verify(SigningPublicKey(neutral), Context.HELLO, b"any message", signature)


@given(st.binary(min_size=32, max_size=32))
def test_honest_keys_are_sound(seed: bytes) -> None:
    key = X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert is_sound_x25519(key) and not has_small_order(key)
    assert is_sound_ed25519(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def test_a_second_spelling_of_a_key_is_refused() -> None:
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    assert not is_sound_x25519(key[:31] + bytes((key[31] | 0x80,)))  # X25519 ignores this bit
    assert not is_sound_x25519((P + 9).to_bytes(32, "little"))  # the base point
    assert not is_sound_ed25519((P + 3).to_bytes(32, "little"))
