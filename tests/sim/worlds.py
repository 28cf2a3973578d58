"""The two big worlds: B, 200 nodes with FAKE ciphers (`fake_crypto`, `FakeAead`), and A, 30 nodes with real ones."""

from __future__ import annotations

from closed import ownerless
from fake_crypto import Fake
from simnat import punchable
from simworld import Host, Site, World

from shadowmesh.dataplane.aead import FakeAead

MIX = (  # the lab's NAT types, most of them homes
    "none", "full_cone", "address_restricted", "port_restricted", "port_restricted", "port_restricted", "symmetric",
    "cgnat", "hairpin", "udp_blocked",
)  # fmt: skip

EVERY = 4.5  # seconds between two packets of a sender
AGAIN = 1.0  # seconds after which a packet that didn't arrive is followed by another, as TCP would
PACE = 1.95  # the same in conversations: for chance alone to silence a pair for 10 s, it has to take 5 in a row
BURST = 8  # packets at once …
BURST_EACH = 600.0  # … from each sender once in so many seconds


def regular_pairs(world: World, hosts: list[Host], degree: int) -> list[tuple[Host, Host]]:
    """A random graph in which each host talks with `degree` others, both ways."""
    count = len(hosts)
    while True:
        stubs = [i for i in range(count) for _ in range(degree)]
        world.rng.shuffle(stubs)
        pairs = {(min(a, b), max(a, b)) for a, b in zip(stubs[::2], stubs[1::2], strict=True) if a != b}
        if len(pairs) >= count * degree // 2 - 8:
            break
    degrees = [0] * count
    for a, b in pairs:
        degrees[a] += 1
        degrees[b] += 1
    lacking = [i for i in range(count) for _ in range(degree - degrees[i])]
    for a in lacking:  # what the draw left over: to the next one that fits
        if degrees[a] >= degree:
            continue
        b = next((i for i in range(count) if i != a and (min(a, i), max(a, i)) not in pairs), a)
        pairs.add((min(a, b), max(a, b)))
        degrees[a] += 1
        degrees[b] += 1
    return [(hosts[a], hosts[b]) for a, b in sorted(pairs)]


def populate(world: World, count: int, relays: int) -> list[Host]:
    for i in range(relays):
        world.relay(f"relay{i + 1}")
    kinds = [MIX[i % len(MIX)] for i in range(count)]
    world.rng.shuffle(kinds)
    return [world.host(f"n{i}", kind) for i, kind in enumerate(kinds)]


def send_throughout(world: World, pairs: list[tuple[Host, Host]], until: float) -> None:
    """Each host sends to each of its others until the end: a packet each EVERY seconds, each AGAIN seconds while nothing
    arrives (so a lossy link alone can't silence a pair for long), and now and then a burst."""
    rng = world.rng
    for a, b in pairs:
        for src, dst in ((a, b), (b, a)):
            start = world.time + rng.uniform(0.0, EVERY)
            world.at(start, _send, world, src, dst, until)
            for _ in range(int((until - start) / BURST_EACH)):
                world.at(rng.uniform(start, until), _burst, world, src, dst, BURST)


def _send(world: World, src: Host, dst: Host, until: float) -> None:
    world.send(src, dst)
    world.after(AGAIN, _look, world, src, dst, until)


def _look(world: World, src: Host, dst: Host, until: float) -> None:
    if not world.flow(src, dst).all_arrived:
        _send(world, src, dst, until)
    elif world.time + EVERY - AGAIN < until:
        world.after(EVERY - AGAIN, _send, world, src, dst, until)


def _burst(world: World, src: Host, dst: Host, left: int) -> None:
    world.send(src, dst)
    if left > 1:
        world.after(0.01, _burst, world, src, dst, left - 1)


