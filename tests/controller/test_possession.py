"""Who enrols holds the keys: public keys read off a map, and proofs made for something else, enrol nobody."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shadowmesh.client_api.contact import API, first_contact
from shadowmesh.model.codec import from_json, to_builtins
from shadowmesh.model.enrol import ChallengeRequest, EnrolChallenge
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.invite import Invite
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.possession import Challenge, prove
from shadowmesh.protocol.sealing import generate_sealing_keys, seal
from shadowmesh.protocol.signing import Context, Signer, registration_message, sign_text

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

LOW = (1).to_bytes(32, "little")


class Applicant:
    """A client of one's own: every part of the exchange can be something else than it should."""

    def __init__(self, world: World, device: Device, invite: str) -> None:
        parsed = Invite.decode(invite)
        self.world = world
        self.device = device
        self.identity = world.at.context.keys.identity.public
        self.redeemed: dict[str, Any] = {"invite_id": parsed.invite_id, "secret": parsed.secret}
        self.invite: str = parsed.invite_id
        self.public: dict[str, Any] = {
            "device_key": device.signer.device_key,
            "wg_key": device.wg_key,
            "sealing_key": device.sealing_key,
        }
        self.signer = device.signer
        self.wg_private = device.wg_private
        self.sealing_private = device.sealing_secret

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        contact = await asyncio.to_thread(first_contact, self.world.url, self.world.fingerprint)
        async with httpx.AsyncClient(base_url=self.world.url + API, verify=contact.tls, trust_env=False) as client:
            return await client.post(path, json=to_builtins(body))

    async def challenge(self) -> httpx.Response:
        return await self.post("/enroll/challenge", self.redeemed | self.public)

    async def asked(self) -> EnrolChallenge:
        return from_json((await self.challenge()).content, EnrolChallenge)

    def message(self, challenge: EnrolChallenge) -> bytes:
        return registration_message(bytes.fromhex(challenge.nonce), self.identity, invite=self.invite, **self.public)

    def request(self, challenge: EnrolChallenge) -> dict[str, Any]:
        assert challenge.ephemeral is not None and challenge.sealed is not None
        message = self.message(challenge)
        asked = Challenge(challenge.ephemeral, base64.b64decode(challenge.sealed))
        try:
            proof = prove(asked, self.wg_private, self.sealing_private, message)
        except MalformedError:  # the value can't be opened: guess it
            guess, key = generate_sealing_keys()
            sealed = seal(key, bytes(32), b"shadowmesh possession value 1" + message)
            proof = prove(Challenge(challenge.ephemeral, sealed), self.wg_private, guess, message)
        return {
            "nonce": challenge.nonce,
            "signature": sign_text(self.signer, Context.REGISTRATION, message),
            "proof": base64.b64encode(proof).decode(),
            "hostname": "laptop",
            **self.redeemed,
            **self.public,
        }

    async def enrol(self) -> httpx.Response:
        return await self.post("/enroll", self.request(await self.asked()))


async def applicant(world: World, network: str = "office") -> Applicant:
    return Applicant(world, world.device(), (await world.invite(network)).invite)


def code(answer: httpx.Response) -> str:
    return str(answer.json().get("code", answer.status_code))


async def test_the_exchange_by_hand(world: World) -> None:
    await world.network()
    honest = await applicant(world)
    challenge = await honest.asked()
    assert len(bytes.fromhex(challenge.nonce)) == 32 and len(base64.b64decode(challenge.sealed or "")) == 1168
    answer = await honest.post("/enroll", honest.request(challenge))
    assert (answer.status_code, answer.json()["state"]) == (200, "approved")


@pytest.mark.parametrize("missing", ["device", "wg", "sealing"])
async def test_a_thief_who_lacks_one_private_key_enrols_nobody(world: World, missing: str) -> None:
    await world.network()
    thief = await applicant(world)
    if missing == "device":
        thief.signer = Signer.generate()
    elif missing == "wg":
        thief.wg_private = generate_private_key()
    else:
        thief.sealing_private, _ = generate_sealing_keys()
    answer = await thief.enrol()
    assert code(answer) == ("bad_signature" if missing == "device" else "bad_proof")
    assert answer.status_code == 403
    assert await world.call("client_list", "office") == []


