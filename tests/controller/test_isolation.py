"""Who has no role in a network can't tell it from one that isn't there: on no route, by no word of the answer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person
from test_matrix import CSR

from shadowmesh.controller.authz import Principal
from shadowmesh.model import api
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import new_id

if TYPE_CHECKING:
    from tests.controller.conftest import World

KEY = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="  # the base point: a key like any

ADMINISTRATORS = {"/networks/{network}/plan"}  # theirs alone, whatever the network
BODIES = {
    ("PATCH", "/networks/{network}"): {"description": "x"},
    ("POST", "/networks/{network}/invites"): {},
    ("PATCH", "/networks/{network}/clients/{client}"): {"name": "x"},
    ("POST", "/networks/{network}/clients"): {"client_name": "x", "public_key": KEY},
    ("POST", "/networks/{network}/webhooks"): {"url": "https://1.1.1.1/hook"},
    ("POST", "/api-keys/{key}/certificate"): {"csr": CSR},
    ("PUT", "/networks/{network}/members"): {"email": "eve@example.org", "role": "guest"},
}


async def described(who: Person) -> list[tuple[str, str]]:
    """Every route of the API's description: method and path below /api/v1."""
    document = (await who.ask("GET", "/openapi.json")).json()
    prefix = len(api.API)
    return [(method.upper(), path[prefix:]) for path, verbs in document["paths"].items() for method in verbs]


async def answer(who: Person, method: str, path: str, names: dict[str, str], hidden: str) -> tuple[int, str]:
    """Status and body; what was asked for by name shows as `…`."""
    for key, value in names.items():
        path = path.replace("{" + key + "}", value)
    got = await who.ask(method, path, BODIES.get((method, path)) or _body(method, path))
    return got.status_code, got.text.replace(hidden, "…")


def _body(method: str, path: str) -> Any:
    for (verb, template), body in BODIES.items():
        mine, theirs = path.split("/"), template.split("/")
        if (
            verb == method
            and len(mine) == len(theirs)
            and all(t.startswith("{") or t == m for m, t in zip(mine, theirs, strict=True))
        ):
            return body
    return None


async def test_anothers_network_answers_on_every_route_as_one_that_is_not_there(world: World) -> None:
    theirs = await world.network("theirs")
    await world.network("own", "10.43.0.0/24")
    await world.device().join((await world.invite("theirs")).invite)
    client = (await world.call("client_list", "theirs"))[0]
    invite = (await world.invites("theirs"))[0]
    ann = await person(world, "ann", {"own": "owner"})
    eve = await person(world, "eve", {"theirs": "owner"})
    routes = [(m, p) for m, p in await described(ann) if "{network}" in p and not p.startswith("/groups/")]
    assert len(routes) >= 18
    for method, path in routes:
        rest = {"client": client.name, "peer": client.name, "invite": invite.id, "user": eve.user}
        seen = {
            asked: await answer(ann, method, path, {"network": asked} | rest, asked)
            for asked in (theirs.network_id, "theirs", "THEIRS", new_id("net"), "nowhere")
        }
        assert len(set(seen.values())) == 1, (method, path, seen)
        status, body = next(iter(seen.values()))
        expected = (403, "not_allowed") if path in ADMINISTRATORS else (404, "network_unknown")
        assert (status, json.loads(body)["code"]) == expected, (method, path, body)
    for asked in (theirs.network_id, "theirs", "nowhere"):
        got = await ann.ask("GET", f"/events?network={asked}")
        assert (got.status_code, got.json()["code"]) == (404, "network_unknown")


async def test_what_is_in_anothers_network_answers_in_ones_own_as_what_is_not_there(world: World) -> None:
    await world.network("theirs")
    await world.network("own", "10.43.0.0/24")
    await world.device().join((await world.invite("theirs")).invite)
    client = (await world.call("client_list", "theirs"))[0]
    invite = (await world.invites("theirs"))[0]
    ann = await person(world, "ann", {"own": "owner"})
    eve = await person(world, "eve", {"theirs": "owner"})
    key = (await eve.ask("POST", "/api-keys", {})).json()
    pairs = {
        "client": (client.client_id, new_id("cli")),
        "peer": (client.client_id, new_id("cli")),
        "invite": (invite.id, new_id("inv")),
        "user": (eve.user, new_id("usr")),
        "key": (key["id"], new_id("key")),
    }
    walked = 0
    for method, path in await described(ann):
        for kind, (foreign, absent) in pairs.items():
            if "{" + kind + "}" not in path or path.startswith(("/users/", "/groups/")):
                continue
            one = await answer(ann, method, path, {"network": "own", kind: foreign}, foreign)
            other = await answer(ann, method, path, {"network": "own", kind: absent}, absent)
            assert one == other and one[0] == 404, (method, path, one, other)
            walked += 1
    assert walked >= 9


