"""A proof of possession is given by who holds both private keys, and is worth something for one enrolment only."""

from __future__ import annotations

import dataclasses
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import EphemeralPublicKey, SealingPublicKey, Secret, WireGuardPublicKey
from shadowmesh.protocol.noise import generate_private_key, public_key
from shadowmesh.protocol.possession import is_proof, make_challenge, prove
from shadowmesh.protocol.sealing import generate_sealing_keys, open_sealed

WG_PRIVATE = generate_private_key()
WG_KEY = public_key(WG_PRIVATE)
SEALING_PRIVATE, SEALING_KEY = generate_sealing_keys()
SECRET = Secret(bytes(range(64)))
TRANSCRIPT = b"nonce, identity, keys, invite"


def test_the_holder_of_both_keys_is_believed() -> None:
    challenge = make_challenge(SECRET, SEALING_KEY, TRANSCRIPT)
    assert len(challenge.sealed) == 1168
    proof = prove(challenge, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT)
    assert len(proof) == 32
    assert is_proof(proof, SECRET, WG_KEY, TRANSCRIPT)


def test_asking_again_asks_by_the_same_key_and_value() -> None:
    """So any node can check, and a proof of the first sealing is one of the second."""
    first, again = (make_challenge(SECRET, SEALING_KEY, TRANSCRIPT) for _ in range(2))
    assert first.ephemeral == again.ephemeral and first.sealed != again.sealed
    assert prove(first, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT) == prove(
        again, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT
    )


def test_who_lacks_one_private_key_fails() -> None:
    challenge = make_challenge(SECRET, SEALING_KEY, TRANSCRIPT)
    proof = prove(challenge, generate_private_key(), SEALING_PRIVATE, TRANSCRIPT)
    assert not is_proof(proof, SECRET, WG_KEY, TRANSCRIPT)
    own_private, own_key = generate_sealing_keys()
    with pytest.raises(MalformedError):
        prove(challenge, WG_PRIVATE, own_private, TRANSCRIPT)
    # Nor does a challenge that was sealed to another's key help.
    guessed = dataclasses.replace(challenge, sealed=make_challenge(Secret(bytes(64)), own_key, TRANSCRIPT).sealed)
    assert not is_proof(prove(guessed, WG_PRIVATE, own_private, TRANSCRIPT), SECRET, WG_KEY, TRANSCRIPT)


def test_a_proof_is_of_one_transcript_and_one_secret() -> None:
    challenge = make_challenge(SECRET, SEALING_KEY, TRANSCRIPT)
    proof = prove(challenge, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT)
    assert not is_proof(proof, SECRET, WG_KEY, TRANSCRIPT + b"2")
    assert not is_proof(proof, Secret(bytes(64)), WG_KEY, TRANSCRIPT)
    with pytest.raises(MalformedError):
        prove(challenge, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT + b"2")


def test_what_is_no_proof_is_not_believed() -> None:
    for bad in (b"", bytes(32), bytes(31), b"\xff" * 64):
        assert not is_proof(bad, SECRET, WG_KEY, TRANSCRIPT)
    low = WireGuardPublicKey((1).to_bytes(32, "little"))
    zero = HKDF(SHA256(), 32, None, b"shadowmesh possession 1" + TRANSCRIPT).derive(bytes(32) + SECRET.reveal()[32:])
    guess = hmac.digest(zero, b"shadowmesh possession 1" + TRANSCRIPT, "sha256")
    assert not is_proof(guess, SECRET, low, TRANSCRIPT)


def test_a_client_answers_no_challenge_of_small_order_and_none_of_nonsense() -> None:
    challenge = make_challenge(SECRET, SEALING_KEY, TRANSCRIPT)
    for ephemeral, sealed in (
        (bytes(32), challenge.sealed),
        (challenge.ephemeral, b""),
        (challenge.ephemeral, b"x" * 1168),
    ):
        with pytest.raises(MalformedError):
            prove(
                dataclasses.replace(challenge, ephemeral=EphemeralPublicKey(ephemeral), sealed=sealed),
                WG_PRIVATE,
                SEALING_PRIVATE,
                TRANSCRIPT,
            )


def test_nothing_is_sealed_to_what_is_no_key() -> None:
    for bad in (bytes(1216), b"\xff" * 1216, bytes(SEALING_KEY[:1184]) + (1).to_bytes(32, "little")):
        with pytest.raises(MalformedError):
            make_challenge(SECRET, SealingPublicKey(bad), TRANSCRIPT)


def test_the_proof_as_the_documentation_has_it() -> None:
    """Step by step, as another client would do it."""
    challenge = make_challenge(SECRET, SEALING_KEY, TRANSCRIPT)
    value = open_sealed(SEALING_PRIVATE, challenge.sealed, b"shadowmesh possession value 1" + TRANSCRIPT)
    private = X25519PrivateKey.from_private_bytes(WG_PRIVATE.reveal())
    shared = private.exchange(X25519PublicKey.from_public_bytes(bytes(challenge.ephemeral)))
    label = b"shadowmesh possession 1" + TRANSCRIPT
    key = HKDF(SHA256(), 32, None, label).derive(shared + value)
    assert hmac.digest(key, label, "sha256") == prove(challenge, WG_PRIVATE, SEALING_PRIVATE, TRANSCRIPT)
