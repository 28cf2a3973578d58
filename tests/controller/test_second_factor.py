"""A second factor: set up by a code, asked for at sign-in, used once, lost and taken away."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from people import Person, person

from shadowmesh.controller.authz import LOCAL
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.settings import Authentication
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


def code_of(world: World, secret: str, ahead: float = 0.0) -> str:
    totp = TOTP(base64.b32decode(secret), 6, SHA1(), 30)
    return totp.generate(int(world.clock().timestamp() + ahead)).decode()


async def enrolled(world: World, who: Person) -> tuple[str, list[str]]:
    """The secret and the recovery codes."""
    secret = (await who.ask("POST", "/auth/mfa/enrol", {"password": who.password})).json()["secret"]
    done = await who.ask("POST", "/auth/mfa/confirm", {"code": code_of(world, secret)})
    assert done.status_code == 200, done.text
    return secret, done.json()["recovery_codes"]


async def login(world: World, who: Person, source: str = "203.0.113.9", **more: Any) -> str:
    """`ok`, or the code of what was refused."""
    try:
        await world.at.signing_in.login(accounts.Login(email=who.email, password=who.password, **more), source)
    except ShadowMeshError as e:
        return e.code
    return "ok"


def wrong(right: str) -> str:
    return f"{(int(right) + 1) % 10**6:06d}"


async def test_codes_are_asked_for_once_one_was_shown(world: World) -> None:
    ann = await person(world, "ann")
    made = (await ann.ask("POST", "/auth/mfa/enrol", {"password": ann.password})).json()
    assert made["uri"].startswith("otpauth://totp/ShadowMesh:ann%40example.org?") and made["secret"] in made["uri"]
    assert await login(world, ann) == "ok", "nobody is kept out by one that was never confirmed"
    bad = await ann.ask("POST", "/auth/mfa/confirm", {"code": wrong(code_of(world, made["secret"]))})
    assert (bad.status_code, bad.json()["code"]) == (403, "bad_code")
    world.clock.advance(seconds=60)
    confirmed = await ann.ask("POST", "/auth/mfa/confirm", {"code": code_of(world, made["secret"])})
    assert len(set(confirmed.json()["recovery_codes"])) == 10
    world.clock.advance(seconds=60)
    assert await login(world, ann) == "code_required"
    assert await login(world, ann, code=wrong(code_of(world, made["secret"]))) == "bad_code"
    assert await login(world, ann, code=code_of(world, made["secret"])) == "ok"
    shown = (await ann.ask("GET", "/auth/mfa")).json()
    assert shown["enabled"] and shown["recovery_codes_left"] == 10
    assert [u.second_factor for u in await world.call("user_list") if u.email == ann.email] == [True]


async def test_a_wrong_password_tells_nothing_of_a_second_factor(world: World) -> None:
    ann = await person(world, "ann")
    await enrolled(world, ann)
    with pytest.raises(ShadowMeshError) as caught:
        await world.at.signing_in.login(accounts.Login(email=ann.email, password="x"), "203.0.113.9")
    assert caught.value.code == "bad_credentials"


async def test_a_used_code_is_not_taken_again_nor_an_older_one(world: World) -> None:
    ann = await person(world, "ann")
    secret, _ = await enrolled(world, ann)
    assert await login(world, ann, code=code_of(world, secret)) == "bad_code", "it confirmed the secret a moment ago"
    world.clock.advance(seconds=90)
    older, now = code_of(world, secret, -30), code_of(world, secret)
    assert await login(world, ann, code=now) == "ok"
    assert await login(world, ann, code=now) == "bad_code"
    assert await login(world, ann, code=older) == "bad_code"


async def test_a_clock_that_is_half_a_minute_off_is_near_enough(world: World) -> None:
    ann = await person(world, "ann")
    secret, _ = await enrolled(world, ann)
    world.clock.advance(seconds=300)
    for off, said in ((-60, "bad_code"), (60, "bad_code"), (-30, "ok"), (30, "ok")):
        assert await login(world, ann, code=code_of(world, secret, off)) == said, off


async def test_a_recovery_code_is_good_once(world: World) -> None:
    ann = await person(world, "ann")
    _, codes = await enrolled(world, ann)
    assert await login(world, ann, code=codes[0].upper().replace("-", " ")) == "ok"
    assert await login(world, ann, code=codes[0]) == "bad_code"
    assert (await ann.ask("GET", "/auth/mfa")).json()["recovery_codes_left"] == 9
    bob = await person(world, "bob")
    await enrolled(world, bob)
    assert await login(world, bob, code=codes[1]) == "bad_code", "they are of one user"
    new = (await ann.ask("POST", "/auth/mfa/recovery-codes", {"code": codes[1]})).json()["recovery_codes"]
    assert await login(world, ann, code=codes[2]) == "bad_code" and await login(world, ann, code=new[0]) == "ok"
    used = [e for e in await world.call("audit_list") if e.action == "mfa.recovery-code-used"]
    assert [(e.target, e.detail["left"]) for e in used] == [(ann.email, 9), (ann.email, 8), (ann.email, 9)]


async def test_guesses_are_few_from_wherever_they_come_and_the_owners_device_has_its_own(world: World) -> None:
    ann = await person(world, "ann")
    secret, _ = await enrolled(world, ann)
    world.clock.advance(seconds=60)
    at_home = await world.at.signing_in.login(
        accounts.Login(email=ann.email, password=ann.password, code=code_of(world, secret)), "192.0.2.7"
    )
    world.clock.advance(seconds=60)
    bad = wrong(code_of(world, secret))
    said = [await login(world, ann, f"198.51.100.{n}", code=bad) for n in range(12)]
    assert said == ["bad_code"] * 10 + ["rate_limited"] * 2
    right = code_of(world, secret)
    assert await login(world, ann, "203.0.113.9", code=right) == "rate_limited"
    assert await login(world, ann, "203.0.113.9", code=right, device_token=at_home.device_token) == "ok"
    world.clock.advance(seconds=61)
    assert await login(world, ann, "203.0.113.9", code=code_of(world, secret)) == "ok", "one a minute"


async def test_secrets_and_codes_lie_encrypted_and_hashed_in_the_database_and_nowhere_in_the_log(world: World) -> None:
    ann = await person(world, "ann")
    secret, codes = await enrolled(world, ann)
    f, r = schema.second_factors, schema.recovery_codes
    sealed, macs = await world.at.context.read(
        lambda c: (c.execute(sa.select(f.c.sealed_secret)).scalar_one(), c.execute(sa.select(r.c.mac)).scalars().all())
    )
    assert base64.b32decode(secret) not in sealed and secret.encode() not in sealed and len(macs) == 10
    log = "\n".join(str(e) for e in await world.call("audit_list"))
    for known in (secret, *codes):
        assert known not in log and known not in macs and known.replace("-", "") not in macs


async def test_confirming_ends_the_sessions_that_a_password_alone_had_opened(world: World) -> None:
    ann = await person(world, "ann")
    other = (await ann.ask("POST", "/auth/login", {"email": ann.email, "password": ann.password})).json()
    async with ann.watching(token=other["access_token"]) as watch:
        await enrolled(world, ann)
        assert await watch.ended() == (4401, "not_signed_in")
    assert [(await ann.ask("GET", "/whoami", token=t)).status_code for t in (ann.token, other["access_token"])] == [
        200,
        401,
    ]


async def test_it_is_ended_by_password_and_code_together(world: World) -> None:
    ann = await person(world, "ann")
    secret, codes = await enrolled(world, ann)
    world.clock.advance(seconds=60)
    wishes: list[tuple[dict[str, str], Any]] = [
        ({"password": "not hers", "code": code_of(world, secret)}, "wrong_password"),
        ({"password": ann.password, "code": wrong(code_of(world, secret))}, "bad_code"),
        ({"password": ann.password, "code": code_of(world, secret)}, None),
        ({"password": ann.password, "code": codes[0]}, "no_second_factor"),
    ]
    for wish, said in wishes:
        answer = await ann.ask("POST", "/auth/mfa/disable", wish)
        assert (answer.json()["code"] if answer.content else None) == said
    assert await login(world, ann) == "ok"
    assert await login(world, ann, code=codes[1]) == "ok", "a code that isn't asked for does no harm"


async def test_an_administrator_takes_it_away_and_nobody_else(world: World) -> None:
    ann, bob, root = [await person(world, name, admin=name == "root") for name in ("ann", "bob", "root")]
    await enrolled(world, ann)
    assert (await bob.ask("DELETE", f"/users/{ann.email}/mfa")).status_code == 403
    assert (await root.ask("DELETE", f"/users/{ann.email}/mfa")).status_code == 204
    assert await login(world, ann) == "ok"
    entry = (await world.call("audit_list"))[-2]
    assert (entry.action, entry.actor, entry.target) == ("mfa.reset", root.email, ann.email)
    again = await root.ask("DELETE", f"/users/{ann.email}/mfa")
    assert (again.status_code, again.json()["code"]) == (409, "no_second_factor")


async def test_setting_one_up_takes_the_password_and_a_session_of_ones_own(world: World) -> None:
    ann = await person(world, "ann")
    refused = await ann.ask("POST", "/auth/mfa/enrol", {"password": "not hers"})
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_password")
    key = (await ann.ask("POST", "/api-keys", {})).json()["key"]
    assert (await ann.ask("POST", "/auth/mfa/enrol", {"password": ann.password}, token=key)).status_code == 403
    await enrolled(world, ann)
    twice = await ann.ask("POST", "/auth/mfa/enrol", {"password": ann.password})
    assert (twice.status_code, twice.json()["code"]) == (409, "second_factor_exists")
    assert (await ann.ask("GET", "/networks", token=key)).status_code == 200, "keys are asked for no code"
    with pytest.raises(ShadowMeshError) as caught:
        await world.at.second_factors.show(LOCAL)
    assert caught.value.code == "not_allowed"


def require(world: World, *roles: Any) -> None:
    """As if `controller.json` said so."""
    settings = msgspec.structs.replace(world.at.context.settings, authentication=Authentication(mfa_required=roles))
    context = replace(world.at.context, settings=settings)
    world.at.sessions._context = context


async def test_who_has_a_role_that_asks_for_it_can_do_nothing_but_set_it_up(world: World) -> None:
    await world.network()
    root, ann, bob = [
        await person(world, name, {"office": role}, admin=name == "root")
        for name, role in (("root", "guest"), ("ann", "owner"), ("bob", "member"))
    ]
    key = (await ann.ask("POST", "/api-keys", {})).json()["key"]
    require(world, "admin", "owner")
    for who, said in ((root, 403), (ann, 403), (bob, 200)):
        asked = [await who.ask(method, path) for method, path in (("GET", "/networks"), ("GET", "/sessions"))]
        assert {a.status_code for a in asked} == {said}, who.email
        known = (await who.ask("GET", "/whoami")).json()
        assert known["second_factor_missing"] is (said == 403)
    refused = await ann.ask("POST", "/api-keys", {})
    assert (refused.status_code, refused.json()["code"]) == (
        403,
        "mfa_required",
    ) and "user mfa enrol" in refused.json()["remedy"]
    assert (await ann.ask("GET", "/networks", token=key)).status_code == 200
    assert await login(world, ann) == "ok", "to set it up"
    await enrolled(world, ann)
    assert (await ann.ask("GET", "/networks")).status_code == 200


async def test_a_role_that_comes_later_asks_for_it_at_once(world: World) -> None:
    await world.network()
    bob = await person(world, "bob", {"office": "member"})
    require(world, "owner")
    async with bob.watching(network_id="office") as watch:
        await world.call("member_set", "office", api.MemberPut(email=bob.email, role="owner"))
        assert await watch.ended() == (4003, "mfa_required")
    assert (await bob.ask("GET", "/networks")).json()["code"] == "mfa_required"


async def test_the_requirement_is_read_with_the_settings_and_stands_in_the_log(world: World, tmp_path: Any) -> None:
    from shadowmesh.controller.settings import DataDir

    where = DataDir(world.data_dir)
    text = where.config.read_text().rstrip().removesuffix("}")
    where.config.write_text(text + ',"authentication":{"mfa_required":["admin","owner"]}}')
    settings = where.read()
    assert settings.authentication.mfa_required == ("admin", "owner")
    other = Services(replace(world.at.context, settings=settings))
    await other.start()
    await other.stop()
    changed = [e for e in await world.call("audit_list") if e.action == "controller.settings"][-1]
    assert changed.detail["after"]["mfa_required"] == ["admin", "owner"]
    where.config.write_text(text + ',"authentication":{"mfa_required":["king"]}}')
    with pytest.raises(ShadowMeshError) as caught:
        where.read()
    assert caught.value.code == "unreadable_config"
