"""The relay's wire: codecs, the proof that a token alone can't give, sizes, streams."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import NetworkID
from shadowmesh.protocol import relay
from shadowmesh.protocol.signing import Context, Signer, verify

NET = NetworkID(b"n" * 32)
IP = IPv4Address("10.1.2.3")
b8 = st.binary(min_size=8, max_size=8)
nets = st.binary(min_size=32, max_size=32).map(NetworkID)
ips = st.integers(0, 2**32 - 1).map(IPv4Address)
tokens = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=700)
addrs = st.builds(
    SockAddr,
    st.one_of(ips.map(str), st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))),
    st.integers(1, 65535),
)
u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)

messages = st.one_of(
    st.builds(relay.Hello, b8, tokens, u8),
    st.builds(relay.Challenge, b8, st.binary(min_size=24, max_size=24)),
    st.builds(
        relay.Proof,
        b8,
        st.binary(min_size=24, max_size=24),
        st.binary(min_size=64, max_size=64),
        tokens,
        u8,
    ),
    st.builds(
        relay.Welcome,
        echo=b8,
        session=b8,
        network_id=nets,
        ip=ips,
        flags=u8.map(relay.WelcomeFlags),
        idle=u16,
        kbit=st.integers(0, 2**32 - 1),
        observed=addrs,
        signature=st.binary(min_size=64, max_size=64),
    ),
    st.builds(relay.Refuse, b8, u8, u16),
    st.builds(relay.NoSession, nets, ips, b8),
    st.builds(relay.NoPeer, nets, ips, b8),
    st.builds(relay.Ping, nets, ips, b8),
    st.builds(relay.Pong, nets, ips, b8),
    st.builds(relay.Bye, nets, ips, b8, u8),
)


@given(messages)
def test_every_control_message_comes_back_as_it_was(message: relay.ControlMessage) -> None:
    data = message.encode()
    assert relay.is_control(data)
    assert not relay.is_frame(data)
    again = relay.decode_control(data)
    assert again == message
    assert type(again) is type(message)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: relay.CONTROL_HEADER + b)))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message = relay.decode_control(data)
    except MalformedError:
        return
    assert message.encode() == data


@given(messages, st.data())
def test_a_message_cut_short_or_flipped_is_no_crash(message: relay.ControlMessage, draw: st.DataObject) -> None:
    data = bytearray(message.encode())
    data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    for size in {len(data), draw.draw(st.integers(0, len(data)))}:
        with contextlib.suppress(MalformedError):
            relay.decode_control(bytes(data[:size]))


@given(nets, ips, ips)
def test_a_frame_prefix_has_44_bytes_and_turns_around(net: NetworkID, source: IPv4Address, dest: IPv4Address) -> None:
    prefix = relay.frame_prefix(net, source, dest)
    assert len(prefix) == relay.PREFIX_SIZE == 44
    assert prefix[:4] == bytes.fromhex("534d0102")
    assert (prefix[4:36], prefix[36:40], prefix[40:]) == (bytes(net), source.packed, dest.packed)
    assert relay.answer_prefix(prefix) == relay.frame_prefix(net, dest, source)


def test_answers_to_unproven_addresses_are_shorter_than_what_they_answer() -> None:
    hello = relay.Hello(bytes(8), "t").encode()
    challenge = relay.Challenge(bytes(8), bytes(24)).encode()
    no_session = relay.NoSession(NET, IP).encode()
    refuse = relay.Refuse(bytes(8), relay.Refusal.FULL, 5).encode()
    proof = relay.Proof(bytes(8), bytes(24), bytes(64), "t").encode()
    assert len(challenge) <= len(hello) + 200  # a real token has far more; the relay checks it, see its own tests
    assert len(no_session) <= relay.MIN_FRAME
    assert len(relay.NoPeer(NET, IP, bytes(8)).encode()) <= relay.MIN_FRAME
    assert len(no_session) <= len(relay.Ping(NET, IP, bytes(8)).encode())
    assert len(refuse) <= len(proof)


class TestLogin:
    def setup_method(self) -> None:
        self.device, self.relay = Signer.generate(), Signer.generate()
        self.login = relay.LoginAttempt("smt1_token", self.relay.public, self.device, echo=b"12345678")
        self.challenge = relay.Challenge(b"12345678", b"c" * 24)

    def welcome(self, signer: Signer, cookie: bytes, echo: bytes = b"12345678") -> relay.Welcome:
        plain = relay.Welcome(
            echo=echo,
            session=bytes(8),
            network_id=NET,
            ip=IP,
            flags=relay.WelcomeFlags.FRESH,
            idle=60,
            kbit=0,
            observed=SockAddr("192.0.2.1", 4000),
        )
        return relay.sign_welcome(plain, cookie, signer)

    def prove(self) -> relay.Proof:
        answer = self.login.receive(self.challenge)
        assert answer is not None
        proof = relay.decode_control(answer)
        assert isinstance(proof, relay.Proof)
        return proof

    def test_the_device_signs_relay_attempt_cookie_and_token(self) -> None:
        proof = self.prove()
        message = relay.proof_message(self.relay.public, proof.echo, proof.cookie, proof.token)
        assert verify(self.device.device_key, Context.RELAY_PROOF, message, proof.signature)
        for changed in (
            relay.proof_message(Signer.generate().public, proof.echo, proof.cookie, proof.token),
            relay.proof_message(self.relay.public, b"other...", proof.cookie, proof.token),
            relay.proof_message(self.relay.public, proof.echo, b"d" * 24, proof.token),
            relay.proof_message(self.relay.public, proof.echo, proof.cookie, "smt1_other"),
        ):
            assert not verify(self.device.device_key, Context.RELAY_PROOF, changed, proof.signature)

    def test_a_repeated_challenge_gets_the_same_proof(self) -> None:
        assert self.prove() == self.prove()

    def test_only_the_relay_of_the_map_can_welcome(self) -> None:
        self.prove()
        self.login.receive(self.welcome(Signer.generate(), b"c" * 24))
        assert not self.login.done
        self.login.receive(self.welcome(self.relay, b"d" * 24))
        assert not self.login.done
        self.login.receive(self.welcome(self.relay, b"c" * 24))
        assert self.login.welcome is not None
        assert self.login.welcome.fresh

    def test_what_belongs_to_another_attempt_is_ignored(self) -> None:
        assert self.login.receive(relay.Challenge(b"00000000", b"c" * 24)) is None
        self.login.receive(relay.Refuse(b"00000000", relay.Refusal.FULL))
        assert not self.login.done
        self.login.receive(relay.Refuse(b"12345678", relay.Refusal.STALE_TOKEN))
        assert self.login.refused == relay.Refuse(b"12345678", relay.Refusal.STALE_TOKEN)

    def test_a_flood_of_challenges_makes_few_signatures(self) -> None:
        answers = [self.login.receive(relay.Challenge(b"12345678", bytes([n]) * 24)) for n in range(100)]
        assert len([a for a in answers if a]) == 8


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20))
def test_a_message_gives_its_frames(frames: list[bytes]) -> None:
    assert [bytes(f) for f in relay.unpack_message(relay.pack_stream(frames))] == frames


@given(st.binary(max_size=200))
def test_a_message_of_any_bytes_is_frames_or_malformed(data: bytes) -> None:
    try:
        frames = relay.unpack_message(data)
    except MalformedError:
        return
    assert relay.pack_stream(frames) == data


def test_an_empty_or_oversized_frame_is_refused() -> None:
    with pytest.raises(MalformedError):
        relay.unpack_message(b"\x00\x00")
    with pytest.raises(ValueError, match="does not fit"):
        relay.pack_stream([bytes(65536)])
