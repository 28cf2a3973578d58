"""The web dashboard's door: who gets in, how long, and what a page of another site can do (nothing)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from browser import browsing
from people import person, web
from structlog.testing import capture_logs
from test_second_factor import code_of, enrolled

from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.controller.web import pageneeds, webapplication
from shadowmesh.controller.web.forms import MAX_FORM
from shadowmesh.controller.web.pagerouting import router
from shadowmesh.controller.web.visits import DEVICE, SESSION, VISITOR
from shadowmesh.model import accounts

if TYPE_CHECKING:
    from tests.controller.conftest import World


@pytest.fixture
def dashboard() -> bool:
    return True


class TestOff:
    @pytest.fixture
    def dashboard(self) -> bool:
        return False

    async def test_a_controller_serves_no_page_unless_it_is_told_to(self, world: World) -> None:
        async with web(world) as client:
            assert [(await client.get(p)).status_code for p in ("/", "/web/", "/web/sign-in")] == [404] * 3


async def test_who_isnt_signed_in_is_led_to_the_sign_in_and_back(world: World) -> None:
    who = await person(world, "anna", admin=True)
    async with browsing(world) as browser:
        assert (await browser.get("/")).headers["location"] == "/web/"
        assert (await browser.get("/web/")).headers["location"] == "/web/sign-in"
        led = await browser.get("/web/networks/net_x")
        assert led.headers["location"] == "/web/sign-in?next=/web/networks/net_x"
        await browser.get(led.headers["location"])
        answer = await browser.post(led.headers["location"], {"email": who.email, "password": who.password})
        assert answer.status_code == 303 and answer.headers["location"] == "/web/networks/net_x"
        page = await browser.get("/web/")
        assert page.status_code == 200 and who.email in page.text
        assert (await browser.get("/web/live", **{"X-Live": "1"})).status_code == 200
    async with browsing(world) as browser:
        assert (await browser.get("/web/live", **{"X-Live": "1"})).status_code == 401


@pytest.mark.parametrize(
    "following", ["https://evil.example/", "//evil.example/", "/web/%5cevil", "/web/x?y=z", "/api/v1/x"]
)
async def test_a_sign_in_leads_to_no_other_site(world: World, following: str) -> None:
    async with browsing(world) as browser:
        assert (await browser.get(f"/web/sign-in?next={following}")).status_code == 404


@pytest.mark.parametrize("path", ["net_%C3%A4", "net_x%0d%0aSet-Cookie:a=b", "net_x%3Fnext=x", "net_" + "x" * 300])
async def test_a_page_that_a_sign_in_cant_lead_to_is_left_out(world: World, path: str) -> None:
    async with browsing(world) as browser:
        led = await browser.get(f"/web/networks/{path}")
        assert (led.status_code, led.headers["location"]) == (303, "/web/sign-in")
        assert "a" not in browser.client.cookies


async def test_a_sign_in_form_is_good_where_somebody_is_signed_in_and_ends_that_session(world: World) -> None:
    """A link from elsewhere leads there without the session's cookie; in another tab somebody signs in meanwhile."""
    anna, bob = await person(world, "anna"), await person(world, "bob")
    async with browsing(world, anna) as browser:
        shown = browser.client.cookies[SESSION]
        await browser.get("/web/sign-in")
        fields = {"email": bob.email, "password": bob.password}
        assert (await browser.post("/web/sign-in", fields)).status_code == 303
        assert bob.email in (await browser.get("/web/")).text
        browser.client.cookies.clear()
        browser.client.cookies.set(SESSION, shown)
        assert (await browser.get("/web/")).status_code == 303


async def test_a_browser_that_chooses_its_cookie_gets_no_sessions_form_token(world: World) -> None:
    anna = await person(world, "anna")
    async with browsing(world, anna) as one, browsing(world) as two:
        (session,) = [s["id"] for s in (await anna.ask("GET", "/sessions")).json()["items"] if "httpx" in s["client"]]
        two.client.cookies.set(VISITOR, session)
        await two.get("/web/sign-in")
        assert (await one.post("/web/sign-out", {"token": two.token})).status_code == 403
        assert (await one.get("/web/")).status_code == 200


async def test_wrong_passwords_are_refused_and_counted_as_by_rest(world: World) -> None:
    who = await person(world, "anna")
    async with browsing(world) as browser:
        who.password = "no such password"
        statuses = [(await browser.sign_in(who)).status_code for _ in range(11)]
        assert statuses == [401] * 10 + [429]
        again = await browser.sign_in(who)
        assert int(again.headers["Retry-After"]) > 0 and "no such password" not in again.text
    answer = None
    async with web(world) as client:
        answer = await client.post("/api/v1/auth/login", json={"email": who.email, "password": "x"})
    assert answer.status_code == 429  # one count for both


