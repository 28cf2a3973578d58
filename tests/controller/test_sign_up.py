"""Sign-up of strangers: by a mail to an address that is theirs, with the same answer for all, and a plan for what they make."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from freeport import free_port
from people import person, web

from shadowmesh.controller import pki
from shadowmesh.controller.outward.mail import Mailer, SmtpServer, parse_smtp
from shadowmesh.controller.service import signing_up
from shadowmesh.controller.settings import Settings
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import is_mailbox
from shadowmesh.model.usage import PlanPut

if TYPE_CHECKING:
    from conftest import World

SENDER = "ShadowMesh <noreply@example.org>"


class Post:
    """What a mail server got; `refusals` are its answers to the next mails."""

    def __init__(self) -> None:
        self.mails: asyncio.Queue[EmailMessage] = asyncio.Queue()
        self.refusals: list[str] = []
        self.secure: list[bool] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:
        if self.refusals:
            return self.refusals.pop(0)
        assert isinstance(envelope.content, bytes)
        self.secure.append(session.ssl is not None)
        await self.mails.put(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return "250 taken"

    async def next(self) -> EmailMessage:
        async with asyncio.timeout(8):
            return await self.mails.get()

    @contextlib.asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[int]:
        port = free_port()
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(self, loop=asyncio.get_running_loop(), **options), "127.0.0.1", port
        )
        try:
            yield port
        finally:
            server.close()


@pytest.fixture
async def post() -> Post:
    return Post()


@pytest.fixture
def told() -> dict[str, Any]:
    """Settings of the controller beside those that every one has."""
    return {}


@pytest.fixture
async def cloud(data_dir: Path, serve: Callable[..., Any], post: Post, told: dict[str, Any]) -> AsyncIterator[World]:
    """A controller that takes everybody, and its mail server."""
    async with post.serving() as smtp:
        mailer = Mailer(SmtpServer("127.0.0.1", smtp, tls=False), SENDER)
        more = {"mode": "cloud", "sign_up_sender": SENDER, **told}
        async with serve(data_dir, free_port(), mailer=mailer, **more) as world:
            yield world


async def asked(world: World, email: str = "ann@example.org") -> httpx.Response:
    async with web(world) as client:
        return await client.post("/api/v1/auth/signup", json={"email": email})


def token_in(mail: EmailMessage) -> str:
    (found,) = re.findall(r"--accept-invitation (smu_\S+)", mail.get_content())
    return str(found)


async def become(world: World, token: str) -> httpx.Response:
    async with web(world) as client:
        wish = {"token": token, "password": "a password of hers"}
        return await client.post("/api/v1/auth/accept-invitation", json=wish)


async def test_who_gets_the_mail_becomes_a_user_without_any_rights_over_others(cloud: World, post: Post) -> None:
    await cloud.network("theirs")
    answer = await asked(cloud, "Ann@Example.org")
    assert answer.status_code == 202 and answer.json()["email"] == "ann@example.org"
    mail = await post.next()
    assert (mail["To"], mail["From"], mail["Auto-Submitted"]) == ("ann@example.org", SENDER, "auto-generated")
    assert cloud.url in mail.get_content() and cloud.fingerprint in mail.get_content()
    assert token_in(mail) not in answer.text
    session = await become(cloud, token_in(mail))
    assert session.status_code == 200, session.text
    async with web(cloud) as client:
        client.headers["Authorization"] = f"Bearer {session.json()['access_token']}"
        who = (await client.get("/api/v1/whoami")).json()
        assert not who["admin"] and (await client.get("/api/v1/networks")).json()["networks"] == []
        made = await client.post("/api/v1/networks", json={"name": "mine"})
        assert made.status_code == 201, made.text
    assert [e.action for e in await cloud.call("audit_list") if e.target == "ann@example.org"] == [
        "user.sign-up", "user.add", "auth.login",
    ]  # fmt: skip


async def test_the_answer_doesnt_say_whether_there_is_such_a_user(cloud: World, post: Post) -> None:
    known = await person(cloud, "ann")
    new, old = await asked(cloud, "bob@example.org"), await asked(cloud, known.email)
    assert new.status_code == old.status_code == 202
    assert set(new.json()) == set(old.json()) and new.headers.keys() == old.headers.keys()
    mails = {mail["To"]: mail.get_content() for mail in (await post.next(), await post.next())}
    assert "smu_" in mails["bob@example.org"] and "smu_" not in mails[known.email]
    assert "There is one with this address already" in mails[known.email]


async def test_only_the_newest_mail_is_good(cloud: World, post: Post) -> None:
    await asked(cloud)
    first = token_in(await post.next())
    await asked(cloud)
    second = token_in(await post.next())
    assert (await become(cloud, first)).json()["code"] == "invitation_invalid"
    assert (await become(cloud, second)).status_code == 200


async def test_who_asks_without_end_is_refused_and_nobody_elses_mailbox_filled(cloud: World) -> None:
    answers = [await asked(cloud, "ann@example.org") for _ in range(4)]
    assert [a.status_code for a in answers] == [202, 202, 202, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0


async def test_tags_of_an_address_fill_no_mailbox_either(cloud: World) -> None:
    answers = [await asked(cloud, f"ann+{n}@example.org") for n in range(4)]
    assert [a.status_code for a in answers] == [202, 202, 202, 429]


async def test_not_even_the_time_of_the_answer_tells_whether_there_is_such_a_user(
    cloud: World, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is answered before anybody looks."""
    may_write, write = asyncio.Event(), cloud.at.context.write

    async def held(tx: Any) -> Any:
        await may_write.wait()
        return await write(tx)

    monkeypatch.setattr(cloud.at.signing_up, "_context", _Held(cloud.at.context, held))
    assert (await asked(cloud)).status_code == 202
    assert post.mails.empty()
    may_write.set()
    assert token_in(await post.next())