async def test_an_owner_learns_from_no_answer_who_is_a_user(world: World) -> None:
    await world.network("own")
    ann = await person(world, "ann", {"own": "owner"})
    eve = await person(world, "eve")
    emails = (eve.email, "nobody@example.org")
    for role in ("guest", "owner"):
        answers = [await ann.ask("PUT", "/networks/own/members", {"email": e, "role": role}) for e in emails]
        told = {(a.status_code, a.text.replace(e, "…")) for a, e in zip(answers, emails, strict=True)}
        assert len(told) == 1 and f'{{"user":null,"email":"…","role":"{role}",' in next(iter(told))[1]
    listed = (await ann.ask("GET", "/networks/own/members")).json()["items"]
    one, other = [m | {"email": "…"} for m in listed if m["email"] != ann.email]
    assert one == other and (one["user"], one["role"]) == (None, "owner")
    assert [(await ann.ask("DELETE", f"/networks/own/members/{e}")).status_code for e in emails] == [204, 204]
    ids = (eve.user, new_id("usr"))
    gone = [await ann.ask("DELETE", f"/networks/own/members/{i}") for i in ids]
    assert len({(g.status_code, g.text.replace(i, "…")) for g, i in zip(gone, ids, strict=True)}) == 1


async def test_addresses_of_nobody_dont_fill_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from shadowmesh.controller.service import members

    monkeypatch.setattr(members, "MOST_MEMBERS", 3)
    await world.network("own")
    ann = await person(world, "ann", {"own": "owner"})
    put = [await ann.ask("PUT", "/networks/own/members", {"email": f"n{n}@x", "role": "guest"}) for n in (1, 2, 3, 1)]
    assert [p.status_code for p in put] == [200, 200, 409, 200] and put[2].json()["code"] == "members_full"


async def test_a_role_given_to_an_address_waits_for_its_user(world: World) -> None:
    await world.network("own")
    ann = await person(world, "ann", {"own": "owner"})
    await ann.ask("PUT", "/networks/own/members", {"email": "New@example.org", "role": "member"})
    new = await person(world, "new")
    assert (await new.ask("GET", "/networks/own")).status_code == 200
    with pytest.raises(ShadowMeshError) as typo:
        await world.call("member_set", "own", api.MemberPut(email="nwe@example.org", role="member"))
    assert typo.value.code == "user_unknown", "an administrator may know"


async def test_names_are_their_owners_and_case_does_not_make_another(world: World) -> None:
    one, two = [await person(world, name, admin=True) for name in ("one", "two")]
    made = [
        (await who.ask("POST", "/networks", {"name": name, "subnet": f"10.{n}.0.0/24"}))
        for n, (who, name) in enumerate([(one, "Home"), (one, "hOME"), (two, "home")])
    ]
    assert [m.status_code for m in made] == [201, 409, 201]
    assert made[1].json()["code"] == "network_exists"
    first, _, second = (m.json() for m in made)
    with pytest.raises(ShadowMeshError) as ambiguous:
        await world.call("network_show", "HOME")
    assert (ambiguous.value.code, ambiguous.value.kind) == ("network_ambiguous", Kind.USAGE)
    assert first["network_id"] in str(ambiguous.value) and second["network_id"] in str(ambiguous.value)
    assert (await world.call("network_show", second["network_id"])).name == "home"
    ann = await person(world, "ann")
    await world.call("member_set", first["network_id"], api.MemberPut(email=ann.email, role="guest"))
    assert (await ann.ask("GET", "/networks/HOME")).json()["network_id"] == first["network_id"], (
        "the other one isn't there for her"
    )