async def test_a_password_for_one_use_is_changed_while_signing_in(world: World) -> None:
    made = await world.call("user_create", accounts.UserCreate(email="new@example.org"))
    async with browsing(world) as browser:
        await browser.get("/web/sign-in")
        asked = await browser.post("/web/sign-in", {"email": made.email, "password": made.password})
        assert asked.status_code == 403 and 'name="new_password"' in asked.text
        weak = await browser.post(
            "/web/sign-in", {"email": made.email, "password": made.password, "new_password": "short"}
        )
        assert weak.status_code == 422 and 'name="new_password"' in weak.text
        fields = {"email": made.email, "password": made.password, "new_password": "a long one of mine"}
        assert (await browser.post("/web/sign-in", fields)).status_code == 303


async def test_a_second_factor_is_asked_for(world: World) -> None:
    who = await person(world, "anna")
    secret, _ = await enrolled(world, who)
    async with browsing(world) as browser:
        asked = await browser.sign_in(who)
        assert asked.status_code == 403 and "asks for a code" in asked.text and "--code" not in asked.text
        assert (await browser.sign_in(who, code=code_of(world, secret, 30))).status_code == 303


async def test_cookies_are_the_hosts_own_and_no_scripts(world: World) -> None:
    who = await person(world, "anna")
    async with browsing(world) as browser:
        cookies = (await browser.sign_in(who)).headers.get_list("set-cookie")
        assert {c.partition("=")[0] for c in cookies} == {SESSION, DEVICE}
        for cookie in cookies:
            assert {"Path=/", "Secure", "HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))


async def test_an_api_key_signs_in_until_it_is_revoked(world: World) -> None:
    who = await person(world, "anna", admin=True)
    key = (await who.ask("POST", "/api-keys", {"read_only": True})).json()
    async with browsing(world) as browser:
        await browser.get("/web/sign-in")
        assert (await browser.post("/web/sign-in", {"api_key": "sk_nothing"})).status_code == 401
        assert (await browser.post("/web/sign-in", {"api_key": who.token})).status_code == 401
        assert (await browser.post("/web/sign-in", {"api_key": key["key"]})).status_code == 303
        page = await browser.get("/web/")
        assert page.status_code == 200 and "Create a network" not in page.text
        await who.ask("DELETE", f"/api-keys/{key['id']}")
        assert (await browser.get("/web/")).status_code == 303


async def test_a_page_lasts_as_the_session_does(world: World) -> None:
    admin, who = await person(world, "root", admin=True), await person(world, "anna")
    async with browsing(world, who) as browser:
        world.clock.advance(minutes=11)  # the access token has run out, the session hasn't
        answer = await browser.get("/web/")
        assert answer.status_code == 200 and SESSION in answer.headers["set-cookie"]
        assert (await browser.get("/web/")).status_code == 200
        listed = (await who.ask("GET", "/sessions", token=(await _again(world, who)).access_token)).json()["items"]
        ours = next(s for s in listed if "python-httpx" in s["client"])
        await world.call("session_end", ours["id"])
        assert (await browser.get("/web/")).headers["location"] == "/web/sign-in"
    async with browsing(world, who) as browser:
        token = (await _again(world, admin)).access_token
        assert (await admin.ask("PATCH", f"/users/{who.email}", {"disabled": True}, token=token)).status_code == 200
        assert (await browser.get("/web/")).status_code == 303


async def _again(world: World, who: Any) -> accounts.Session:
    return await world.at.signing_in.login(accounts.Login(email=who.email, password=who.password), "192.0.2.9")


async def test_signing_out_ends_the_session_and_not_the_page_alone(world: World) -> None:
    who = await person(world, "anna")
    async with browsing(world, who) as browser:
        shown = browser.client.cookies[SESSION]
        assert (await browser.post("/web/sign-out")).headers["location"] == "/web/sign-in"
        assert SESSION not in browser.client.cookies
        browser.client.cookies.set(SESSION, shown)
        assert (await browser.get("/web/")).status_code == 303


async def test_a_role_that_needs_a_second_factor_sees_no_page_before(world: World) -> None:
    await world.network()
    who = await person(world, "anna", {"office": "owner"})
    await world.call("settings_set", accounts.ControllerSettingsPatch(mfa_required=["owner"]))
    async with browsing(world, who) as browser:
        for path in ("/web/", "/web/live", "/web/networks/net_x"):
            answer = await browser.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/web/second-factor")
        assert (
            await browser.get("/web/live", **{"X-Live": "1"})
        ).status_code == 401  # its page is loaded anew, and led there


class TestFromElsewhere:
    """What a page of another site, or an old page, can have a browser send."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "http://127.0.0.1"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
        ids=lambda h: " ".join(h.values()),
    )
    async def test_another_origin_is_refused(self, world: World, headers: dict[str, str]) -> None:
        who = await person(world, "anna")
        async with browsing(world, who) as browser:
            answer = await browser.post("/web/sign-out", None, **headers)
            assert answer.status_code == 403 and "another site" in answer.text
            assert (await browser.get("/web/")).status_code == 200

    async def test_our_own_page_tells_by_fetch_metadata_where_it_tells_no_origin(self, world: World) -> None:
        async with browsing(world, await person(world, "anna")) as browser:
            headers = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
            assert (await browser.post("/web/sign-out", None, **headers)).status_code == 303

    async def test_a_form_needs_the_token_of_this_session(self, world: World) -> None:
        anna, bob = await person(world, "anna"), await person(world, "bob")
        async with browsing(world, anna) as one, browsing(world, bob) as two:
            for token in ("", "x", two.token):
                answer = await one.post("/web/sign-out", {"token": token})
                assert answer.status_code == 403 and "too old" in answer.text
            assert (await one.get("/web/")).status_code == 200
            assert (await one.post("/web/sign-out")).status_code == 303

    async def test_signing_in_needs_the_token_of_this_browser(self, world: World) -> None:
        who = await person(world, "anna")
        async with browsing(world) as one, browsing(world) as two:
            await one.get("/web/sign-in")
            await two.get("/web/sign-in")
            fields = {"token": two.token, "email": who.email, "password": who.password}
            assert (await one.post("/web/sign-in", fields)).status_code == 403

    async def test_bodies_are_bounded_and_forms(self, world: World) -> None:
        async with browsing(world) as browser:
            await browser.get("/web/sign-in")
            assert (await browser.post("/web/sign-in", {"email": "x" * MAX_FORM})).status_code == 413
            headers = {"Origin": world.url, "Content-Type": "application/json"}
            assert (await browser.client.post("/web/sign-in", content=b"{}", headers=headers)).status_code == 422
            many = "&".join(f"f{n}=1" for n in range(100))
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            assert (await browser.client.post("/web/sign-in", content=many, headers=headers)).status_code == 422


@pytest.mark.parametrize("path", ["/web/", "/web/sign-in", "/web/nothing", "/web/static/live.js", "/web/live", "/"])
async def test_every_answer_has_the_headers(world: World, path: str) -> None:
    async with browsing(world, await person(world, "anna", admin=True)) as browser:
        answer = await browser.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert (
            policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
        assert all(found == nonce for found in re.findall(r'nonce="([^"]*)"', answer.text))
        assert not re.search(r"\son\w+=|style=|javascript:", answer.text.partition("<html")[2])
        again = (await browser.get(path)).headers["content-security-policy"]
        assert nonce not in again


async def test_an_answer_to_what_went_wrong_has_the_headers_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("broken")

    async with browsing(world, await person(world, "anna")) as browser:
        monkeypatch.setattr(world.at.networks, "list", broken)
        answer = await browser.get("/web/")
    assert answer.status_code == 500 and "RuntimeError" not in answer.text
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")


async def test_what_fails_at_the_controller_is_in_its_log_though_a_page_says_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StorageFailed(RuntimeError("the disk is full"))

    async with browsing(world, await person(world, "root", admin=True)) as browser:
        monkeypatch.setattr(world.at.networks, "create", failing)
        with capture_logs() as logs:
            for _ in range(3):
                answer = await browser.post("/web/new-network", {"name": "office", "max_clients": "9"})
    assert answer.status_code == 503 and "disk" not in answer.text
    assert ["the disk is full" in str(e) for e in logs if e["event"] == "request failed"] == [True], "once a minute"


def test_no_page_is_made_without_a_need_or_with_a_form_that_isnt_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def bare() -> None: ...

    async def unposted(who: pageneeds.MayView) -> None: ...

    webapplication.make_pages(None)  # type: ignore[arg-type]
    for method, endpoint in (("GET", bare), ("POST", unposted)):
        with monkeypatch.context() as patch:
            patch.setattr(router, "routes", list(router.routes))
            router.add_api_route("/oversight", endpoint, methods=[method])
            with pytest.raises(RuntimeError, match="/web/oversight"):
                webapplication.make_pages(None)  # type: ignore[arg-type]
