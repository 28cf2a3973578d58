"""The ciphers are the published ones, and the simulation's fake fails where they fail."""

from __future__ import annotations

import hashlib
import hmac

import nacl.public
import pytest
from fake_crypto import Fake
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.keys import Secret
from shadowmesh.protocol.primitives import REAL, AuthFailure, Primitives, hmac_blake2s

both = pytest.mark.parametrize("primitives", [REAL, Fake()], ids=["real", "fake"])
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))

SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def test_x25519_of_rfc_7748_section_6_1() -> None:
    bob = REAL.key_pair(Secret(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert bob.exchange(alice).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_refused(point: str) -> None:
    private = REAL.generate_private_key()
    with pytest.raises(AuthFailure):
        REAL.key_pair(private).exchange(bytes.fromhex(point))
    with pytest.raises(AuthFailure):
        REAL.box(private, bytes.fromhex(point))


def test_chacha20_poly1305_of_rfc_8439_appendix_a_5() -> None:
    key = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    counter = int.from_bytes(bytes.fromhex("0102030405060708"), "little")
    sealed = bytes.fromhex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100"
        "d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06ef4f0ef61c186324e2b350638"
        "3606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa115"
        "5b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
        "49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709beead9d67890cbb22392336fea1851f"
        "38"
    )
    aad = bytes.fromhex("f33388860000000000004e91")
    plaintext = REAL.open(key, counter, sealed, aad)
    assert plaintext.startswith(b"Internet-Drafts are draft documents valid for a maximum of six months")
    assert REAL.seal(key, counter, plaintext, aad) == sealed


def test_blake2s_of_rfc_7693_appendix_b() -> None:
    assert REAL.hash(b"abc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_hmac_is_the_standard_librarys(key: bytes, data: bytes) -> None:
    assert hmac_blake2s(key, data) == hmac.digest(key, data, hashlib.blake2s)


def test_the_kdf_is_that_of_the_paper() -> None:
    secret = hmac.digest(KEY, b"material", hashlib.blake2s)
    first = hmac.digest(secret, b"\x01", hashlib.blake2s)
    second = hmac.digest(secret, first + b"\x02", hashlib.blake2s)
    third = hmac.digest(secret, second + b"\x03", hashlib.blake2s)
    for outputs in (1, 2, 3):
        assert REAL.kdf(KEY, b"material", outputs) == (first, second, third)[:outputs]


def test_a_box_is_nacls() -> None:
    ours, theirs = nacl.public.PrivateKey.generate(), nacl.public.PrivateKey.generate()
    sealed = REAL.box(Secret(bytes(ours)), bytes(theirs.public_key)).seal(b"n" * 24, b"hello")
    assert nacl.public.Box(theirs, ours.public_key).decrypt(sealed, b"n" * 24) == b"hello"


@both
def test_a_wrong_key_counter_context_or_bit_does_not_authenticate(primitives: Primitives) -> None:
    sealed = primitives.seal(KEY, 7, b"plain", b"aad")
    assert primitives.open(KEY, 7, sealed, b"aad") == b"plain"
    flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
    for attempt in [
        (OTHER, 7, sealed, b"aad"),
        (KEY, 8, sealed, b"aad"),
        (KEY, 7, sealed, b"bad"),
        (KEY, 7, flipped, b"aad"),
    ]:
        with pytest.raises(AuthFailure):
            primitives.open(*attempt)


@both
@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_what_is_too_short_for_a_tag_does_not_authenticate(primitives: Primitives, size: int) -> None:
    box = primitives.box(
        primitives.generate_private_key(), primitives.key_pair(primitives.generate_private_key()).public
    )
    with pytest.raises(AuthFailure):
        primitives.open(KEY, 0, bytes(size), b"")
    with pytest.raises(AuthFailure):
        box.open(bytes(24), bytes(size))


@both
def test_both_ends_of_a_box_and_nobody_else_open_it(primitives: Primitives) -> None:
    a, b, c = (primitives.generate_private_key() for _ in range(3))
    a_public, b_public = primitives.key_pair(a).public, primitives.key_pair(b).public
    sealed = primitives.box(a, b_public).seal(b"n" * 24, b"hello")
    assert primitives.box(b, a_public).open(b"n" * 24, sealed) == b"hello"
    with pytest.raises(AuthFailure):
        primitives.box(c, a_public).open(b"n" * 24, sealed)
    with pytest.raises(AuthFailure):
        primitives.box(b, a_public).open(b"m" * 24, sealed)


def test_the_fake_makes_the_same_keys_from_the_same_seed_and_says_what_it_is() -> None:
    one, same, other = Fake(1), Fake(1), Fake(2)
    private = one.generate_private_key()
    assert private == same.generate_private_key() != other.generate_private_key()
    assert one.key_pair(private).public.startswith(b"FAKE")
