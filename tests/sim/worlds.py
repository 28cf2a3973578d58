"""The two big worlds: B, 200 nodes with FAKE ciphers (`fake_crypto`, `FakeAead`), and A, 30 nodes with real ones."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise

from fake_crypto import Fake
from simnat import punchable
from simworld import Host, Site, World

from shadowmesh.dataplane.aead import FakeAead

MIX = (  # the lab's NAT types, most of them homes
    "none", "full_cone", "address_restricted", "port_restricted", "port_restricted", "port_restricted", "symmetric",
    "cgnat", "hairpin", "udp_blocked",
)  # fmt: skip


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


def converse(
    world: World, pairs: list[tuple[Host, Host]], *, every: float, talk: float, pause: float, until: float
) -> None:
    """Pairs talk for a while, both ways, and fall silent for a while, each at times of its own."""
    for a, b in pairs:
        at = world.time + world.rng.uniform(0, 20)
        while at < until - 30:
            end = min(at + talk, until)
            world.conversations.append((a, b, at, end))
            for src, dst in ((a, b), (b, a)):
                start = at + world.rng.uniform(0, every)
                count = int((end - start) / every)
                world.at(start, world._stream, src, dst, every, count)
            at = end + pause * world.rng.uniform(0.5, 1.5)


def check(world: World, *, silence: float = 10.0) -> None:
    """No double delivery, no pair silent for over `silence` seconds while it talks, every punchable pair direct.

    With loss, packets of one direction may fall out in a row by chance alone; so a direction gets twice the time of
    the pair. A failure tells the story of the first pair that shows it.
    """
    problems: list[tuple[Host, Host, str]] = []
    by_pair: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for a, b, start, end in world.conversations:
        by_pair.setdefault((a.name, b.name), []).append((start, end))
    for (name_a, name_b), times in by_pair.items():
        a, b = world.hosts[name_a], world.hosts[name_b]
        forth, back = (sorted(world.flow(x, y).received.values()) for x, y in ((a, b), (b, a)))
        for start, end in times:
            for heard, limit, who in (
                (sorted(forth + back), silence, f"{a.name} ↔ {b.name}"),
                (forth, 2 * silence, f"{a.name} → {b.name}"),
                (back, 2 * silence, f"{b.name} → {a.name}"),
            ):
                within = heard[bisect_left(heard, start) : bisect_right(heard, end)]
                gap, before = max(((y - x, y) for x, y in pairwise([start, *within, end])), default=(0.0, 0.0))
                if gap > limit:
                    problems.append((a, b, f"{who} silent for {gap:.1f} s before {before:.1f}"))
        for src, dst in ((a, b), (b, a)):
            flow = world.flow(src, dst)
            if flow.doubled:
                problems.append((a, b, f"{len(flow.doubled)} packets {src.name} → {dst.name} delivered twice"))
            state = src.to(dst)
            talking = times[-1][1] >= world.time - 5.0
            if talking and punchable(a.site.kind, b.site.kind) and state.path != "direct":
                problems.append((a, b, f"{src.name} → {dst.name} is {state.path} ({state.reason})"))
            if not flow.received:
                problems.append((a, b, f"{src.name} → {dst.name}: nothing ever arrived"))
    if problems:
        a, b, _ = problems[0]
        lines = "\n".join(text for _, _, text in problems[:20])
        raise AssertionError(f"{len(problems)} problems with seed {world.seed}:\n{lines}\n\n{world.story(a, b)}")


def world_b(seed: int, *, count: int = 200, minutes: float = 30.0) -> tuple[World, list[tuple[Host, Host]]]:
    """FAKE CIPHERS. Each host talks with 5 others (two minutes on, about three off, so that sleep and waking of paths are
    in it), 2 % loss, 5 NAT restarts, one rotation."""
    world = World(seed, primitives=Fake(seed), aead=FakeAead, loss=0.02)
    return world, _fill(world, count=count, minutes=minutes, talk=120.0, pause=180.0)


def world_a(seed: int, *, count: int = 30, minutes: float = 6.0) -> tuple[World, list[tuple[Host, Host]]]:
    """Real cryptography, otherwise the same in small."""
    world = World(seed, loss=0.02)
    return world, _fill(world, count=count, minutes=minutes, talk=200.0, pause=30.0)


def _fill(world: World, *, count: int, minutes: float, talk: float, pause: float) -> list[tuple[Host, Host]]:
    hosts = populate(world, count, relays=2)
    world.start()
    world.run(3.0)
    seconds = minutes * 60.0
    pairs = regular_pairs(world, hosts, 5)
    converse(world, pairs, every=3.3, talk=talk, pause=pause, until=world.time + seconds)
    routers = [s for s in world.sites.values() if s.nats and s.udp_out]
    for i in range(5):
        site = world.rng.choice(routers)
        new_ip = f"198.18.200.{i + 1}" if i % 2 else None
        world.after(seconds * (i + 1) / 7, _restart, world, site, new_ip)
    world.after(seconds / 2, world.controller.rotate)
    return pairs


def _restart(world: World, site: Site, new_ip: str | None) -> None:
    site.restart(world, new_ip=new_ip)
