"""A standard WireGuard takes a machine's place in the mesh: wireguard-go, set up by `export wireguard --takeover`.

    h1 wireguard-go ─ h2 daemon ─ h3 daemon
    h4 wireguard-go ─┘                             h1 and h3 behind NATs

The sessions made first are looked at again two minutes later, when WireGuard has made new ones, and all other tests
of the lab run meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import meshkit
import pytest

from shadowmesh.lab.conversations import transfer
from shadowmesh.lab.internet import Host
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World, write_secret

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not all(map(shutil.which, ("wireguard-go", "wg", "wg-quick"))),
        reason="LAB TESTS NOT RUN: they need wireguard-go and wireguard-tools",
    ),
]

first, last = pytest.mark.turn(-1), pytest.mark.turn(1)
REKEY_AFTER = 120.0
REKEY_TIMEOUT = 5.0
CONTROL = Path("/var/run/wireguard")


class WireGuard:
    """wireguard-go on a host, set up from an exported configuration as wg-quick(8) does."""

    def __init__(self, host: Host, config: str) -> None:
        self.host = host
        self.name = f"wm{os.getpid() % 100_000}{host.name}"
        self.config = write_secret(host.directory / f"{self.name}.conf", config)
        self._log = host.directory / "wireguard.log"
        self._process = host.popen(
            ["wireguard-go", "-f", self.name], env={**host.environment(), "LOG_LEVEL": "verbose"}, log=self._log
        )
        until((CONTROL / f"{self.name}.sock").exists, 10, "wireguard-go")
        self.set("setconf", self.stripped())
        fields = dict(re.findall(r"^(\w+) = (.*)$", config, re.MULTILINE))
        self.peer = fields["PublicKey"]
        for address in fields["Address"].split(", "):
            host.exec(["ip", "address", "add", address, "dev", self.name])
        host.exec(["ip", "link", "set", self.name, "mtu", fields["MTU"], "up"])
        for target in fields["AllowedIPs"].split(", "):
            host.exec(["ip", "route", "add", target, "dev", self.name])

    def stripped(self) -> str:
        """What wg(8) takes of the configuration."""
        return str(self.host.exec(["wg-quick", "strip", str(self.config)]).stdout)

    def set(self, how: str, config: str) -> None:
        self.host.exec(["wg", how, self.name, "/dev/stdin"], input=config)

    def forget_peer(self) -> None:
        self.host.exec(["wg", "set", self.name, "peer", self.peer, "remove"])

    def show(self, what: str) -> list[str]:
        """The fields of its one peer."""
        return self.host.exec(["wg", "show", self.name, what]).stdout.split()[1:]

    def handshake(self) -> int:
        """When the last one was, Unix time in seconds; 0 if there was none."""
        return int((self.show("latest-handshakes") or ["0"])[0])

    def said(self, what: str) -> int:
        """How often the log says this."""
        return self._log.read_text().count(what)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        (CONTROL / f"{self.name}.sock").unlink(missing_ok=True)


@dataclass
class Mixed:
    world: World
    ips: dict[str, str]
    answered: dict[str, float] = field(default_factory=dict)  # host → seconds from its WireGuard's start
    wireguards: dict[str, WireGuard] = field(default_factory=dict)
    streams: dict[str, meshkit.TcpStream] = field(default_factory=dict)
    began: float = 0.0  # when the streams did
    handshakes: dict[str, dict[str, int]] = field(default_factory=dict)  # as they were then

    def take_over(self, host: str) -> None:
        """Puts wireguard-go in the place of the daemon's network; returns when h2 answers it."""
        meshkit.until_direct(self.world, host, "h2")  # the mesh knows this host as its own, a moment before
        config = self.world.json(host, "export", "wireguard", "h2", "--takeover")["config"]
        began = time.monotonic()
        self.wireguards[host] = WireGuard(self.world.lab.host(host), config)
        ping = ["ping", "-c", "1", "-i", "0.2", "-w", "30", self.ips["h2"]]
        answered = self.world.lab.host(host).exec(ping, check=False, timeout=40).returncode == 0
        assert answered, meshkit.why(self.world, "h2", host)
        self.answered[host] = time.monotonic() - began

    def made_by_h2(self, host: str) -> None:
        """A ping of a peer without disco also makes a handshake with it. The echo may be answered before, on the session
        that was there."""
        before = self.wireguards[host].said("Sending handshake response")
        (answer,) = meshkit.ping(self.world, "h2", host)
        assert (answer.ok, answer.path, answer.reason) == (True, "direct", "direct.wireguard")
        until(lambda: self.wireguards[host].said("Sending handshake response") > before, 5, "h2's handshake")

    def both_ways(self, a: str, b: str) -> None:
        """Data goes from each to the other over TCP, and its SHA-256 is right."""
        hosts = self.world.lab.host(a), self.world.lab.host(b)
        for source, target, ip in ((hosts[0], hosts[1], self.ips[b]), (hosts[1], hosts[0], self.ips[a])):
            done = transfer(source, target, ip, seconds=0.3)
            assert done.intact
            assert done.size >= 256 << 10

    def count_handshakes(self) -> dict[str, dict[str, int]]:
        """What each wireguard-go says it made, and answered."""
        return {
            host: {"made": w.said("Received handshake response"), "answered": w.said("Sending handshake response")}
            for host, w in self.wireguards.items()
        }

    def way(self, host: str) -> tuple[str, str]:
        """How h2 reaches it."""
        peer = meshkit.why(self.world, "h2", host).peer
        return peer.path, peer.reason