async def test_keys_read_off_a_map_are_of_no_use_in_another_network(world: World) -> None:
    await world.network()
    victim = await world.member()
    await world.network("other", "10.43.0.0/24")
    thief = await applicant(world, "other")
    (member,) = victim.map.members
    thief.public["wg_key"] = member.wg_key
    assert code(await thief.enrol()) == "bad_proof"
    assert await world.call("client_list", "other") == []


async def test_a_proof_for_one_invite_key_or_controller_is_none_for_another(world: World) -> None:
    await world.network()
    honest, other = await applicant(world), await applicant(world)
    challenge = await honest.asked()
    good = honest.request(challenge)

    async def with_changes(**changes: Any) -> str:
        return code(await honest.post("/enroll", good | changes))

    signed = Applicant(world, honest.device, (await world.invite()).invite)
    moved = {"signature": sign_text(honest.signer, Context.REGISTRATION, signed.message(challenge)), **signed.redeemed}
    assert await with_changes(**moved) == "bad_proof", "another invite"
    assert await with_changes(nonce=(await honest.asked()).nonce) == "bad_signature", "another nonce"
    assert await with_changes(wg_key=other.public["wg_key"]) == "bad_signature"
    assert await with_changes(nonce="00" * 32) == "nonce_expired"
    assert await with_changes(proof="") == await with_changes(proof="!") == "bad_proof"
    rogue = await applicant(world)
    rogue.identity = Signer.generate().public  # as a controller in between would have the client compute
    asked = await rogue.asked()
    with pytest.raises(MalformedError):
        prove(
            Challenge(asked.ephemeral, base64.b64decode(asked.sealed)),  # type: ignore[arg-type]
            rogue.wg_private,
            rogue.sealing_private,
            rogue.message(asked),
        )
    assert code(await honest.post("/enroll", good)) == "200"


async def test_a_nonce_without_a_challenge_enrols_nobody(world: World) -> None:
    """The nonce that relays ask for comes without a key and a value."""
    await world.network()
    honest = await applicant(world)
    request = honest.request(await honest.asked())
    bare = from_json((await honest.post("/enroll/challenge", {})).content, EnrolChallenge)
    assert (bare.ephemeral, bare.sealed) == (None, None)
    message = honest.message(bare)
    request |= {"nonce": bare.nonce, "signature": sign_text(honest.signer, Context.REGISTRATION, message)}
    assert code(await honest.post("/enroll", request)) == "bad_proof"


async def test_nothing_is_sealed_for_an_invite_that_is_no_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.network()
    sealed: list[Any] = []
    monkeypatch.setattr("shadowmesh.protocol.possession.seal", lambda *a: sealed.append(a) or b"")
    wrong, revoked, expired = await applicant(world), await applicant(world), await applicant(world)
    wrong.redeemed["secret"] = "A" * 22
    await world.call("invite_revoke", "office", revoked.invite)
    assert [code(await a.challenge()) for a in (wrong, revoked)] == ["invite_invalid", "invite_revoked"]
    keyless = await expired.post("/enroll/challenge", expired.redeemed)
    assert code(keyless) == "bad_request"
    world.clock.advance(days=2)
    assert code(await expired.challenge()) == "invite_expired"
    assert sealed == []


async def test_guessing_secrets_is_slowed_down_for_who_guesses(world: World) -> None:
    await world.network()
    honest = await applicant(world)
    wrong = ChallengeRequest(**(honest.redeemed | {"secret": "A" * 22}), **honest.public)
    right = ChallengeRequest(**honest.redeemed, **honest.public)
    enrolment = world.at.enrolment

    async def outcome(wish: ChallengeRequest, source: str) -> str:
        try:
            await enrolment.challenge(wish, source)
        except Exception as e:
            return str(getattr(e, "code", e))
        return "asked"

    guesses = [await outcome(wrong, "192.0.2.1") for _ in range(40)]
    assert guesses[:30] == ["invite_invalid"] * 30 and guesses[30:] == ["rate_limited"] * 10
    assert await outcome(right, "192.0.2.1") == "rate_limited"
    assert [await outcome(right, "192.0.2.2") for _ in range(50)] == ["asked"] * 50, "a right one is no guess"


