"""Links that drop long packets, or fragments, without a word (RFC 2923's black holes): TCP flows within 5 s, on every way, with both pumps."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from shadowmesh.dataplane.pumps import native_built
from shadowmesh.lab import netns
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World
from shadowmesh.model.status import PeerStatus

pytestmark = pytest.mark.lab

BOUND = 5.0
SIZE = 300_000
PORT = 7100


class Mesh:
    """h1 and h2 with IPv4 and IPv6; what is dropped between them is set by nft in their own namespaces."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ips = world.mesh()

    def peer(self, host: str) -> PeerStatus:
        (network,) = self.world.client(host).status().networks
        return network.peers[0]

    @contextmanager
    def dropping(self, *rules: str) -> Iterator[None]:
        """Packets from outside that match one of these are dropped on both hosts."""
        lines = "\n".join(("type filter hook prerouting priority -450", *(f"{rule} drop" for rule in rules)))
        namespaces = [self.world.lab.state.namespace(h) for h in ("h1", "h2")]
        for name in namespaces:
            netns.run_nft(name, f"table inet test {{\nchain in {{\n{lines}\n}}\n}}\n")
        try:
            yield
        finally:
            for name in namespaces:
                netns.run_nft(name, "delete table inet test")

    def until(self, path: str, ipv6: bool) -> None:
        """Until both ends see the path so, as long as one of them speaks."""
        deadline = time.monotonic() + 30.0

        def there(peer: PeerStatus) -> bool:
            return peer.path == path and (path != "direct" or (peer.endpoint or "").startswith("[") == ipv6)

        while not all(there(self.peer(h)) for h in ("h1", "h2")):
            assert time.monotonic() < deadline, (self.peer("h1"), self.peer("h2"))
            self.world.lab.host("h1").exec(["ping", "-c", "1", "-W", "0.3", self.ips["h2"]], check=False)

    def transfer(self, source: str, target: str) -> float:
        """Seconds until a few hundred kilobytes came through one new TCP connection."""
        hosts = self.world.lab.host(source), self.world.lab.host(target)
        with ExitStack() as stack:
            server = stack.enter_context(
                closing(hosts[1].run_in(lambda: socket.create_server((self.ips[target], PORT))))
            )
            began = time.monotonic()
            client = stack.enter_context(
                closing(hosts[0].run_in(lambda: socket.create_connection((self.ips[target], PORT), timeout=30)))
            )
            server.settimeout(30)
            taken = stack.enter_context(closing(server.accept()[0]))
            taken.settimeout(30)
            client.setblocking(False)
            got, left = 0, memoryview(bytes(SIZE))
            while got < SIZE:
                if left:
                    with suppress(BlockingIOError):
                        left = left[client.send(left) :]
                taken.settimeout(0.05 if left else 30)
                try:
                    got += len(taken.recv(1 << 16))
                except TimeoutError:
                    assert time.monotonic() - began < 30, f"{got} bytes in 30 s"
            return time.monotonic() - began


@pytest.fixture(scope="module", params=["python", "native"])
def mesh(request: pytest.FixtureRequest, module_lab_factory) -> Iterator[Mesh]:
    if request.param == "native" and not native_built():
        pytest.skip("the native pump isn't built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWMESH_PUMP", request.param)
        sites = (SiteSpec(), SiteSpec())
        yield Mesh(World(module_lab_factory(LabSpec(sites=sites, relays=1, controllers=1, ipv6=True))))


@pytest.mark.parametrize("link", [1400, 1340, 1280])
def test_tcp_flows_over_a_narrow_ipv6_link(mesh: Mesh, link: int) -> None:
    with mesh.dropping("meta l4proto udp ip saddr 45.0.0.0/8"):
        mesh.until("direct", ipv6=True)
        mesh.world.lab.mtu("s2", link)
        try:
            assert mesh.transfer("h1", "h2") < BOUND + 3.0  # it narrowed a moment ago
            assert mesh.transfer("h1", "h2") < BOUND and mesh.transfer("h2", "h1") < BOUND
            assert mesh.peer("h1").mtu == link - 80
            assert f"packets of {link - 80} bytes" in mesh.world.run("h1", "why", "h2").stdout.replace("\n", " ")
        finally:
            mesh.world.lab.mtu("s2", None)


def test_tcp_flows_where_fragments_are_dropped(mesh: Mesh) -> None:
    mesh.world.lab.mtu("s2", 1300)
    try:
        with mesh.dropping("ip frag-off & 0x3fff != 0", "meta nfproto ipv6 meta l4proto udp"):
            mesh.until("direct", ipv6=False)
            mesh.transfer("h1", "h2")
            assert mesh.transfer("h1", "h2") < BOUND and mesh.transfer("h2", "h1") < BOUND
    finally:
        mesh.world.lab.mtu("s2", None)


def test_tcp_flows_through_a_relay_that_long_datagrams_dont_reach(mesh: Mesh) -> None:
    mesh.world.lab.mtu("s2", 1300)
    mesh.world.lab.cut("h1", "h2")
    try:
        with mesh.dropping("ip frag-off & 0x3fff != 0"):
            mesh.until("relay", ipv6=False)
            mesh.transfer("h1", "h2")
            assert mesh.transfer("h1", "h2") < BOUND and mesh.transfer("h2", "h1") < BOUND
            assert mesh.peer("h1").mtu is not None
    finally:
        mesh.world.lab.heal()