class _Held:
    """A context whose writes wait."""

    def __init__(self, context: Any, write: Callable[[Any], Any]) -> None:
        self._context = context
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


TWO_IN_ONE = [
    "=?utf-8?q?eve=40example.com=2C?=ann@example.org",
    "=?utf-8?q?eve=40example.com=3E?=ann@example.org",
    "eve,ann@example.org",
    "<eve>ann@example.org",
    "eve;@example.org",
    "eve%example.com@example.org",
    "example.com!eve@example.org",
    '"eve@example.org',
    "(@example.org",
    "ann@[127.0.0.1]",
    "ann..eve@example.org",
    "|eve@example.org",
]


@pytest.mark.parametrize("told", [{"sign_up_domains": ("example.org",)}])
async def test_an_address_is_one_mailbox_whatever_reads_it(cloud: World, post: Post) -> None:
    """Mail libraries and servers find other recipients in some, at domains that weren't named."""
    for address in TWO_IN_ONE[:4]:
        refused = await asked(cloud, address)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), address
    assert await cloud.call("user_invitations") == []
    assert post.mails.empty()


@pytest.mark.parametrize("address", TWO_IN_ONE)
async def test_a_mail_goes_to_whom_it_is_for_and_nobody_else(post: Post, address: str) -> None:
    assert not is_mailbox(address)
    async with post.serving() as port:
        with pytest.raises(ShadowMeshError, match="one mailbox"):
            await Mailer(SmtpServer("127.0.0.1", port, False), SENDER).send(address, "x", "y")
    assert post.mails.empty()


@pytest.mark.parametrize(
    "address", ["ann@example.org", "a.b-c+d_e='f#@xn--exmple-cua.example", "änn@exämple.org", "a@b"]
)
def test_plain_addresses_are_taken(address: str) -> None:
    assert is_mailbox(address)


async def test_a_mail_that_isnt_taken_is_tried_again(cloud: World, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_up, "_TRIES", (0.0, 0.01, 0.01))
    post.refusals += ["451 later", "451 later"]
    assert (await asked(cloud)).status_code == 202
    assert token_in(await post.next())


@pytest.mark.parametrize("told", [{"sign_up_domains": ("example.org",)}])
async def test_only_addresses_of_the_named_domains_sign_up(cloud: World) -> None:
    assert (await asked(cloud, "ann@example.org")).status_code == 202
    refused = await asked(cloud, "ann@example.com")
    assert (refused.status_code, refused.json()["code"]) == (403, "address_not_taken")


@pytest.mark.parametrize("told", [{"sign_up_plan": "free"}])
async def test_what_they_make_has_the_plan_and_what_administrators_make_none(cloud: World, post: Post) -> None:
    await asked(cloud)
    token = (await become(cloud, token_in(await post.next()))).json()["access_token"]
    async with web(cloud) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        early = await client.post("/api/v1/networks", json={"name": "early"})
        assert (early.status_code, early.json()["code"]) == (409, "plan_missing")
        await cloud.call("plan_set", "free", PlanPut(max_clients=2, monthly_bytes=10**9))
        assert (await client.post("/api/v1/networks", json={"name": "hers"})).status_code == 201
    await cloud.network("ours")
    assert [(await cloud.call("quota", name)).plan for name in ("hers", "ours")] == ["free", None]


