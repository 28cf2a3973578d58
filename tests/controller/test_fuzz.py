"""Whatever comes, the controller answers 4xx or does it; never a 5xx, never a traceback."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_requests import JUNK, requests
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.settings import Timing
from shadowmesh.model.devicelink import Challenge

if TYPE_CHECKING:
    from tests.controller.conftest import World

ODDLY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


@pytest.fixture
def timing() -> Timing:
    return Timing(presence_gather=0.02, housekeeping=0.1, shutdown_grace=1.0, request_body=1.0)


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator: to who is refused at the door little can happen."""
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    headers = {"Authorization": f"Bearer {world.first.api_key}"}
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    yield
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed + caplog.text, printed


@pytest.mark.slow
async def test_requests_made_from_the_description(world: World, http: httpx.AsyncClient) -> None:
    await world.network()
    await world.network("home", "10.43.0.0/24")
    member = await world.member()
    invite = await world.invite()
    assert member.answer is not None
    known = {
        "client": [member.answer.client_id, "laptop"],
        "peer": ["laptop"],
        "invite": [invite.id],
        "network": ["office", "home"],
    }
    document = (await http.get("/api/v1/openapi.json")).json()
    loop = asyncio.get_running_loop()

    @ODDLY
    @given(requests(document, known))
    def attack(sent: dict[str, Any]) -> None:
        async def send() -> httpx.Response:
            query = urlencode(sent["query"], quote_via=quote)
            target = httpx.URL(world.url).copy_with(raw_path=f"{sent['path']}?{query}".encode())
            request = http.build_request(sent["method"], target, content=sent["content"], headers=sent["headers"])
            return await http.send(request)

        answer = asyncio.run_coroutine_threadsafe(send(), loop).result(20)
        assert answer.status_code < 500, (sent, answer.text)
        described = sent["answers"] | {"307", "400", "404", "405"}  # HTTP itself; a path that is none
        assert not sent["answers"] or str(answer.status_code) in described, (sent, answer.text)
        if answer.status_code >= 400 and sent["method"] != "HEAD" and answer.status_code != 400:
            assert answer.headers["content-type"] == "application/problem+json", (sent, answer.text)
            assert answer.json()["code"]

    await asyncio.to_thread(attack)


RAW = (
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /api/v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: \xc2\xb2\r\n\r\n",
    b"GET /healthz\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health\xffz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://elsewhere/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/1.1\nHost: x\n\n",
    b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /api/v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /api/v1/ws?\xff HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: !\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /api/v1/link HTTP/1.1\r\nHost: x\r\nOrigin: http://[\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"\x00" * 5000,
    b"\x16\x03\x01\x02\x00" + b"\xff" * 600,
    b"SSH-2.0-OpenSSH_9.2\r\n",
)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: repr(raw[:60]))
async def test_shapes_that_no_client_sends(world: World, tls: ssl.SSLContext, raw: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]), ssl=tls)
    writer.write(raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(15):
        answers = b""
        while chunk := await reader.read(65536):
            answers += chunk
    writer.close()
    statuses = [line.split(b" ")[1] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert all(status[:1] in (b"1", b"2", b"3", b"4") for status in statuses), answers
    smuggled = b"Content-Length" in raw and b"Transfer-Encoding" in raw
    assert not smuggled or len(statuses) <= 1, "what follows an ambiguous body isn't taken for a request"


@pytest.mark.parametrize("path", ["link", "relay-link", "ws"])
async def test_messages_that_no_client_sends(world: World, tls: ssl.SSLContext, path: str) -> None:
    await world.network()
    known = st.sampled_from(
        ["hello", "relayhello", "subscribe", "report", "watch", "epochheld", "refreshgrant", "leave", "pathchange", "load", "x"]
    )  # fmt: skip
    fields = st.sampled_from(
        ["device_key", "signature", "boot_id", "version", "maps", "network_id", "since", "relay_id", "key", "url", "epoch", "peers"]
    )  # fmt: skip
    message = st.builds(
        lambda kind, rest: json.dumps({"type": kind} | rest), known, st.dictionaries(fields, JUNK, max_size=4)
    )
    loop, url = asyncio.get_running_loop(), world.url.replace("https", "wss") + f"/api/v1/{path}"
    headers = {"Authorization": f"Bearer {world.first.api_key}"}

    async def send(sent: str | bytes) -> None:
        async with connect(url, ssl=tls, additional_headers=headers, proxy=None, open_timeout=10) as socket:
            try:
                await socket.send(
                    sent.encode("utf-8", "replace") if isinstance(sent, str) and "\ud800" in sent else sent
                )
                async with asyncio.timeout(0.05):
                    while True:
                        await socket.recv()
            except (TimeoutError, ConnectionClosed):
                pass

    @settings(ODDLY, max_examples=60)
    @given(message | st.text(max_size=30) | st.binary(max_size=30) | JUNK.map(json.dumps))
    def attack(sent: str | bytes) -> None:
        asyncio.run_coroutine_threadsafe(send(sent), loop).result(20)

    await asyncio.to_thread(attack)


async def test_text_that_is_no_text_ends_the_connection(world: World, tls: ssl.SSLContext) -> None:
    async with connect(world.url.replace("https", "wss") + "/api/v1/link", ssl=tls, proxy=None) as socket:
        socket.protocol.send_text(b"\xff\xfe")
        socket.send_data()
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await socket.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1007


@pytest.mark.parametrize("since", [-1, 2**63, 10**30, 1.5, "1"])
async def test_a_number_that_is_no_event_is_refused(world: World, tls: ssl.SSLContext, since: object) -> None:
    headers = {"Authorization": f"Bearer {world.first.api_key}"}
    async with connect(
        world.url.replace("https", "wss") + "/api/v1/ws", ssl=tls, additional_headers=headers, proxy=None
    ) as socket:
        await socket.send(json.dumps({"type": "subscribe", "since": since}))
        assert json.loads(await socket.recv())["code"] == "malformed"


async def test_ten_thousand_subscribes_are_taken_at_the_controllers_pace(
    world: World, http: httpx.AsyncClient, tls: ssl.SSLContext, capfd: pytest.CaptureFixture[str]
) -> None:
    headers = {"Authorization": f"Bearer {world.first.api_key}"}
    url = world.url.replace("https", "wss") + "/api/v1/ws"
    async with connect(url, ssl=tls, additional_headers=headers, proxy=None, write_limit=1 << 24) as socket:
        for _ in range(10_000):
            await socket.send('{"type": "subscribe"}')
        answered = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    assert json.loads(await socket.recv())["type"] == "subscribed"
                    answered += 1
        assert 10 <= answered <= 12
        assert (await http.get("/api/v1/networks")).status_code == 200
        socket.transport.abort()
    await http.get("/api/v1/networks")
    assert len("".join(capfd.readouterr()).splitlines()) < 10


async def test_a_page_of_another_site_gets_no_socket(world: World, tls: ssl.SSLContext) -> None:
    for origin in ("http://[", "https://elsewhere.example", "null"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(world.url.replace("https", "wss") + "/api/v1/ws", ssl=tls, origin=origin, proxy=None)  # type: ignore[arg-type]
        assert caught.value.response.status_code == 403
    async with connect(
        world.url.replace("https", "wss") + "/api/v1/link", ssl=tls, origin=world.url, proxy=None
    ) as ours:  # type: ignore[arg-type]
        assert Challenge.__struct_config__.tag in str(await ours.recv())