async def test_renaming_tells_nothing_of_names_that_others_gave(world: World) -> None:
    root = await person(world, "root", admin=True)
    for n, name in enumerate(("shared", "secret")):
        await root.ask("POST", "/networks", {"name": name, "subnet": f"10.{n}.0.0/24"})
    ann = await person(world, "ann", {"shared": "owner"})
    assert (await ann.ask("PATCH", "/networks/shared", {"name": "secret"})).status_code == 200
    assert (await root.ask("GET", "/networks/secret")).json()["code"] == "network_ambiguous"
    assert (await ann.ask("PATCH", "/networks/secret", {"name": "Secret", "p2p_enabled": False})).json()[
        "name"
    ] == "Secret"


@pytest.mark.parametrize("name", ["net_abc", "NET_abc", "cli_x", "usr_a-b", "rly_1", "inv_", "key_k", "rtk_t", "dev_1"])
async def test_a_network_cant_be_named_like_an_id(world: World, name: str) -> None:
    await world.network("own")
    for attempt in (
        world.network(name, "10.44.0.0/24"),
        world.call("network_set", "own", api.NetworkPatch(name=name)),
    ):
        with pytest.raises(ShadowMeshError) as caught:
            await attempt
        assert (caught.value.code, caught.value.kind) == ("bad_name", Kind.USAGE)
        assert "another name" in caught.value.remedy


async def test_lists_of_equal_names_page_without_loss(world: World) -> None:
    made = set()
    for n, who in enumerate([await person(world, name, admin=True) for name in ("one", "two", "three")]):
        for m, name in enumerate(("home", "Office")):
            body = {"name": name, "subnet": f"10.{n}.{m}.0/24"}
            made.add((await who.ask("POST", "/networks", body)).json()["network_id"])
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await who.ask("GET", f"/networks?limit=1{'&cursor=' + cursor if cursor else ''}")).json()
        found += [n["network_id"] for n in page["networks"]]
        cursor = page["next"]
    assert len(found) == len(made) and set(found) == made


async def test_relays_are_shown_to_who_they_serve_and_their_load_to_administrators(world: World) -> None:
    from shadowmesh.controller.store import schema

    now = world.at.context.now()
    for n, name in enumerate(("r1", "r2")):
        values = {
            "id": f"rly_{name}",
            "name": name,
            "key": bytes([n] * 32),
            "region": "",
            "version": "9.9",
            "draining": False,
        }
        await world.at.context.write(
            lambda conn, values=values: conn.execute(  # type: ignore[misc]
                schema.relays.insert().values(created_at=now, url="ws://192.0.2.1:9545", capacity_mbit=5, **values)
            )
        )
    await world.network("pinned", relay="r1")
    ann, bob = await person(world, "ann", {"pinned": "member"}), await person(world, "bob")
    shown = (await ann.ask("GET", "/relays")).json()["items"]
    assert [(r["name"], r["version"], r["capacity_mbit"], r["load"]) for r in shown] == [("r1", "", None, None)]
    assert (await bob.ask("GET", "/relays")).json()["items"] == []
    assert [r.version for r in await world.call("relay_list")] == ["9.9", "9.9"]
    async with ann.watching(network_id="pinned") as watch:
        await world.call("relay_drain", "r2")
        told = await watch.until("relay_changed")
        assert "r2" not in json.dumps(told["data"].get("name", "")), "an id, no name"


async def test_a_principal_with_no_role_sees_nothing_anywhere(world: World) -> None:
    """Whoever the code makes a principal of without thinking of roles: it has none."""
    await world.network()
    for who in (Principal("device cli_x"), Principal("someone", "usr_x", "someone@example.org")):
        with pytest.raises(ShadowMeshError) as caught:
            await world.at.networks.show(who, "office")
        assert caught.value.code == "network_unknown"
        assert (await world.at.networks.list(who, None, 10)).networks == []


async def test_two_who_create_the_same_name_at_once_get_one(world: World) -> None:
    root = await person(world, "root", admin=True)
    names = ["home", "Home", "HOME"]
    made = await asyncio.gather(*(root.ask("POST", "/networks", {"name": n, "subnet": "10.1.0.0/24"}) for n in names))
    assert sorted(m.status_code for m in made) == [201, 409, 409]
