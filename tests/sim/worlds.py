"""The two big worlds: B, 200 nodes with FAKE ciphers (`fake_crypto`, `FakeAead`), and A, 30 nodes with real ones."""

from __future__ import annotations

from simnat import punchable
from simworld import Host, World

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


def talk(world: World, pairs: list[tuple[Host, Host]], every: float, until: float) -> None:
    """Each pair sends both ways, one packet each `every` seconds, begun at random within the first of them."""
    for a, b in pairs:
        for src, dst in ((a, b), (b, a)):
            start = world.rng.uniform(0, every)
            count = int((until - world.time - start) / every)
            world.after(start, world._stream, src, dst, every, count)


def check(world: World, pairs: list[tuple[Host, Host]], *, silence: float = 10.0) -> None:
    """No double delivery, no pair silent for over `silence` seconds, every punchable pair direct.

    A failure tells the story of the first pair that shows it.
    """
    problems: list[tuple[Host, Host, str]] = []
    for a, b in pairs:
        for src, dst in ((a, b), (b, a)):
            flow = world.flow(src, dst)
            end_gap = world.time - flow.last_at
            if flow.doubled:
                problems.append((a, b, f"{len(flow.doubled)} packets {src.name} → {dst.name} delivered twice"))
            if flow.worst_gap > silence or end_gap > silence:
                gap = f"{flow.worst_gap:.1f} s before {flow.worst_gap_at:.1f}, {end_gap:.1f} s at the end"
                problems.append((a, b, f"{src.name} → {dst.name} silent: {gap}"))
            state = src.to(dst)
            if punchable(a.site.kind, b.site.kind) and state.path != "direct":
                problems.append((a, b, f"{src.name} → {dst.name} is {state.path} ({state.reason})"))
            if not flow.received:
                problems.append((a, b, f"{src.name} → {dst.name}: nothing ever arrived"))
    if problems:
        a, b, _ = problems[0]
        lines = "\n".join(text for _, _, text in problems[:20])
        raise AssertionError(f"{len(problems)} problems with seed {world.seed}:\n{lines}\n\n{world.story(a, b)}")
