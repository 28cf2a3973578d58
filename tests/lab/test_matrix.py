"""Every pair of NAT types talks; whom punching can bring together is direct within 15 s, the others know why they aren't.

One world of nine sites, 36 pairs. Controller and relay stand on port 443 and speak TLS, as sites with HTTPS alone reach nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from meshkit import Feed
from relay_certificate import self_signed

from shadowmesh.lab.conversations import Conversations, transfer
from shadowmesh.lab.matrix import Ease, Reach, ease, reach
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab

TYPES = (
    NatType.NONE,
    NatType.FULL_CONE,
    NatType.ADDRESS_RESTRICTED,
    NatType.PORT_RESTRICTED,
    NatType.SYMMETRIC,
    NatType.SYMMETRIC_SEQUENTIAL,
    NatType.CGNAT,
    NatType.UDP_BLOCKED,
    NatType.HTTPS_ONLY,
)
NATS = {f"h{n}": nat for n, nat in enumerate(TYPES, 1)}
PAIRS = list(combinations(NATS, 2))


def relayed_because(a: str, b: str) -> str:
    """The reason that a pair without a direct path has to name in the end."""
    pair = {ease(NATS[a]), ease(NATS[b])}
    if Ease.CLOSED in pair:
        return "relay.udp_blocked"
    return "relay.both_symmetric" if pair == {Ease.SYMMETRIC} else "relay.symmetric_port_restricted"


class Talk:
    """The mesh with a conversation between every pair, and when it began."""

    def __init__(self, world: World, addresses: dict[str, str], feed: Feed, conversations: Conversations) -> None:
        self.world = world
        self.addresses = addresses
        self.feed = feed
        self.conversations = conversations

    def until(self, check: Callable[[], bool], what: str, *, within: float) -> float:
        """Waits until it is true at most `within` seconds after the traffic began; returns the seconds since then."""
        at = self.feed.until(check, max(0.0, self.conversations.began + within - time.monotonic()), what)
        return at - self.conversations.began

    def reasons(self, a: str, b: str) -> set[str]:
        return {p.reason for ends in ((a, b), (b, a)) if (p := self.feed.peer(*ends)) is not None}

    def paths(self, a: str, b: str) -> set[str]:
        return {p.path for ends in ((a, b), (b, a)) if (p := self.feed.peer(*ends)) is not None}


@pytest.fixture(scope="module")
def talk(module_lab_factory, tmp_path_factory) -> Iterator[Talk]:
    lab = module_lab_factory(LabSpec(sites=tuple(SiteSpec(nat=nat) for nat in TYPES), relays=1, controllers=1))
    certificate = self_signed(ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("certificate"))
    world = World(lab, controller_port=443, relay_port=443, relay_certificate=certificate)
    addresses = world.mesh()
    with Feed(world, list(addresses)) as feed:
        feed.until(lambda: all(feed.network(host) is not None for host in NATS), 10, "all daemons speak")
        with Conversations({host: lab.host(host) for host in NATS}, addresses) as conversations:
            yield Talk(world, addresses, feed, conversations)


def test_every_pair_talks(talk: Talk, told) -> None:
    pairs = talk.conversations.pairs
    talk.until(lambda: all(c.first_answer is not None for c in pairs.values()), "every pair talks", within=20)
    first = sorted((c.first_answer or 0.0, pair) for pair, c in pairs.items())
    told("first answer over TCP, s: median, worst", (round(first[len(first) // 2][0], 2), first[-1]))


def test_punchable_pairs_are_direct_within_15_s(talk: Talk, told) -> None:
    punchable = [pair for pair in PAIRS if reach(NATS[pair[0]], NATS[pair[1]]) is Reach.DIRECT]
    assert len(punchable) == 16
    took = talk.until(lambda: all(talk.paths(*pair) == {"direct"} for pair in punchable), "all direct", within=15)
    told("all direct after, s", round(took, 2))


def test_other_pairs_name_the_final_reason_soon(talk: Talk, told) -> None:
    others = [pair for pair in PAIRS if reach(NATS[pair[0]], NATS[pair[1]]) is not Reach.DIRECT]
    assert {relayed_because(*pair) for pair in others} == {
        "relay.udp_blocked",
        "relay.both_symmetric",
        "relay.symmetric_port_restricted",
    }
    took = talk.until(
        lambda: all(talk.reasons(*pair) == {relayed_because(*pair)} for pair in others), "all know why", within=15
    )
    told("all know why after, s", round(took, 2))
    assert all(talk.paths(*pair) == {"relay"} for pair in others)


def test_each_knows_its_nat(talk: Talk) -> None:
    for host, nat in NATS.items():
        told = talk.world.status(host).nat.type
        # what lets everybody in can be told from what lets known hosts in by a server never sent to alone: there is none
        assert told == nat.reported or (nat is NatType.FULL_CONE and told == "restricted"), host


def test_nobodys_connection_broke_and_both_transports_of_the_relay_carry(talk: Talk, told) -> None:
    assert {pair: c.broken for pair, c in talk.conversations.pairs.items() if c.broken} == {}
    for a, b in (("h5", "h6"), ("h8", "h9")):
        sent = transfer(talk.world.lab.host(a), talk.world.lab.host(b), talk.addresses[b], seconds=1)
        assert sent.intact
        told(f"{NATS[a]} to {NATS[b]}, Mbit/s", round(sent.mbit, 1))