async def test_challenges_for_one_source_are_bounded(world: World) -> None:
    await world.network()
    honest = await applicant(world)
    begun = world.clock()
    right = ChallengeRequest(**honest.redeemed, **honest.public)
    taken = 0
    with pytest.raises(Exception, match="too many attempts"):
        for _ in range(20_000):
            await world.at.enrolment.challenge(right, "192.0.2.1")
            taken += 1
    seconds = (world.clock() - begun).total_seconds()
    assert taken <= 501 + seconds / 0.02


async def test_strangers_who_guess_codes_lock_nobody_out(world: World) -> None:
    await world.network()
    invite = await world.invite()
    device = world.device()
    keys = {"device_key": device.signer.device_key, "wg_key": device.wg_key, "sealing_key": device.sealing_key}
    for source in range(60):
        for guess in range(5):
            with pytest.raises(Exception, match="not valid"):
                wish = ChallengeRequest(code=f"office-aaaa-{source:04}{guess:04}", **keys)
                await world.at.enrolment.challenge(wish, f"198.51.100.{source}")
    assert (await device.join(invite.code)).state == "pending"


@pytest.mark.parametrize("key", ["device_key", "wg_key", "sealing_key"])
async def test_a_point_of_small_order_is_refused_for_each_key(world: World, key: str) -> None:
    await world.network()
    odd = await applicant(world)
    low = bytes(odd.public["sealing_key"][:1184]) + LOW if key == "sealing_key" else LOW
    odd.public[key] = type(odd.public[key])(low)
    answer = await odd.challenge()
    assert (answer.status_code, code(answer)) == (422, "malformed")
    honest = await applicant(world)
    request = honest.request(await honest.asked()) | {key: odd.public[key]}
    assert (await honest.post("/enroll", request)).status_code in {403, 422}
    assert await world.call("client_list", "office") == []


async def test_an_answer_lost_on_the_wire_is_given_again(world: World) -> None:
    """By the same request and by a new challenge: the same client, and one use."""
    await world.network()
    honest = await applicant(world)
    request = honest.request(await honest.asked())
    first = await honest.post("/enroll", request)
    same = await honest.post("/enroll", request)
    again = await honest.enrol()
    assert {a.json()["client_id"] for a in (first, same, again)} == {first.json()["client_id"]}
    assert [i.state for i in await world.invites("office")] == ["used"]


async def test_a_device_may_not_take_over_the_key_of_another_client(world: World) -> None:
    """The holder of one key in two devices: the second is told, at the first enrolment and when it comes back."""
    await world.network()
    await (first := await applicant(world)).enrol()
    second = await applicant(world)
    second.public["wg_key"], second.wg_private = first.public["wg_key"], first.wg_private
    assert code(await second.enrol()) == "key_taken"
    third = await applicant(world)
    assert code(await third.enrol()) == "200"
    back = Applicant(world, third.device, (await world.invite()).invite)
    back.public["wg_key"], back.wg_private = first.public["wg_key"], first.wg_private
    assert code(await back.enrol()) == "key_taken"


async def test_codes_guessed_all_at_once_are_no_more_than_one_after_another(world: World) -> None:
    await world.network()
    device = world.device()
    keys = {"device_key": device.signer.device_key, "wg_key": device.wg_key, "sealing_key": device.sealing_key}

    async def outcome(number: int) -> str:
        try:
            await world.at.enrolment.challenge(ChallengeRequest(code=f"office-aaaa-{number:08}", **keys), "192.0.2.1")
        except ShadowMeshError as e:
            return e.code
        return "asked"

    codes = await asyncio.gather(*(outcome(n) for n in range(50)))
    assert sorted(codes) == ["invite_invalid"] * 5 + ["rate_limited"] * 45
    right = ChallengeRequest(code=(await world.invite()).code, **keys)
    for _ in range(20):  # each gives its attempt back
        await world.at.enrolment.challenge(right, "192.0.2.2")
