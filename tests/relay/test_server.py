"""A real relay on loopback: UDP, WebSocket and between them; strangers; STUN; health."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from freeport import free_port
from live_client import LiveClient, UdpClient, WebSocketClient
from relay_world import NET_A, NET_B, World
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.relaylink import Revocation
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.stun import BindingResponse, binding_request, parse_response
from shadowmesh.relay import streamside
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.server import RelayServer, boottime_clock
from shadowmesh.serving.buckets import StunLimit

METRICS_TOKEN = Secret(b"of-who-may-look")


class Site:
    """A running relay, and clients that are closed with it."""

    def __init__(self, relay: RelayServer, world: World) -> None:
        self.relay, self.world = relay, world
        self.clients: list[LiveClient] = []

    def _known(self, kind: type, ip: str, network: NetworkID) -> LiveClient:
        device = Signer.generate()
        client: LiveClient = kind(self.relay, ip, self.world.token(device, network, ip), device, network)
        self.clients.append(client)
        return client

    async def udp(self, ip: str, network: NetworkID = NET_A, host: str = "127.0.0.1") -> UdpClient:
        client = self._known(UdpClient, ip, network)
        assert isinstance(client, UdpClient)
        await client.open(host)
        assert isinstance(await client.login(), wire.Welcome)
        return client

    async def websocket(self, ip: str, network: NetworkID = NET_A, **options: object) -> WebSocketClient:
        client = self._known(WebSocketClient, ip, network)
        assert isinstance(client, WebSocketClient)
        await client.open(**options)
        assert isinstance(await client.login(), wire.Welcome)
        return client


@pytest.fixture
async def start(pump: PumpName) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    running: list[Site] = []

    async def begin(listen: str = "127.0.0.1", *, udp: bool = True, tls: ServerTls | None = None) -> Site:
        world = World(pump=pump)
        world.now = boottime_clock()
        relay = RelayServer(world.core, SockAddr(listen, 0), udp=udp, tls=tls, metrics_token=METRICS_TOKEN)
        await relay.__aenter__()
        site = Site(relay, world)
        running.append(site)
        return site

    yield begin
    for site in running:
        for client in site.clients:
            await client.close()
        await site.relay.__aexit__(None, None, None)


@pytest.fixture
async def site(start: Callable[..., Awaitable[Site]]) -> Site:
    return await start()


def numbered(n: int, size: int = 1332) -> bytes:
    return b"\x04\0\0\0" + n.to_bytes(4, "big") + bytes(size - 8)


PAIRS = [("udp", "udp"), ("udp", "websocket"), ("websocket", "udp"), ("websocket", "websocket")]


@pytest.mark.parametrize(("one", "two"), PAIRS)
async def test_a_burst_between_any_two_transports_arrives_whole_and_in_order(site: Site, one: str, two: str) -> None:
    """500 frames each way in bursts of 50, each burst awaited: nothing lost, doubled, changed or out of order."""
    a = await getattr(site, one)("10.0.0.1")
    b = await getattr(site, two)("10.0.0.2")
    for start in range(0, 500, 50):
        burst = [numbered(n, 1332 if n % 7 else 100 + n) for n in range(start, start + 50)]
        await a.send(*[a.to(b, m) for m in burst])
        assert await b.hear(50) == burst
        await b.send(*[b.to(a, m) for m in burst])
        assert await a.hear(50) == burst
    counters = site.relay.core.counters
    assert counters.forwarded_frames == 1000
    assert counters.dropped_frames == 0
    assert a.frames.empty()
    assert b.frames.empty()


async def test_gathered_datagrams_of_two_flows_and_sizes_go_where_they_belong(site: Site) -> None:
    """One GSO send of frames with alternating destinations, then runs of other sizes: every frame is looked at."""
    a = await site.udp("10.0.0.1")
    b, c = await site.udp("10.0.0.2"), await site.udp("10.0.0.3")
    frames = [a.to((b, c)[n % 3 == 0], numbered(n, 500)) for n in range(30)]
    segment = (socket.IPPROTO_UDP, 103, (544).to_bytes(2, "little"))
    a.socket.sendmsg([b"".join(frames) + a.to(b, numbered(99, 300))], [segment])
    assert await b.hear(21) == [numbered(n, 500) for n in range(30) if n % 3] + [numbered(99, 300)]
    assert await c.hear(10) == [numbered(n, 500) for n in range(0, 30, 3)]
    assert site.relay.core.counters.dropped_frames == 0


async def test_interleaved_senders_and_sizes_keep_each_senders_order(site: Site) -> None:
    """All are in the socket's buffer before the relay reads, so they are gathered in every way there is."""
    a, b, c = [await site.udp(f"10.0.0.{n}") for n in (1, 2, 3)]
    draw = random.Random(7)
    sent: dict[str, list[bytes]] = {"a": [], "b": []}
    for n in range(600):
        name, sender = draw.choice([("a", a), ("b", b)])
        message = numbered(n, draw.choice([100, 100, 100, 500, 500, 1332, 1332, 1332]))
        sent[name].append(message)
        await sender.send(sender.to(c, message))
    async with asyncio.timeout(5):
        got = [await c.frames.get() for _ in range(600)]
    assert [f[44:] for f in got if f[36:40] == a.ip.packed] == sent["a"]
    assert [f[44:] for f in got if f[36:40] == b.ip.packed] == sent["b"]
    assert site.relay.core.counters.dropped_frames == 0


