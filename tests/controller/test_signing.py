"""Signatures hold for one purpose, one message and one key; an identity is checked by its fingerprint."""

from __future__ import annotations

import base64
import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, InviteID, NetworkRef
from shadowmesh.model.keys import (
    DevicePublicKey,
    NetworkID,
    SealingPublicKey,
    Secret,
    SigningPublicKey,
    WireGuardPublicKey,
)
from shadowmesh.model.netmap import EpochInfo, MapDelta, MapHead, Member, NetworkMap
from shadowmesh.protocol import signing
from shadowmesh.protocol.signing import Context, ForgedError, IdentityDocument, Signer

SIGNER = Signer.from_secret(Secret(bytes(range(32))))
OTHER = Signer.generate()


def member(number: int) -> Member:
    return Member(
        client_id=ClientID(f"cli_{number:020}"),
        name=f"m{number}",
        ip=ipaddress.IPv4Address("10.1.0.0") + number,
        wg_key=WireGuardPublicKey(number.to_bytes(32, "big")),
        device_key=DevicePublicKey(number.to_bytes(32, "little")),
    )


def netmap(*, generation: int = 1, serial: int = 1, members: int = 2) -> NetworkMap:
    head = MapHead(
        network_id=NetworkID(bytes(32)),
        network_ref=NetworkRef("net_x"),
        name="office",
        subnet=ipaddress.IPv4Network("10.1.0.0/16"),
        epochs=(EpochInfo(epoch=0, current_from=0.0),),
    )
    return NetworkMap(
        generation=generation, serial=serial, head=head, members=tuple(member(i + 1) for i in range(members))
    )


def test_rfc_8032_key_is_the_one_the_seed_says() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert Signer.from_secret(Secret(seed)).public.hex() == public
    assert Signer.from_secret(Secret(seed)).secret == Secret(seed)


@given(st.binary(max_size=200), st.sampled_from(Context), st.sampled_from(Context))
def test_a_signature_holds_for_its_context_only(message: bytes, made_for: Context, used_for: Context) -> None:
    signature = SIGNER.sign(made_for, message)
    assert signing.verify(SIGNER.public, used_for, message, signature) == (made_for == used_for)
    assert not signing.verify(OTHER.public, made_for, message, signature)
    assert not signing.verify(SIGNER.public, made_for, message + b"x", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.text(max_size=100))
def test_bytes_that_are_no_signature_never_verify_nor_crash(key: bytes, signature: bytes, text: str) -> None:
    public = DevicePublicKey(key)
    assert not signing.verify(public, Context.HELLO, b"m", signature)
    assert not signing.verify_text(public, Context.HELLO, b"m", text)


def test_a_map_signature_covers_generation_serial_head_and_members() -> None:
    good = netmap()
    signature = signing.sign_map(SIGNER, good)
    assert signing.verify_map(good, signature, {SIGNER.public})
    assert not signing.verify_map(good, signature, {OTHER.public})
    for changed in (netmap(serial=2), netmap(generation=2), netmap(members=3)):
        assert not signing.verify_map(changed, signature, {SIGNER.public})
    assert not signing.verify_map(netmap(serial=-1), signature, {SIGNER.public})


def test_the_signature_of_a_map_serves_its_delta_too() -> None:
    old, new = netmap(), netmap(serial=2, members=5)
    signature = signing.sign_map(SIGNER, new)
    delta = from_json(to_json(MapDelta.between(old, new)), MapDelta)
    assert signing.verify_map(delta.apply(old), signature, {SIGNER.public})


def test_a_registration_binds_nonce_controller_keys_and_invite() -> None:
    device = SIGNER.device_key
    sealing = SealingPublicKey(bytes(1216))
    wg = WireGuardPublicKey(bytes(32))
    messages = {
        signing.registration_message(nonce, identity, device_key=device, wg_key=key, sealing_key=sealing, invite=invite)
        for nonce in (bytes(32), b"\1" * 32)
        for identity in (SIGNER.public, OTHER.public)
        for key in (wg, WireGuardPublicKey(b"\1" * 32))
        for invite in (InviteID("inv_a"), "office-abcd-efgh2345")
    }
    assert len(messages) == 16


def document(**changes: object) -> IdentityDocument:
    values: dict[str, object] = {
        "identity": SIGNER.public,
        "ca_pem": "-----BEGIN CERTIFICATE-----",
        "signing_keys": (OTHER.public,),
        "urls": ("https://192.0.2.1:8443",),
        "stun_ports": (8443, 8444),
        "issued": 1.5,
    }
    return IdentityDocument(**(values | changes))  # type: ignore[arg-type]


def test_an_identity_is_accepted_by_its_fingerprint_only() -> None:
    signed = signing.sign_identity(SIGNER, document())
    assert signing.verify_identity(signed, SIGNER.public.fingerprint) == document()
    with pytest.raises(ForgedError, match="fingerprint"):
        signing.verify_identity(signed, OTHER.public.fingerprint)


def test_a_changed_identity_is_refused_and_a_newer_field_is_not() -> None:
    envelope = json.loads(signing.sign_identity(SIGNER, document()))
    forged = dict(envelope, document=envelope["document"].replace("192.0.2.1", "192.0.2.9"))
    with pytest.raises(ForgedError, match="signature"):
        signing.verify_identity(json.dumps(forged).encode(), SIGNER.public.fingerprint)
    newer = envelope["document"][:-1] + ',"zone":"x"}'
    signature = base64.b64encode(SIGNER.sign(Context.IDENTITY, newer.encode())).decode()
    data = json.dumps({"document": newer, "signature": signature}).encode()
    assert signing.verify_identity(data, SIGNER.public.fingerprint) == document()


def test_an_identity_is_signed_by_its_own_key() -> None:
    with pytest.raises(ValueError, match="another key"):
        signing.sign_identity(OTHER, document())


@given(st.binary(max_size=300))
def test_any_bytes_are_an_identity_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        signing.verify_identity(data, SIGNER.public.fingerprint)


def test_a_rogue_controller_gets_no_signature_that_another_takes() -> None:
    """Its nonce goes on with the other's nonce and identity; its own identity then reads as the end of a boot id."""
    nonce, honest = b"n" * 32, SIGNER.public
    rogue = SigningPublicKey(b"a public key ground to be text!!")
    asked_by_rogue = nonce + honest
    with pytest.raises(MalformedError, match="nonce"):
        signing.hello_message(asked_by_rogue, rogue, "boot")
    assert signing.hello_message(nonce, honest, rogue.decode() + "boot") == asked_by_rogue + rogue + b"boot"
    for size in (0, 16, 31, 33, 64):
        with pytest.raises(MalformedError, match="nonce"):
            signing.registration_message(
                bytes(size), honest, device_key=SIGNER.device_key, wg_key=WireGuardPublicKey(bytes(32)),
                sealing_key=SealingPublicKey(bytes(1216)), invite="",
            )  # fmt: skip