def converse(world: World, pairs: list[tuple[Host, Host]], until: float) -> None:
    """Pairs talk for two minutes, both ways, and are silent for one to five, each at times of its own, so that paths
    fall asleep, wake, and are forgotten."""
    rng = world.rng
    for a, b in pairs:
        at = world.time + rng.uniform(0.0, 20.0)
        while at < until - 60.0:
            end = min(at + 120.0, until)
            for src, dst in ((a, b), (b, a)):
                start = at + rng.uniform(0.0, PACE)
                world.at(start, world.stream, src, dst, PACE, int((end - start) / PACE))
            at = end + rng.uniform(60.0, 340.0)


def check(world: World, pairs: list[tuple[Host, Host]], *, silence: float = 10.0, talking: bool = True) -> None:
    """No double delivery; no pair, in either direction, silent for over `silence` seconds while it sends; if they are
    `talking` now, every punchable pair direct, seen from both sides. A failure tells the story of the first pair."""
    problems: list[tuple[Host, Host, str]] = []
    for host in world.hosts.values():
        assert not ownerless(host.node), f"{host.name} has timers without an owner"
    for x, y in pairs:
        for src, dst in ((x, y), (y, x)):
            flow, who = world.flow(src, dst), f"{src.name} → {dst.name}"
            flow.pause(world.time)
            if flow.silence > silence:
                problems.append((x, y, f"{who} silent for {flow.silence:.1f} s before {flow.silence_at:.1f}"))
            if flow.doubled:
                problems.append((x, y, f"{len(flow.doubled)} packets {who} delivered twice"))
            if not flow.received:
                problems.append((x, y, f"{who}: nothing ever arrived"))
            state = src.to(dst)
            if talking and punchable(src.site.kind, dst.site.kind) and state.path != "direct":
                problems.append((x, y, f"{who} is {state.path} ({state.reason})"))
    if problems:
        a, b, _ = problems[0]
        lines = "\n".join(text for _, _, text in problems[:20])
        raise AssertionError(f"{len(problems)} problems with seed {world.seed}:\n{lines}\n\n{world.story(a, b)}")


def world_b(seed: int, *, count: int = 200, minutes: float = 30.0) -> tuple[World, list[tuple[Host, Host]]]:
    """FAKE CIPHERS. Each host sends to 5 others all the time; 2 % loss, 5 NAT restarts, one rotation."""
    world = World(seed, primitives=Fake(seed), aead=FakeAead, loss=0.02)
    pairs = _fill(world, count=count, minutes=minutes)
    send_throughout(world, pairs, world.time + minutes * 60.0)
    return world, pairs


def world_a(seed: int, *, count: int = 30, minutes: float = 6.0) -> tuple[World, list[tuple[Host, Host]]]:
    """Real cryptography, otherwise the same in small."""
    world = World(seed, loss=0.02)
    pairs = _fill(world, count=count, minutes=minutes)
    send_throughout(world, pairs, world.time + minutes * 60.0)
    return world, pairs


def world_with_pauses(seed: int, *, count: int = 20, minutes: float = 15.0) -> tuple[World, list[tuple[Host, Host]]]:
    """FAKE CIPHERS. Conversations with pauses between them, under the same faults."""
    world = World(seed, primitives=Fake(seed), aead=FakeAead, loss=0.02)
    pairs = _fill(world, count=count, minutes=minutes)
    converse(world, pairs, world.time + minutes * 60.0)
    return world, pairs


def _fill(world: World, *, count: int, minutes: float) -> list[tuple[Host, Host]]:
    hosts = populate(world, count, relays=2)
    world.start()
    world.run(3.0)
    seconds = minutes * 60.0
    pairs = regular_pairs(world, hosts, 5)
    routers = [s for s in world.sites.values() if s.nats and s.udp_out]
    for i in range(5):
        site = world.rng.choice(routers)
        new_ip = f"198.18.200.{i + 1}" if i % 2 else None
        world.after(seconds * (i + 1) / 7, _restart, world, site, new_ip)
    world.after(seconds / 2, world.controller.rotate)
    return pairs


def _restart(world: World, site: Site, new_ip: str | None) -> None:
    site.restart(world, new_ip=new_ip)