async def test_frames_of_another_network_hidden_among_good_ones_are_dropped(site: Site) -> None:
    a, b = await site.udp("10.0.0.1"), await site.udp("10.0.0.2")
    foreign = await site.udp("10.0.0.2", NET_B)
    good, bad = a.to(b, numbered(1, 500)), foreign.to(foreign, numbered(2, 500))
    segment = (socket.IPPROTO_UDP, 103, (544).to_bytes(2, "little"))
    a.socket.sendmsg([good + bad + bad + good], [segment])
    assert await b.hear(2) == [numbered(1, 500)] * 2
    assert site.relay.core.counters.drop_foreign == 2
    assert foreign.frames.empty()
    assert await a.hear_control() == wire.NoSession(NET_B, foreign.ip)


@pytest.mark.parametrize("receiver", ["udp", "websocket"])
async def test_forged_frames_anywhere_in_a_run_are_dropped_and_counted_and_their_neighbours_pass(
    site: Site, receiver: str
) -> None:
    a, b = await site.udp("10.0.0.1"), await getattr(site, receiver)("10.0.0.2")
    forged = {0, 1, 7, 20, 38, 39}
    own, other = wire.frame_prefix(NET_A, a.ip, b.ip), wire.frame_prefix(NET_A, b.ip, a.ip)
    frames = [(other if n in forged else own) + numbered(n, 500) for n in range(40)]
    segment = (socket.IPPROTO_UDP, 103, (544).to_bytes(2, "little"))
    a.socket.sendmsg([b"".join(frames)], [segment])
    assert await b.hear(34) == [numbered(n, 500) for n in range(40) if n not in forged]
    assert isinstance(await a.hear_control(), wire.NoSession)
    counters = site.relay.core.counters
    assert (counters.drop_foreign, counters.forwarded_frames, counters.dropped_frames) == (6, 34, 6)
    assert counters.forwarded_bytes == 34 * 544