def until(check: Callable[[], object], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, f"{what} within {timeout} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def mixed(session_lab_factory) -> Iterator[Mixed]:
    home, public = SiteSpec(nat=NatType.PORT_RESTRICTED), SiteSpec()
    world = World(session_lab_factory(LabSpec(sites=(home, public, home, public), relays=1, controllers=1)))
    made = Mixed(world, world.mesh())
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(made.take_over, ("h1", "h4")))
        yield made
    finally:
        for stream in made.streams.values():
            stream.stop()
        for wireguard in made.wireguards.values():
            wireguard.close()


@first
def test_the_configuration_is_what_a_standard_wireguard_needs(mixed: Mixed) -> None:
    config = mixed.wireguards["h1"].config.read_text()
    head, peer = config.split("[Peer]")
    assert re.findall(r"^(\w+) = ", head, re.MULTILINE) == ["PrivateKey", "ListenPort", "Address", "MTU"]
    assert re.findall(r"^(\w+) = ", peer, re.MULTILINE) == [
        "PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive",
    ]  # fmt: skip
    assert f"Address = {mixed.ips['h1']}/32" in head
    assert f"AllowedIPs = {mixed.ips['h2']}/32" in peer
    assert "MTU = 1376" in head
    assert "PersistentKeepalive = 25" in peer
    assert mixed.world.status("h1").networks[0].state == "down"
    refused = mixed.world.run("h3", "export", "wireguard", "h2", codes=(6,))
    assert "--takeover" in refused.stderr
    assert mixed.world.status("h3").networks[0].state == "up"


@first
@pytest.mark.parametrize("host", ["h1", "h4"])
def test_it_talks_as_initiator(mixed: Mixed, host: str) -> None:
    wireguard = mixed.wireguards[host]
    assert wireguard.said("Received handshake response") >= 1
    assert mixed.answered[host] < 10, "h2 has to see that nobody speaks disco there any more, which takes 6.5 s"
    mixed.both_ways(host, "h2")
    assert mixed.way(host) == ("direct", "direct.wireguard")


@first
@pytest.mark.parametrize("host", ["h1", "h4"])
def test_it_talks_as_responder(mixed: Mixed, host: str) -> None:
    wireguard = mixed.wireguards[host]
    before = wireguard.said("Received handshake initiation")
    mixed.made_by_h2(host)
    assert wireguard.said("Received handshake initiation") == before + 1
    mixed.both_ways(host, "h2")
    assert wireguard.said("Received handshake initiation") == before + 1, "on that very session"


@first
def test_a_peer_taken_out_and_put_back_begins_anew(mixed: Mixed) -> None:
    wireguard = mixed.wireguards["h1"]
    wireguard.forget_peer()
    responses = wireguard.said("Received handshake response")
    wireguard.set("addconf", "[Peer]" + wireguard.stripped().partition("[Peer]")[2])
    until(lambda: wireguard.said("Received handshake response") > responses, 10, "a new session")
    mixed.both_ways("h1", "h2")


@first
def test_it_lives_beside_the_mesh(mixed: Mixed) -> None:
    meshkit.until_direct(mixed.world, "h3", "h2")
    pairs = [("h1", "h2"), ("h4", "h2"), ("h3", "h2")]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pair: mixed.both_ways(*pair), pairs))
    assert mixed.way("h3")[0] == "direct" and mixed.way("h3")[1] != "direct.wireguard"
    # h1 knows h2 alone: nobody else reaches it, and nothing pretends so
    assert not any(answer.ok for answer in meshkit.ping(mixed.world, "h3", "h1", timeout=2))


@first
def test_streams_begin(mixed: Mixed) -> None:
    """wireguard-go made h1's session, h2 makes h4's: each has to be renewed by who made it."""
    mixed.made_by_h2("h4")
    hosts = {name: mixed.world.lab.host(name) for name in ("h1", "h2", "h4")}
    mixed.began, mixed.handshakes = time.monotonic(), mixed.count_handshakes()
    for number, (a, b) in enumerate((("h1", "h2"), ("h2", "h1"), ("h2", "h4"), ("h4", "h2"))):
        stream = meshkit.TcpStream(hosts[a], hosts[b], mixed.ips[b], 7400 + number, 50_000)
        mixed.streams[f"{a}→{b}"] = stream


@last
def test_no_stream_notices_a_rekey(mixed: Mixed) -> None:
    assert len(mixed.streams) == 4, "begun by the test before"

    def renewed() -> bool:
        now = mixed.count_handshakes()
        return all(
            now[host][made] > mixed.handshakes[host][made] for host, made in (("h1", "made"), ("h4", "answered"))
        )

    until(renewed, max(5.0, mixed.began + REKEY_AFTER + 20 - time.monotonic()), "both sessions renewed")
    for name, stream in mixed.streams.items():
        seen = stream.end()
        assert seen.longest() < REKEY_TIMEOUT, f"{name}: {seen.stalls}"
    took = time.monotonic() - mixed.began
    now = mixed.count_handshakes()
    for host in ("h1", "h4"):
        more = sum(now[host].values()) - sum(mixed.handshakes[host].values())
        assert more <= took / REKEY_AFTER + 1, f"{host} made {more} new sessions in {took:.0f} s"
    for host in ("h1", "h4"):
        mixed.both_ways(host, "h2")
        assert mixed.way(host) == ("direct", "direct.wireguard")
