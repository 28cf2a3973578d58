"""The dashboard's pages by role: each page and form is in the table, or the test fails; and what the pages show and do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from browser import Browser, browsing
from fastapi.routing import APIRoute
from people import Person, person
from test_reports import health, peer, say

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.web import topology_pages
from shadowmesh.controller.web.webapplication import router
from shadowmesh.model import api

if TYPE_CHECKING:
    from tests.controller.conftest import World

# An outsider owns another network; `reader` is an API key of the owner that only reads.
WHO = ("admin", "owner", "member", "guest", "outsider", "reader")
NOBODY = 303  # to the sign-in
N, C = "/web/networks/{network}", "/web/networks/{network}/clients/{client}"
# route → fields, and what each of them gets; `_` is what the administrator gets
TABLE: dict[str, tuple[dict[str, str] | None, str]] = {
    #                                                              admin owner memb. guest outs. reader
    "GET /web/": (None,                                            "200   _     _     _     _     _"),
    "GET /web/live": (None,                                        "200   _     _     _     _     _"),
    "GET /web/help": (None,                                        "200   _     _     _     _     _"),
    "GET /web/approvals": (None,                                   "200   _     _     _     _     _"),
    "GET /web/sessions": (None,                                    "200   _     _     _     _     _"),
    "POST /web/sessions/{session}/end": ({},                       "404   _     _     _     _     403"),
    "GET /web/second-factor": (None,                               "200   _     _     _     _     403"),
    "POST /web/second-factor/begin": ({"password": "wrong one"},   "403   _     _     _     _     403"),
    "POST /web/second-factor/confirm": ({"code": "123456"},        "409   _     _     _     _     403"),
    "GET /web/people": (None,                                      "200   403   403   403   403   403"),
    "POST /web/people/invite": ({"email": "new@example.org"},      "200   403   403   403   403   403"),
    "POST /web/people/invitations/{invitation}/revoke": ({},       "404   403   403   403   403   403"),
    "GET /web/new-network": (None,                                 "200   403   403   403   403   403"),
    "POST /web/new-network": ({"name": "fresh", "max_clients": "9"}, "303 403   403   403   403   403"),
    f"GET {N}": (None,                                             "200   _     _     _     404   _"),
    f"GET {N}/live": (None,                                        "200   _     _     _     404   _"),
    f"GET {N}/topology": (None,                                    "200   _     _     _     404   _"),
    f"GET {N}/topology.{{kind}}": (None,                           "200   _     _     _     404   _"),
    f"GET {N}/people": (None,                                      "200   _     _     _     404   _"),
    f"POST {N}/people": ({"email": "x@example.org", "role": "guest"}, "404 303  403   403   404   403"),
    f"POST {N}/people/remove": ({"email": "who@example.org"},      "404   _     403   403   404   403"),
    f"GET {N}/settings": (None,                                    "200   _     403   403   404   403"),
    f"POST {N}/settings": ({"name": "office", "max_clients": "5"}, "422   _     403   403   404   403"),
    f"POST {N}/delete": ({"name": "another"},                      "422   _     403   403   404   403"),
    f"GET {N}/join": (None,                                        "200   _     403   403   404   403"),
    f"GET {N}/join/live": (None,                                   "200   _     403   403   404   403"),
    f"GET {N}/client-config.yaml": (None,                          "200   _     403   403   404   403"),
    f"POST {N}/join": ({},                                         "200   _     403   403   404   403"),
    f"POST {N}/code": ({},                                         "200   _     403   403   404   403"),
    f"GET {C}": (None,                                             "200   _     _     _     404   _"),
    f"GET {C}/live": (None,                                        "200   _     _     _     404   _"),
    f"POST {C}/rename": ({"name": "camera"},                       "303   _     403   403   404   403"),
    f"POST {C}/approve": ({},                                      "409   _     403   403   404   403"),  # its key isn't proved
    f"POST {C}/deny": ({},                                         "303   404   403   403   404   403"),  # it is gone by then
    f"POST {C}/remove": ({},                                       "404   404   403   403   404   403"),
}  # fmt: skip
OPEN = {"GET /web/sign-in", "POST /web/sign-in", "POST /web/sign-out"}


@pytest.fixture
def dashboard() -> bool:
    return True


async def ids(world: World) -> dict[str, str]:
    return {n.name: n.network_id for n in await world.call("network_list")}


def test_every_page_is_in_the_table() -> None:
    routes = {f"{method} {r.path}" for r in router.routes if isinstance(r, APIRoute) for method in r.methods}
    assert routes == TABLE.keys() | OPEN


async def test_each_page_and_form_does_for_each_role_what_the_table_says(world: World) -> None:
    await world.network()
    await world.network("other", "10.43.0.0/24")
    roles: dict[str, Any] = {name: {"office": name} for name in ("owner", "member", "guest")} | {
        "outsider": {"other": "owner"}
    }
    people = {n: await person(world, n, roles.get(n, {}), admin=n == "admin") for n in WHO if n != "reader"}
    key = (await people["owner"].ask("POST", "/api-keys", {"read_only": True})).json()["key"]
    wish = {"client_name": "camera", "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    office = (await ids(world))["office"]
    camera = (await people["admin"].ask("POST", f"/networks/{office}/clients", wish)).json()["client_id"]
    things = {"network": office, "client": camera, "session": "ses_x", "invitation": "uin_x", "kind": "svg"}
    found = {}
    for place, name in reversed(list(enumerate(WHO))):
        async with browsing(world, people.get(name)) as browser:
            if name == "reader":
                await browser.get("/web/sign-in")
                assert (await browser.post("/web/sign-in", {"api_key": key})).status_code == 303
                await browser.get("/web/")
            for route, (fields, row) in TABLE.items():
                cells = row.split()
                cell = int(cells[0] if cells[place] == "_" else cells[place])
                answer = await ask(browser, route, things, fields)
                if (name, route) in {("owner", f"POST {C}/deny"), ("admin", f"POST {C}/deny")}:
                    assert answer.status_code in (303, 404)  # whoever comes first
                    continue
                if name == "admin" and "{client}" in route:
                    continue  # the owner turned it away
                if name == "owner" and route == f"POST {C}/remove":
                    continue
                found[name, route] = (answer.status_code, cell)
    assert {who: seen for who, seen in found.items() if seen[0] != seen[1]} == {}
    async with browsing(world) as browser:
        await browser.get("/web/sign-in")
        for route, (fields, _) in TABLE.items():
            answer = await ask(browser, route, things, fields)
            assert (answer.status_code, answer.headers.get("location", "")[:12]) == (NOBODY, "/web/sign-in"), route


async def ask(browser: Browser, route: str, things: dict[str, str], fields: dict[str, str] | None) -> Any:
    method, path = route.split()
    path = path.format(**things)
    return await (browser.get(path) if method == "GET" else browser.post(path, fields))


async def test_a_guest_sees_and_is_offered_nothing_to_change(world: World) -> None:
    await world.network()
    member = await world.member(name="server")
    guest = await person(world, "guest", {"office": "guest"})
    office = (await ids(world))["office"]
    assert member.answer is not None
    async with browsing(world, guest) as browser:
        for path in ("/web/", f"/web/networks/{office}", f"/web/networks/{office}/clients/{member.answer.client_id}"):
            page = await browser.get(path)
            assert "server" in page.text
            actions = set(re.findall(r'<form[^>]*action="([^"]*)"', page.text))
            assert actions == {"/web/sign-out"}
            assert not re.search(r'href="[^"]*(settings|/join|new-network|/web/people)"', page.text)


async def test_the_dashboard_shows_networks_and_how_machines_are_connected(world: World) -> None:
    await world.network(description="Production")
    one, two = await world.member(name="server-1"), await world.member(name="laptop-2")
    assert two.answer is not None
    await say(world, one, health(one, peer(two.answer.client_id, "direct.lan", latency_ms=2.0), latency_ms=2.0))
    async with browsing(world, await person(world, "anna", {"office": "owner"})) as browser:
        for path in ("/web/", "/web/live"):
            page = (await browser.get(path)).text
            row = next(r for r in page.split("<tr>") if "server-1" in r)
            assert "2 of 2 online" in page and "Healthy" in page and "10.42.0.0/24" in page and "Production" in page
            assert ">P2P<" in row and ">2 ms<" in row and one.answer is not None
        office = (await ids(world))["office"]
        page = (await browser.get(f"/web/networks/{office}/clients/{one.answer.client_id}")).text
        assert "Paths in use" in page and "direct.lan" in page and "laptop-2" in page
        picture = await browser.get(f"/web/networks/{office}/topology")
        assert 'class="link p2p"' in picture.text and "Download PNG" in picture.text
        png = await browser.get(f"/web/networks/{office}/topology.png")
        assert png.content.startswith(b"\x89PNG") and "attachment" in png.headers["content-disposition"]


async def test_who_asks_for_picture_after_picture_waits_and_others_get_theirs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes seconds and a hundred megabytes: they are drawn one at a time."""
    await world.network()
    place = f"/web/networks/{(await ids(world))['office']}/topology"
    drawing, may_end = threading.Semaphore(0), threading.Event()

    def slow(*_: object, **__: object) -> str:
        drawing.release()
        assert may_end.wait(20)
        return "<svg></svg>"

    monkeypatch.setattr(topology_pages, "svg", slow)
    guest, owner = [await person(world, role, {"office": role}) for role in ("guest", "owner")]
    async with browsing(world, guest) as one, browsing(world, owner) as two:
        try:
            asked = [asyncio.create_task(one.get(place)) for _ in range(topology_pages.MOST_OF_ONE + 1)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            (refused,) = [task.result() for task in done]
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0
            theirs = asyncio.create_task(two.get(place))
            assert await asyncio.to_thread(drawing.acquire, timeout=20)
            assert not drawing.acquire(blocking=False), "two are drawn at once"
        finally:
            may_end.set()
        assert (await theirs).status_code == 200
        assert sorted(a.status_code for a in await asyncio.gather(*asked)) == [200] * topology_pages.MOST_OF_ONE + [429]
        assert (await one.get(place)).status_code == 200


EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"


async def test_names_are_text_wherever_they_stand(world: World) -> None:
    await world.network(description=EVIL)
    olga = await person(world, "olga", {"office": "owner"})
    waiting = {"email": EVIL.replace(" ", "") + "@example.org", "role": "guest"}
    (await olga.ask("PUT", "/networks/office/members", waiting)).raise_for_status()
    anna = await person(world, "anna", {"office": "owner"}, admin=True)
    (await anna.ask("PATCH", f"/users/{anna.email}", {"name": EVIL[:90]})).raise_for_status()
    await world.call("group_list")
    office = (await ids(world))["office"]
    async with browsing(world, anna) as browser:
        seen = 0
        for part in ("", "/live", "/people", "/settings", "/topology", "/join"):
            page = (await browser.get(f"/web/networks/{office}{part}")).text
            seen += "&lt;script&gt;" in page
            assert "<img src=x" not in page and "<script>alert" not in page
        assert seen >= 4
        for path in ("/web/", "/web/people", f"/web/networks/{EVIL}", f"/web/sessions?done={EVIL}"):
            page = (await browser.get(path)).text
            assert "<img src=x" not in page and "<script>alert" not in page
        answer = await browser.post("/web/new-network", {"name": EVIL, "max_clients": "x", "description": EVIL})
        assert answer.status_code == 422 and "<script>alert" not in answer.text and "&lt;script&gt;" in answer.text
        for number in ("9" * 5000, "٣", "-1"):
            answer = await browser.post("/web/new-network", {"name": "fresh", "max_clients": number})
            assert answer.status_code == 422 and "a whole number" in answer.text


async def settings_of(browser: Browser, network: str) -> dict[str, str]:
    """The fields of the form as they stand."""
    page = (await browser.get(f"/web/networks/{network}/settings")).text
    fields = dict(re.findall(r'<input id="(\w+)" name="\1" type="(?:text|number)" value="([^"]*)"', page))
    fields |= dict.fromkeys(re.findall(r'<input id="(\w+)" name="\1" type="checkbox" checked', page), "on")
    return fields | {"relay": "", "reports": re.findall(r"<option selected>(\w+)", page)[-1]}


async def test_settings_are_checked_then_shown_as_a_difference_then_saved(world: World) -> None:
    await world.network()
    office = (await ids(world))["office"]
    place = f"/web/networks/{office}/settings"
    async with browsing(world, await person(world, "anna", {"office": "owner"})) as browser:
        fields = await settings_of(browser, office)
        assert (await browser.post(place, fields)).headers["location"].endswith("done=unchanged")
        for wrong in (
            {"subnet": "10.0.0.0/99"},
            {"max_clients": "many"},
            {"max_clients": "0"},
            {"name": "a b"},
            {"reports": "x"},
        ):
            answer = await browser.post(place, fields | wrong)
            assert answer.status_code == 422 and 'role="alert"' in answer.text
        changed = fields | {"name": "bureau", "max_clients": "50", "description": "Ours"}
        del changed["p2p_enabled"]
        shown = await browser.post(place, changed)
        assert re.findall(r"<del>(.*?)</del>", shown.text) == ["office", "(nothing)", "100", "yes"]
        assert re.findall(r"<ins>(.*?)</ins>", shown.text) == ["bureau", "Ours", "50", "no"]
        assert (await world.call("network_show", "office")).max_clients == 100  # nothing yet
        was = re.findall(r'name="was" value="(\w+)"', shown.text)[0]
        await world.call("network_set", "office", api.NetworkPatch(max_clients=70))
        meanwhile = await browser.post(place, changed | {"was": was})
        assert "Somebody changed" in meanwhile.text and "<del>70</del>" in meanwhile.text
        was = re.findall(r'name="was" value="(\w+)"', meanwhile.text)[0]
        assert (await browser.post(place, changed | {"was": was})).headers["location"].endswith("done=saved")
    found = await world.call("network_show", office)
    assert (found.name, found.max_clients, found.p2p_enabled, found.description) == ("bureau", 50, False, "Ours")


async def test_of_two_who_save_at_once_one_is_shown_what_the_other_did(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    office = (await ids(world))["office"]
    place = f"/web/networks/{office}/settings"
    both, show = asyncio.Barrier(2), world.at.networks.show

    async def at_once(who: Principal, network: str) -> api.Network:
        found = await show(who, network)
        if not both.broken:
            with contextlib.suppress(asyncio.BrokenBarrierError):
                await both.wait()
        return found

    anna, bob = [await person(world, name, {"office": "owner"}) for name in ("anna", "bob")]
    async with browsing(world, anna) as one, browsing(world, bob) as two:
        changes = [await settings_of(browser, office) | {"max_clients": n} for browser, n in ((one, "50"), (two, "60"))]
        for wish, browser in zip(changes, (one, two), strict=True):
            wish["was"] = re.findall(r'name="was" value="(\w+)"', (await browser.post(place, wish)).text)[0]
        monkeypatch.setattr(world.at.networks, "show", at_once)
        sending = [asyncio.create_task(b.post(place, w)) for b, w in zip((one, two), changes, strict=True)]
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        await both.abort()  # who looks again waits for nobody
        answers = await asyncio.gather(*sending)
    assert sorted(a.status_code for a in answers) == [200, 303]
    shown = min(answers, key=lambda a: a.status_code)
    kept = str((await world.call("network_show", office)).max_clients)
    assert "Somebody changed" in shown.text and f"<del>{kept}</del>" in shown.text


async def test_a_network_is_made_joined_by_its_code_and_deleted_by_its_name(world: World) -> None:
    async with browsing(world, await person(world, "root", admin=True)) as browser:
        made = await browser.post("/web/new-network", {"name": "office", "max_clients": "10", "approval": "on"})
        place = made.headers["location"].partition("?")[0].removesuffix("/join")
        before = (await browser.get(f"{place}/join")).text
        assert "--invite CODE" in before and world.fingerprint in before
        shown = (await browser.post(f"{place}/join")).text
        code = re.findall(r'id="code">([^<]+)<', shown)[0]
        assert "<svg" in shown and code not in before
        assert any(e.action == "network.show-code" for e in await world.call("audit_list"))
        again = re.findall(r'id="code">([^<]+)<', (await browser.post(f"{place}/code")).text)[0]
        assert again != code
        assert "No machine has come" in (await browser.get(f"{place}/join/live")).text
        device = world.device()
        answer = await device.join(again, name="newcomer")
        assert "newcomer" in (await browser.get(f"{place}/join/live")).text
        queue = (await browser.get("/web/approvals")).text
        assert "newcomer" in queue and f"clients/{answer.client_id}/approve" in queue
        done = await browser.post(f"{place}/clients/{answer.client_id}/approve", {"queue": "1"})
        assert done.headers["location"] == "/web/approvals?done=approved"
        renamed = await browser.post(f"{place}/clients/{answer.client_id}/rename", {"name": "Server-9"})
        assert renamed.status_code == 303
        assert (await browser.post(f"{place}/clients/{answer.client_id}/rename", {"name": "a b"})).status_code == 422
        assert [c.name for c in await world.call("client_list", "office")] == ["server-9"]
        config = await browser.get(f"{place}/client-config.yaml")
        assert again not in config.text and world.fingerprint in config.text
        assert (await browser.post(f"{place}/clients/{answer.client_id}/remove")).status_code == 303
        assert (await browser.post(f"{place}/delete", {"name": "Office"})).status_code == 422
        assert (await browser.post(f"{place}/delete", {"name": "office"})).headers["location"] == "/web/?done=deleted"
        assert (await browser.get(place)).status_code == 404


async def test_somebody_is_invited_and_given_a_role(world: World) -> None:
    await world.network()
    office = (await ids(world))["office"]
    root: Person = await person(world, "root", admin=True)
    async with browsing(world, root) as browser:
        fields = {"email": "new@example.org", "role": "user", "network": office, "network_role": "owner"}
        made = await browser.post("/web/people/invite", fields)
        token = re.findall(r"smu_[\w-]+", made.text)
        assert len(token) == 1 and token[0] not in (await browser.get("/web/people")).text
        assert (await browser.post("/web/people/invite", {"email": "nobody"})).status_code == 422
        (one,) = await world.call("user_invitations")
        assert (one.email, one.network_role) == ("new@example.org", "owner")
        assert (await browser.post(f"/web/people/invitations/{one.id}/revoke")).status_code == 303
        place = f"/web/networks/{office}/people"
        await person(world, "bob")
        assert (await browser.post(place, {"email": "bob@example.org", "role": "member"})).status_code == 303
        assert (await browser.post(place, {"email": "bob@example.org", "role": "king"})).status_code == 422
        assert "bob@example.org" in (await browser.get(place)).text
        assert (await browser.post(f"{place}/remove", {"email": "bob@example.org"})).status_code == 303
        assert "bob@example.org" not in (await browser.get(place)).text
