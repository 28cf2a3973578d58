"""Two networks on the same hosts, with the same peer names, are as far apart as two cables."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

import pytest
import rogue
from rogue import Loot, Tunnel, Wire

from shadowmesh.lab import netns
from shadowmesh.lab.capture import Packet
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import RELAY_PORT, World
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.status import JoinResult
from shadowmesh.protocol.noise import AuthFailure, TransportKeys, sender_index
from shadowmesh.protocol.relay import (
    Challenge,
    NoSession,
    Ping,
    Pong,
    Refusal,
    Refuse,
    Welcome,
    decode_control,
    frame_prefix,
)
from shadowmesh.protocol.signing import Signer

pytestmark = pytest.mark.lab

SUBNETS = {"red": "10.71.0.0/24", "blue": "10.72.0.0/24"}
PORT = 7300
COUNT = 20


@dataclass
class Two:
    """h1 and h2 are in red and blue; h3 was in red: its daemon is gone, its state is in the rogue's hands."""

    world: World
    joined: Mapping[tuple[str, str], JoinResult]
    endpoint: tuple[str, int]  # of h2
    loot: Loot

    def ip(self, host: str, network: str) -> str:
        return self.joined[host, network].ip

    def drops(self, host: str, peer: str | None = None) -> dict[str, int]:
        client = self.world.client(host)
        return dict(client.status().drops if peer is None else client.why(peer).drops)

    def until_dropped(self, host: str, peer: str | None, expected: Mapping[str, int], since: Mapping[str, int]) -> None:
        """Waits until these many more were dropped, by cause; with a peer named, exactly these."""

        def more() -> dict[str, int]:
            return {cause: n - since.get(cause, 0) for cause, n in self.drops(host, peer).items()}

        with suppress(AssertionError):
            until(lambda: all(more().get(cause, 0) >= n for cause, n in expected.items()))
        seen = more()
        if peer is None:  # the kernel's own chatter on an interface is dropped, too
            seen = {cause: min(seen.get(cause, 0), n) for cause, n in expected.items()}
        assert {cause: n for cause, n in seen.items() if n} == expected

    @contextmanager
    def wire(self, to: tuple[str, int]) -> Iterator[Wire]:
        with closing(Wire(self.world.lab.host("h3"), to)) as wire:
            yield wire

    def relay(self) -> tuple[str, int]:
        return self.world.lab.host("relay1").address, RELAY_PORT

    def metric(self, name: str) -> float:
        """One line of the relay's /metrics; 0 if there is none yet."""
        host = self.world.lab.host("relay1")
        token = (host.state_directory / "metrics.token").read_text()

        def ask() -> str:
            connection = http.client.HTTPConnection(host.address, RELAY_PORT, timeout=5)
            with closing(connection):
                connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
                return connection.getresponse().read().decode()

        found = re.search(rf"^{re.escape(name)} (\S+)$", host.run_in(ask), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextmanager
    def nothing_crosses(self) -> Iterator[None]:
        """Inside, no host may get a packet between the networks, nor see an inner address outside of a tunnel."""
        with ExitStack() as stack:
            hosts = [self.world.lab.host(name) for name in ("h1", "h2", "h3")]
            seen = stack.enter_context(hosts[1].capture(lambda p: p.interface.startswith("shadowmesh")))
            captures = [stack.enter_context(host.capture(_crossing)) for host in hosts]
            yield
        assert seen.count > 0  # what may pass was seen where the rest would have been
        assert [p for capture in captures for p in capture.packets] == []


def _network_of(packet_address: object) -> str | None:
    return next((name for name, net in _NETS.items() if packet_address in net), None)


_NETS: dict[str, IPv4Network] = {name: IPv4Network(subnet) for name, subnet in SUBNETS.items()}


def _crossing(packet: Packet) -> bool:
    source, target = _network_of(packet.source), _network_of(packet.target)
    if packet.interface == "lo":
        return False
    if packet.interface.startswith("shadowmesh"):
        return not packet.outgoing and source != target
    return bool(source or target)


def until(check: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def two(module_lab_factory) -> Two:
    lab = module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec(), SiteSpec()), relays=1, controllers=1))
    world = World(lab)
    world.mesh(network="red", subnet=SUBNETS["red"])
    world.create_network("blue", SUBNETS["blue"])
    invite = world.invite("blue", uses=2)
    for host in ("h1", "h2"):
        world.join(host, invite)
    joined = {}
    for host in ("h1", "h2", "h3"):
        for n in world.client(host).status().networks:
            joined[host, n.name] = JoinResult(
                network=n.name,
                network_id=n.network_id,
                client_id=n.client_id,
                ip=n.ip,
                interface=n.interface,
                state="up",
            )
    for name in ("h2@red", "h2@blue"):
        tries = list(world.client("h1").ping(name, count=1, timeout=20, until_direct=True))
        assert tries[-1].path == "direct"
    assert tries[-1].endpoint is not None
    endpoint = SockAddr.parse(tries[-1].endpoint)
    world.stop("h3")
    stolen = rogue.loot(lab.host("h3").state_directory, "red")
    assert {m.name for m in stolen.netmap.members} == {"h1", "h2", "h3"}
    for host in ("h1", "h2"):  # a host that would forward whatever it gets
        lab.host(host).run_in(
            lambda: netns.write_sysctl(
                {"ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0}
            )
        )
    return Two(world, joined, (endpoint.host, endpoint.port), stolen)


@contextmanager
def sink(two: Two, host: str, network: str) -> Iterator[socket.socket]:
    with two.world.lab.host(host).socket() as sock:
        sock.bind((two.ip(host, network), PORT))
        sock.settimeout(5)
        yield sock


def send(two: Two, source: tuple[str, str], target: tuple[str, str], *, interface: str | None = None) -> None:
    """COUNT datagrams from one (host, network) address to another."""
    with two.world.lab.host(source[0]).socket() as sock:
        sock.bind((two.ip(*source), 0))
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        for number in range(COUNT):
            sock.sendto(number.to_bytes(4, "big"), (two.ip(*target), PORT))


def test_the_same_names_in_two_networks_are_two_peers(two: Two) -> None:
    status = two.world.client("h1").status()
    assert {n.name: [p.name for p in n.peers if p.name == "h2"] for n in status.networks} == {
        "red": ["h2"],
        "blue": ["h2"],
    }
    for network in SUBNETS:
        with sink(two, "h2", network) as arrived:
            send(two, ("h1", network), ("h2", network))
            assert [arrived.recvfrom(64)[1][0] for _ in range(COUNT)] == [two.ip("h1", network)] * COUNT


def test_a_host_that_sends_to_the_other_networks_address_is_not_heard(two: Two) -> None:
    with two.nothing_crosses(), sink(two, "h2", "red") as red, sink(two, "h2", "blue") as blue:
        for mine, other in (("red", "blue"), ("blue", "red")):
            before = two.drops("h1")
            send(two, ("h1", mine), ("h2", other))  # the other network's route, this one's source
            send(two, ("h1", mine), ("h2", other), interface=two.joined["h1", mine].interface)
            send(two, ("h1", other), ("h2", other), interface=two.joined["h1", mine].interface)
            two.until_dropped("h1", None, {"source": 2 * COUNT, "destination": COUNT}, before)
        send(two, ("h1", "red"), ("h2", "red"))
        send(two, ("h1", "blue"), ("h2", "blue"))
        for sock in (red, blue):  # what is allowed arrives after all that isn't: nothing is under way any more
            assert [sock.recv(64) for _ in range(COUNT)] == [n.to_bytes(4, "big") for n in range(COUNT)]


def test_a_member_that_forges_inner_addresses_is_dropped_and_counted(two: Two) -> None:
    loot = two.loot
    own, there = str(loot.ip), two.ip("h2", "red")
    forged = {
        "source": [
            (two.ip("h1", "red"), there),  # another member
            (two.ip("h1", "blue"), there),
            (two.ip("h1", "blue"), two.ip("h2", "blue")),  # as if it were in the other network
            ("127.0.0.1", there),
            ("8.8.8.8", there),
        ],
        "destination": [
            (own, two.ip("h2", "blue")),  # this host's address in the other network
            (own, two.ip("h1", "blue")),  # through the host, which forwards
            (own, two.ip("h1", "red")),
            (own, two.world.lab.host("h2").address),
            (own, "8.8.8.8"),
            (own, "127.0.0.1"),
            (own, "10.71.0.255"),
            (own, "224.0.0.1"),
        ],
    }
    before = two.drops("h2", "h3@red")
    with two.nothing_crosses(), two.wire(two.endpoint) as wire, sink(two, "h2", "red") as arrived:
        hello, answer = rogue.initiate(wire, loot.wg_private, loot.member_key("h2"))
        tunnel = Tunnel(wire, hello.consume_response(answer, loot.psk("h2")))
        tunnel.send(rogue.ipv4(own, there, b"first", port=PORT))
        for _ in range(COUNT):
            for pairs in forged.values():
                for source, target in pairs:
                    tunnel.send(rogue.ipv4(source, target, b"forged", port=PORT))
        tunnel.send(rogue.ipv4(own, there, b"last", port=PORT))
        assert [arrived.recv(64), arrived.recv(64)] == [b"first", b"last"]
        two.until_dropped("h2", "h3@red", {cause: COUNT * len(pairs) for cause, pairs in forged.items()}, before)


def test_without_the_network_key_no_handshake_completes(two: Two) -> None:
    loot = two.loot
    with two.wire(two.endpoint) as wire, sink(two, "h2", "red") as arrived:
        wrong = loot.psk("h2", Secret(bytes(range(32))))
        hello, answer = rogue.initiate(wire, loot.wg_private, loot.member_key("h2"))
        for psk in (wrong, Secret(bytes(32))):
            with pytest.raises(AuthFailure):
                hello.consume_response(answer, psk)
        # one who goes on regardless, with the keys that it can derive
        symmetric = hello._after_exchange(answer[12:44]).copy()
        symmetric.mix_psk(wrong)
        forth, back = symmetric.split()
        before = two.drops("h2", "h3@red")
        handshakes = _handshake_with_h3(two)
        tunnel = Tunnel(wire, TransportKeys(hello.local_index, sender_index(answer), forth, back, initiator=True))
        for _ in range(COUNT):
            tunnel.send(rogue.ipv4(str(loot.ip), two.ip("h2", "red"), b"without the key", port=PORT))
        two.until_dropped("h2", "h3@red", {"auth": COUNT}, before)
        arrived.settimeout(0)
        with pytest.raises(BlockingIOError):
            arrived.recv(64)
        assert _handshake_with_h3(two) == handshakes


def _handshake_with_h3(two: Two) -> str | None:
    return two.world.client("h2").why("h3@red").peer.last_handshake


def test_a_relay_session_sends_only_as_itself(two: Two) -> None:
    loot = two.loot
    blue = NetworkID.parse(two.joined["h2", "blue"].network_id)
    h2, h2_blue = loot.member_ip("h2"), two.joined["h2", "blue"].ip
    foreign = [
        frame_prefix(blue, loot.ip, h2),  # another network's id
        frame_prefix(
            blue, ip_network(f"{two.ip('h1', 'blue')}/32").network_address, ip_network(f"{h2_blue}/32").network_address
        ),
        frame_prefix(loot.network_id, loot.member_ip("h1"), h2),  # another member's address
        frame_prefix(NetworkID(bytes(32)), loot.ip, h2),
    ]
    body = b"\x04\0\0\0" + b"not a message of h2" + bytes(60)
    with two.wire(two.relay()) as wire:
        assert isinstance(rogue.log_in(wire, loot.relay_token, loot.relay_key, loot.device), Welcome)
        dropped = two.metric('shadowmesh_relay_dropped_frames_total{cause="foreign"}')
        with (
            two.world.lab.host("h2").capture(_from_relay(two, body)) as to_h2,
            two.world.lab.host("h1").capture(_from_relay(two, body)) as to_h1,
        ):
            for _ in range(COUNT):
                for prefix in foreign:
                    wire.send(prefix + body)
            wire.send(frame_prefix(loot.network_id, loot.ip, h2) + body)  # its own
            assert to_h2.wait(1, 5.0)
        assert (to_h1.count, to_h2.count) == (0, 1)
        assert bytes(loot.ip.packed) in to_h2.packets[0].data
        now = two.metric('shadowmesh_relay_dropped_frames_total{cause="foreign"}')
        assert now - dropped == COUNT * len(foreign)


def _from_relay(two: Two, body: bytes) -> Callable[[Packet], bool]:
    relay = two.world.lab.host("relay1").address
    return lambda p: str(p.source) == relay and body in p.data


def test_a_sniffed_token_is_useless_without_the_device_key(two: Two) -> None:
    loot = two.loot
    refused = 'shadowmesh_relay_refusals_total{code="bad_signature"}'
    dropped = 'shadowmesh_relay_dropped_frames_total{cause="no_session"}'
    before = two.metric(refused), two.metric(dropped)
    with two.wire(two.relay()) as wire:
        answer = rogue.log_in(wire, loot.relay_token, loot.relay_key, Signer.generate())
        assert isinstance(answer, Refuse)
        assert answer.code is Refusal.BAD_SIGNATURE
        wire.send(frame_prefix(loot.network_id, loot.ip, loot.member_ip("h2")) + bytes(80))
        assert isinstance(decode_control(wire.receive()), NoSession)
        assert (two.metric(refused), two.metric(dropped)) == (before[0] + 1, before[1] + 1)
    with two.wire(two.relay()) as owner, two.wire(two.relay()) as thief:
        welcome = rogue.log_in(owner, loot.relay_token, loot.relay_key, loot.device)
        assert isinstance(welcome, Welcome)  # with the key it is of use
        for sniffed in owner.sent:
            thief.send(sniffed)
        assert isinstance(decode_control(thief.receive()), Challenge)
        replayed = decode_control(thief.receive())
        assert isinstance(replayed, Refuse)
        assert replayed.code is Refusal.BAD_COOKIE
        owner.send(Ping(loot.network_id, loot.ip, bytes(8)).encode())
        assert isinstance(decode_control(owner.receive()), Pong), "and the owner's session goes on"


def test_a_network_on_the_same_addresses_is_refused(two: Two) -> None:
    two.world.create_network("green", "10.71.0.128/25")
    invite = two.world.invite("green")
    refused = two.world.run("h1", "join", "-", stdin=invite, codes=(6,)).stderr
    assert "red" in refused and "10.71.0.0/24" in refused
    assert len(refused.splitlines()) == 1
    assert {n.name for n in two.world.client("h1").status().networks} == {"red", "blue"}
