"""The relay token: what it says, who vouches for it, how big it is."""

from __future__ import annotations

import base64
import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.codec import to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import NetworkID
from shadowmesh.protocol import relay, token
from shadowmesh.protocol.signing import Context, Signer

CONTROLLER, DEVICE = Signer.generate(), Signer.generate()
times = st.floats(0, 4e9, allow_nan=False)


def body(**changes: object) -> token.RelayTokenBody:
    fields: dict[str, object] = {
        "device_key": DEVICE.device_key,
        "network_id": NetworkID(b"n" * 32),
        "ip": IPv4Address("100.164.255.254"),
        "issued": 1764000000.123456,
        "renew_after": 1764000900.123456,
        "valid_until": 1766592000.123456,
        "limits": token.RelayLimits(kbit=1_000_000),
    }
    return token.RelayTokenBody(**(fields | changes))  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1).map(IPv4Address), times, times, st.integers(0, 2**32 - 1))
def test_a_token_says_what_was_signed(ip: IPv4Address, issued: float, renew: float, kbit: int) -> None:
    b = body(ip=ip, issued=issued, renew_after=renew, limits=token.RelayLimits(kbit=kbit))
    text = token.sign_token(b, CONTROLLER)
    assert token.verify_token(text, [Signer.generate().public, CONTROLLER.public], 1764000000.0) == b
    assert token.read_token(text) == b


def test_hello_and_proof_with_a_token_fit_one_datagram_and_outweigh_their_answers() -> None:
    text = token.sign_token(body(), CONTROLLER)
    assert text.startswith("smt1_")
    assert len(text) <= 600
    hello = relay.Hello(bytes(8), text).encode()
    assert len(relay.Challenge(bytes(8), bytes(24)).encode()) < len(hello) <= 1200
    assert len(relay.Proof(bytes(8), bytes(24), bytes(64), text).encode()) <= 1200


def test_a_token_of_another_signer_or_past_its_time_does_not_count() -> None:
    text = token.sign_token(body(), CONTROLLER)
    with pytest.raises(token.TokenError) as e:
        token.verify_token(text, [Signer.generate().public], 0)
    assert e.value.code is relay.Refusal.BAD_SIGNATURE
    with pytest.raises(token.TokenError) as e:
        token.verify_token(text, [CONTROLLER.public], 1766592000.2)
    assert e.value.code is relay.Refusal.EXPIRED


def test_fields_that_a_newer_controller_added_do_not_break_a_token() -> None:
    raw = to_json(body())[:-1] + b',"zone":"eu"}'
    packed = CONTROLLER.sign(Context.RELAY_TOKEN, raw) + raw
    text = "smt1_" + base64.urlsafe_b64encode(packed).decode().rstrip("=")
    assert token.verify_token(text, [CONTROLLER.public], 0) == body()


@given(st.data())
def test_a_changed_token_never_counts(draw: st.DataObject) -> None:
    text = token.sign_token(body(), CONTROLLER)
    raw = bytearray(base64.urlsafe_b64decode(text[5:] + "=" * (-len(text[5:]) % 4)))
    raw[draw.draw(st.integers(0, len(raw) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    forged = "smt1_" + base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    with pytest.raises((MalformedError, token.TokenError)):
        token.verify_token(forged, [CONTROLLER.public], 0)


@given(st.one_of(st.text(max_size=1200), st.text(max_size=1200).map(lambda t: "smt1_" + t)))
def test_any_text_is_malformed_or_does_not_count(text: str) -> None:
    with pytest.raises((MalformedError, token.TokenError)):
        token.verify_token(text, [CONTROLLER.public], 0)
    with contextlib.suppress(MalformedError):
        token.read_token(text)


@given(st.binary(max_size=300))
def test_signed_rubbish_is_malformed(raw: bytes) -> None:
    packed = CONTROLLER.sign(Context.RELAY_TOKEN, raw) + raw
    text = "smt1_" + base64.urlsafe_b64encode(packed).decode().rstrip("=")
    with pytest.raises(MalformedError):
        token.verify_token(text, [CONTROLLER.public], 0)