async def test_a_controller_of_few_takes_no_sign_ups(world: World) -> None:
    refused = await asked(world)
    assert (refused.status_code, refused.json()["code"]) == (403, "no_sign_up")
    assert await world.call("user_invitations") == []


# the mail server


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtps://u:p%40ss@mail.example.org", SmtpServer("mail.example.org", 465, True, "u", "p@ss")),
        ("smtp://mail.example.org:25", SmtpServer("mail.example.org", 25, False)),
        ("smtp://[::1]", SmtpServer("::1", 587, False)),
    ],
)
def test_a_server_is_named_by_a_url(url: str, server: SmtpServer) -> None:
    assert parse_smtp(url) == server
    assert "p@ss" not in repr(parse_smtp(url))


@pytest.mark.parametrize(
    "url", ["mail.example.org", "https://mail", "smtp://", "smtps://u@h", "smtp://h/x", "smtp://h:99999"]
)
def test_what_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_smtp(url)


@pytest.fixture
def certificate(data_dir: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for localhost, and that of who trusts it."""
    settings = Settings(public_urls=("https://localhost:1",), listen="127.0.0.1:1")
    pki.make_server_certificate(data_dir, settings, utc_now())
    trusting = ssl.create_default_context(cafile=str(data_dir / "ca.pem"))
    return pki.server_context(data_dir, settings), trusting


async def test_passwords_go_by_tls_alone(post: Post, certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    theirs, ours = certificate
    seen: list[bytes] = []

    def check(server: SMTP, session: Any, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        seen.append(data.password)
        return AuthResult(success=data.password == b"right", handled=False)

    options = {"tls_context": theirs, "authenticator": check, "auth_require_tls": True}
    async with post.serving(**options) as port:
        server = SmtpServer("localhost", port, False, "ann", "right")
        await Mailer(server, SENDER, ours).send("bob@example.org", "Hello", "a text")
        assert post.secure == [True] and (await post.next())["Subject"] == "Hello"
        wrong = SmtpServer("localhost", port, False, "ann", "wrong")
        with pytest.raises(ShadowMeshError, match="didn't take a mail") as refused:
            await Mailer(wrong, SENDER, ours).send("bob@example.org", "Hello", "a text")
        assert "wrong" not in str(refused.value)
        with pytest.raises(ShadowMeshError, match="certificate"):
            async with asyncio.timeout(10):  # nobody waits for a farewell there
                await Mailer(server, SENDER).send("bob@example.org", "Hello", "a text")
    assert seen[0] == b"right" and set(seen[1:]) == {b"wrong"}  # once by each way of signing in that the server offers


async def test_a_server_elsewhere_without_tls_gets_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmtpServer, "is_here", False)
    async with post.serving() as port:
        with pytest.raises(ShadowMeshError, match="it offers no TLS"):
            await Mailer(SmtpServer("127.0.0.1", port, False), SENDER).send("bob@example.org", "x", "y")
    assert post.mails.empty()


async def test_a_mail_server_that_says_nothing_holds_up_nothing_else(data_dir: Path, serve: Callable[..., Any]) -> None:
    """What else the controller does in threads, as its readiness, goes on."""
    loop, reached, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", free_port())
    mailer = Mailer(SmtpServer(*server.sockets[0].getsockname(), tls=False), SENDER)
    async with (
        serve(data_dir, free_port(), mailer=mailer, mode="cloud", sign_up_sender=SENDER) as world,
        asyncio.timeout(20),
    ):
        try:
            assert (await asked(world)).status_code == 202
            await reached.wait()
            async with web(world) as client:
                assert (await client.get("/readyz")).status_code == 200
        finally:
            ended.set()
            server.close()


async def test_a_name_is_one_line_whatever_it_holds(post: Post) -> None:
    async with post.serving() as port:
        mailer = Mailer(SmtpServer("127.0.0.1", port, False), SENDER)
        with pytest.raises((ValueError, ShadowMeshError)):
            await mailer.send("bob@example.org\r\nBcc: eve@example.org", "x", "y")
    assert post.mails.empty()