async def test_frames_for_several_in_one_message_leave_as_one_message_for_each(site: Site) -> None:
    a = await site.websocket("10.0.0.1")
    receivers = [await site.websocket("10.0.0.2"), await site.websocket("10.0.0.3")]
    c = await site.udp("10.0.0.4")
    sent: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    frames = []
    for n in range(120):
        message = numbered(n, 100 + n % 3)
        sent[n // 5 % 3].append(message)
        frames.append(a.to((*receivers, c)[n // 5 % 3], message))
    before = [receiver.messages for receiver in receivers]
    await a.send(*frames)
    for index, receiver in enumerate(receivers):
        assert await receiver.hear(40) == sent[index]
    assert [receiver.messages for receiver in receivers] == [n + 1 for n in before]
    assert await c.hear(40) == sent[2]
    assert site.relay.core.counters.dropped_frames == 0


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x00", b"\x00\x50" + bytes(0x4F), b"\xff\xff"])
async def test_a_message_with_a_cut_frame_ends_the_connection_and_is_counted(site: Site, tail: bytes) -> None:
    a, b = await site.websocket("10.0.0.1"), await site.udp("10.0.0.2")
    await a.connection.send(wire.pack_stream([a.to(b, numbered(1))]) + tail)
    await asyncio.wait_for(a.connection.wait_closed(), 5)
    assert a.connection.close_code == 1007
    assert site.relay.core.counters.malformed == 1
    assert await b.hear() == [numbered(1)]  # what came whole has gone its way


async def test_messages_of_any_form_carry_frames(site: Site) -> None:
    """In fragments, larger than the relay's buffer, with pings between: as a foreign client or a proxy may send them."""
    a, b = await site.websocket("10.0.0.1"), await site.websocket("10.0.0.2")
    await (await a.connection.ping(b"are you there?"))
    big = wire.pack_stream([a.to(b, numbered(n)) for n in range(200)])
    await a.connection.send(big)
    assert await b.hear(200) == [numbered(n) for n in range(200)]
    await (await a.connection.ping())
    await a.connection.send([big[:7], big[7:90_000], big[90_000:]])
    await (await a.connection.ping())
    assert await b.hear(200) == [numbered(n) for n in range(200)]
    await a.connection.send(big)
    assert await b.hear(200) == [numbered(n) for n in range(200)]
    assert site.relay.core.counters.malformed == 0
    assert site.relay.core.counters.drop_queue == 0


async def test_a_numbered_stream_from_udp_to_websocket_loses_nothing(site: Site) -> None:
    """Paced by its own echo: never more than 64 frames under way."""
    a, b = await site.udp("10.0.0.1"), await site.websocket("10.0.0.2")
    window, total = 64, 5000
    for n in range(window):
        await a.send(a.to(b, numbered(n, 600)))
    for n in range(total):
        assert await b.hear() == [numbered(n, 600)]
        await b.send(b.to(a, numbered(n, 80)))
        assert await a.hear() == [numbered(n, 80)]
        await a.send(a.to(b, numbered(window + n, 600)))
    assert site.relay.core.counters.dropped_frames == 0


async def test_a_stranger_gets_a_short_answer_once(site: Site) -> None:
    a = await site.udp("10.0.0.1")
    stranger = UdpClient(site.relay, "10.0.0.66", "smt1_x", Signer.generate())
    await stranger.open()
    site.clients.append(stranger)
    await stranger.send(*[stranger.to(a, numbered(n)) for n in range(20)])
    assert await stranger.hear_control() == wire.NoSession(NET_A, stranger.ip)
    await a.send(wire.Ping(NET_A, a.ip, b"ABCDEFGH").encode())
    assert await a.hear_control() == wire.Pong(NET_A, a.ip, b"ABCDEFGH")
    assert stranger.control.empty()
    assert a.frames.empty()
    assert site.relay.core.counters.drop_no_session == 20


async def test_a_revoked_client_hears_it_and_is_out(site: Site) -> None:
    a, b = await site.udp("10.0.0.1"), await site.websocket("10.0.0.2")
    wall = site.relay.clock().wall
    entry = Revocation(network_id=NET_A, device_key=b.device.device_key, before=wall + 60, until=wall + 1e6)
    site.relay.send(site.relay.core.revoke([entry]))
    bye = await b.hear_control()
    assert isinstance(bye, wire.Bye)
    assert bye.reason is wire.ByeReason.REVOKED
    refused = await b.login()
    assert isinstance(refused, wire.Refuse)
    assert refused.code is wire.Refusal.REVOKED
    number = site.relay.core.sessions.by_key[NET_A + a.ip.packed].number
    await a.send(a.to(b, numbered(1)))
    assert await a.hear_control() == wire.NoPeer(NET_A, b.ip, number)


async def test_a_client_moves_from_udp_to_websocket_and_its_peer_goes_on(site: Site) -> None:
    a, b = await site.udp("10.0.0.1"), await site.udp("10.0.0.2")
    moved = WebSocketClient(site.relay, "10.0.0.1", a.token, a.device)
    site.clients.append(moved)
    await moved.open()
    assert isinstance(await moved.login(), wire.Welcome)
    bye = await a.hear_control()
    assert isinstance(bye, wire.Bye)
    assert bye.reason is wire.ByeReason.REPLACED
    await b.send(b.to(a, numbered(5)))
    assert await moved.hear() == [numbered(5)]


async def test_a_closed_websocket_ends_its_sessions(site: Site) -> None:
    a, b = await site.udp("10.0.0.1"), await site.websocket("10.0.0.2")
    await b.connection.close()
    while site.relay.core.sessions.by_key.get(NET_A + b.ip.packed):  # noqa: ASYNC110 - the relay's own task notices
        await asyncio.sleep(0)
    number = site.relay.core.sessions.by_key[NET_A + a.ip.packed].number
    await a.send(a.to(b, numbered(1)))
    assert await a.hear_control() == wire.NoPeer(NET_A, b.ip, number)


@pytest.mark.parametrize("first", ["text", b"\x00\x05hello", b"\x16\x03\x01", b""])
async def test_a_websocket_that_is_not_ours_is_closed_with_4426_and_a_sentence(site: Site, first: str | bytes) -> None:
    async with connect(f"ws://127.0.0.1:{site.relay.port}/") as stranger:
        await stranger.send(first)
        with pytest.raises(ConnectionClosed) as e:
            await stranger.recv()
    assert e.value.rcvd is not None
    assert e.value.rcvd.code == 4426
    assert e.value.rcvd.reason == streamside.NOT_OURS


async def test_a_silent_websocket_is_closed_with_4426(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamside, "HELLO_TIMEOUT", 0.05)
    async with connect(f"ws://127.0.0.1:{site.relay.port}/") as silent:
        with pytest.raises(ConnectionClosed) as e:
            await silent.recv()
    assert e.value.rcvd is not None
    assert e.value.rcvd.code == 4426


async def test_a_websocket_that_never_gets_a_session_does_not_stay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamside, "SESSION_TIMEOUT", 0.05)
    monkeypatch.setattr(streamside, "HELLO_TIMEOUT", 0.5)
    async with connect(f"ws://127.0.0.1:{site.relay.port}/") as idler:
        await idler.send(wire.pack_stream([wire.Hello(bytes(8), "x" * 100).encode()]))
        await idler.recv()  # the challenge
        with pytest.raises(ConnectionClosed) as e:
            await idler.recv()
    assert e.value.rcvd is not None
    assert e.value.rcvd.code == streamside.CLOSE_NO_SESSION


async def test_a_slow_websocket_loses_frames_and_costs_the_others_nothing(site: Site) -> None:
    fast, a = await site.udp("10.0.0.3"), await site.udp("10.0.0.1")
    slow = await site.websocket("10.0.0.2", max_queue=1, close_timeout=0.1)
    slow.reader.cancel()
    for start in range(0, 30_000, 100):
        await a.send(*[a.to(slow, numbered(n)) for n in range(start, start + 100)])
        await a.send(a.to(fast, numbered(start, 64)))
        assert await fast.hear() == [numbered(start, 64)]
        if site.relay.core.counters.drop_queue:
            break
    assert site.relay.core.counters.drop_queue > 0
    assert site.relay.core.counters.drop_no_peer == 0


async def test_ipv6_and_ipv4_clients_meet(start: Callable[..., Awaitable[Site]]) -> None:
    site = await start("::")
    a, b = await site.udp("10.0.0.1", host="::1"), await site.udp("10.0.0.2")
    c = await site.websocket("10.0.0.3")
    for x, y in ((a, b), (b, a), (a, c), (c, a)):
        await x.send(x.to(y, numbered(7)))
        assert await y.hear() == [numbered(7)]


async def test_on_the_wildcard_answers_and_frames_leave_from_the_address_the_client_sends_to(
    start: Callable[..., Awaitable[Site]],
) -> None:
    """A connected socket takes datagrams from its peer's address alone."""
    site = await start("0.0.0.0")
    a, b = await site.udp("10.0.0.1", host="127.0.0.2"), await site.udp("10.0.0.2", host="127.0.0.3")
    await a.send(*[a.to(b, numbered(n)) for n in range(3)])
    assert await b.hear(3) == [numbered(n) for n in range(3)]


async def test_stun_on_both_ports_tells_the_source(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        for port in (site.relay.port, site.relay.port + 1):
            await loop.sock_sendto(sock, binding_request(b"t" * 12), ("127.0.0.1", port))
            data, source = await asyncio.wait_for(loop.sock_recvfrom(sock, 2048), 5)
            answer = parse_response(data)
            assert isinstance(answer, BindingResponse)
            assert answer.mapped == SockAddr(*sock.getsockname())
            assert source == ("127.0.0.1", port)
        await loop.sock_sendto(sock, binding_request(b"u" * 12, change_port=True), ("127.0.0.1", site.relay.port))
        _, source = await asyncio.wait_for(loop.sock_recvfrom(sock, 2048), 5)
        assert source == ("127.0.0.1", site.relay.port + 1)


async def test_no_source_gets_a_flood_of_stun_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both ports together; who logs in from there isn't hindered."""
    monkeypatch.setattr("shadowmesh.serving.buckets.STUN_BURST", 3)
    monkeypatch.setattr("shadowmesh.serving.buckets.STUN_EVERY", 3600.0)
    monkeypatch.setattr(site.relay._udp, "_stun_limit", StunLimit())
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        answered = 0
        with suppress(TimeoutError):
            for number in range(20):
                port = site.relay.port + number % 2
                await loop.sock_sendto(sock, binding_request(number.to_bytes(12, "big")), ("127.0.0.1", port))
                await asyncio.wait_for(loop.sock_recv(sock, 2048), 1.0)
                answered += 1
    assert answered == 3
    await site.udp("10.0.0.1")


async def test_health_and_metrics_are_plain_http_on_the_same_port(site: Site, pump: str) -> None:
    a, b = await site.udp("10.0.0.1"), await site.udp("10.0.0.2")
    await a.send(a.to(b, numbered(1)))
    await b.hear()
    bearer = {"Authorization": f"Bearer {METRICS_TOKEN.reveal().decode()}"}
    url = f"http://127.0.0.1:{site.relay.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers=bearer) as http:
        health = await http.get("/healthz")
        assert (health.status_code, health.text) == (200, f"ok\ncontroller: away\npump: {pump}\n")
        site.relay.core.heard_controller(site.relay.clock())
        assert (await http.get("/healthz")).text == f"ok\ncontroller: heard\npump: {pump}\n"
        metrics = await http.get("/metrics")
        assert "shadowmesh_relay_forwarded_frames_total 1.0" in metrics.text
        assert "shadowmesh_relay_sessions 2.0" in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "10.0.0.1" not in metrics.text
        assert (await http.get("/")).status_code == 404


async def test_a_stranger_learns_that_it_runs_and_no_more(site: Site) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.relay.port}", trust_env=False) as http:
        for token in ("", "Bearer", "Bearer wrong", "Bearer \xe9", "Basic " + METRICS_TOKEN.reveal().decode()):
            headers = {"Authorization": token.encode("latin-1")}
            assert (await http.get("/healthz", headers=headers)).text == "ok\n"
            assert (await http.get("/metrics", headers=headers)).status_code == 404
        twice = [("Authorization", "Bearer x"), ("Authorization", f"Bearer {METRICS_TOKEN.reveal().decode()}")]
        assert (await http.get("/metrics", headers=twice)).status_code == 404


async def test_without_udp_the_websocket_alone_serves(start: Callable[..., Awaitable[Site]]) -> None:
    site = await start(udp=False)
    a, b = await site.websocket("10.0.0.1"), await site.websocket("10.0.0.2")
    await a.send(a.to(b, numbered(1)))
    assert await b.hear() == [numbered(1)]


async def test_wss(start: Callable[..., Awaitable[Site]], pump: PumpName, certificate: tuple[Path, Path]) -> None:
    site = await start(tls=ServerTls(*certificate, pump))
    client = ssl.create_default_context(cafile=str(certificate[0]))
    a, b = await site.websocket("10.0.0.1", ssl=client), await site.udp("10.0.0.2")
    await a.send(a.to(b, numbered(1)))
    assert await b.hear() == [numbered(1)]
    with pytest.raises((InvalidMessage, OSError)):
        await connect(f"ws://127.0.0.1:{site.relay.port}/", open_timeout=1)


async def test_a_stopping_relay_says_goodbye_on_both_transports(start: Callable[..., Awaitable[Site]]) -> None:
    site = await start()
    a, b = await site.udp("10.0.0.1"), await site.websocket("10.0.0.2")
    await site.relay.__aexit__(None, None, None)
    for client in (a, b):
        bye = await client.hear_control()
        assert isinstance(bye, wire.Bye)
        assert bye.reason is wire.ByeReason.DRAINING


@pytest.mark.parametrize(("kind", "offset"), [(socket.SOCK_DGRAM, 0), (socket.SOCK_DGRAM, 1), (socket.SOCK_STREAM, 0)])
async def test_a_taken_port_is_one_clear_error_and_leaves_nothing_open(kind: socket.SocketKind, offset: int) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", port + offset))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        with pytest.raises(ShadowMeshError, match="can't listen on port") as e:
            await RelayServer(RelayCore(Signer.generate()), SockAddr("127.0.0.1", port)).__aenter__()
        assert e.value.code == "port_taken"
        assert str(port + offset) in str(e.value)
    async with RelayServer(RelayCore(Signer.generate()), SockAddr("127.0.0.1", port)) as relay:
        assert relay.port == port
