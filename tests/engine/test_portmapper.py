"""The port mapper against a simulated router, in virtual time."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from simrouter import CLIENT, NAT_PMP, PCP, SimRouter

from shadowmesh.engine.portmapper import (
    LIFETIME,
    LONGEST,
    RENEW_SOONEST,
    RETRY,
    RETRY_SOONEST,
    SEARCH,
    MappingProblem,
    MappingProtocol,
    PortMapper,
    PortWish,
)
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now

GATEWAY = SockAddr("192.168.1.1", 5351)
WISH = PortWish(IPv4Address("192.168.1.1"), CLIENT, 41641)


class House:
    """A mapper, its router, and the time."""

    def __init__(self, router: SimRouter, seed: int = 1) -> None:
        self.router = router
        self.at = 1000.0
        self.mapper = PortMapper(b"twelve bytes", random.Random(seed))

    @property
    def now(self) -> Now:
        return Now(self.at, 1.7e9 + self.at)

    def aim(self, wish: PortWish | None = WISH) -> None:
        self.mapper.aim(wish, self.now)
        self.settle()
        self.run(0.0)

    def settle(self) -> None:
        while requests := self.mapper.take_requests():
            for request in requests:
                answer = self.router.answers(request, self.at)
                if answer is not None:
                    self.mapper.heard(answer, GATEWAY, self.now)

    def run(self, seconds: float) -> None:
        end = self.at + seconds
        while (due := self.mapper.deadline()) <= end:
            assert due >= self.at - 1e-6, "time goes on"
            self.at = max(self.at, due)
            self.mapper.on_timer(self.now)
            self.settle()
        self.at = end

    @property
    def sent(self) -> list[float]:
        return [at for at, _ in self.router.asked]


def house(**router: object) -> House:
    made = House(SimRouter(**router))  # type: ignore[arg-type]
    made.aim()
    return made


@pytest.mark.parametrize(
    ("speaks", "protocol"),
    [({PCP, NAT_PMP}, PCP), ({PCP}, PCP), ({NAT_PMP}, NAT_PMP)],
)
def test_a_port_is_opened_by_what_the_router_speaks(speaks: set[MappingProtocol], protocol: MappingProtocol) -> None:
    there = house(speaks=speaks)
    mapping = there.mapper.mapping
    assert mapping is not None
    assert (mapping.outside, mapping.protocol) == (SockAddr("45.1.2.3", 41641), protocol)
    assert mapping.expires == pytest.approx(there.at + LIFETIME)
    assert there.mapper.problem is None


def test_a_router_of_before_that_is_silent_to_pcp_is_asked_by_nat_pmp_a_second_later() -> None:
    there = house(speaks=set())
    there.run(0.9)
    there.router.speaks = {NAT_PMP}
    there.router.answers = lambda request, now: (
        None if request[0] == 2 else SimRouter.answers(there.router, request, now)
    )  # type: ignore[method-assign]
    there.run(0.2)
    assert there.mapper.mapping is not None and there.mapper.mapping.protocol is NAT_PMP


def test_it_is_renewed_at_half_its_life_and_stays_for_days_with_few_requests() -> None:
    there = house(speaks={PCP})
    first = there.sent[-1]
    there.run(LIFETIME * 0.49)
    assert there.sent[-1] == first
    there.run(LIFETIME * 0.14)
    assert LIFETIME * 0.5 <= there.sent[-1] - first <= LIFETIME * 0.625
    there.run(3 * 86400)
    assert there.mapper.mapping is not None and there.mapper.mapping.expires > there.at
    assert len(there.sent) <= 3 * 86400 / (LIFETIME / 2) + 3


def test_a_router_that_is_away_is_asked_more_often_towards_the_end_and_then_looked_for_anew() -> None:
    there = house(speaks={PCP})
    there.router.speaks = set()
    there.run(LIFETIME - 1)
    assert there.mapper.mapping is not None, "it holds as long as it was promised"
    renewals = [at for at in there.sent if at > 1000.0]
    assert 5 <= len(renewals) <= 15
    assert min(b - a for a, b in pairwise(renewals)) >= RENEW_SOONEST
    there.run(2)
    assert there.mapper.mapping is None
    there.run(SEARCH)
    assert there.mapper.problem is MappingProblem.SILENT
    there.router.speaks = {PCP}
    there.run(RETRY)
    assert there.mapper.mapping is not None and there.mapper.problem is None


@pytest.mark.parametrize("protocol", [PCP, NAT_PMP])
def test_a_router_that_restarted_is_asked_anew_once_it_shows(protocol: MappingProtocol) -> None:
    there = house(speaks={protocol})
    there.run(100)
    there.router.restart(there.at)
    announced = (
        struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 1)
        if protocol is PCP
        else struct.pack("!BBHI", 0, 128, 0, 1) + IPv4Address("45.1.2.3").packed
    )
    there.mapper.heard(announced, GATEWAY, there.now)
    there.run(2.1)
    assert there.router.open[41641][0] == 41641, "the same port, as that was suggested"
    before = len(there.router.asked)
    for n in range(1000):  # one who makes it up again and again
        there.mapper.heard(announced, GATEWAY, there.now)
        there.run(0.1)
        there.router.born = there.at - (n % 2) * 10_000
    assert len(there.router.asked) - before <= 2 * (100 / RENEW_SOONEST + 2)


@pytest.mark.parametrize("outer", ["192.168.0.2", "100.64.3.4", "10.0.0.1", "0.0.0.0", "127.0.0.1", "203.0.113.5"])
@pytest.mark.parametrize("protocol", [PCP, NAT_PMP])
def test_an_address_that_is_not_public_is_no_way_in(outer: str, protocol: MappingProtocol) -> None:
    there = house(speaks={protocol}, outer=outer)
    assert there.mapper.mapping is None and there.mapper.problem is MappingProblem.DOUBLE_NAT
    assert there.router.open == {}, "it is given back"
    there.router.outer = "45.1.2.3"
    there.run(RETRY)
    assert there.mapper.mapping is not None


def test_both_refuse_and_are_left_alone_for_as_long_as_they_say_within_reason() -> None:
    for says, waits in ((1, RETRY_SOONEST), (600, 600.0), (2**32 - 1, RETRY)):
        there = house(refuses=2, error_lifetime=says)
        there.run(SEARCH)
        assert there.mapper.problem is MappingProblem.REFUSED and there.mapper.mapping is None
        last = there.sent[-1]
        there.run(RETRY + SEARCH)
        again = next(at for at in there.sent if at > last)
        # the last to refuse was NAT-PMP, which names no time
        assert again - last <= RETRY + 1 and again - last >= min(waits, RETRY_SOONEST) - 1


def test_what_is_not_asked_for_is_not_believed() -> None:
    there = house(speaks=set())
    router = SimRouter()
    (first, *_) = there.router.asked
    good = router.answers(first[1], there.at)
    assert good is not None
    for data, source in (
        (good, SockAddr("192.168.1.2", 5351)),
        (good, SockAddr("192.168.1.1", 5350)),
        (good[:24] + b"another host" + good[36:], GATEWAY),
        (good[:40] + b"\0\1" + good[42:], GATEWAY),
        (good[:-1], GATEWAY),
        (b"", GATEWAY),
        (b"\0", GATEWAY),
    ):
        there.mapper.heard(data, source, there.now)
        assert there.mapper.mapping is None and there.mapper.problem is None
    there.mapper.heard(good, GATEWAY, there.now)
    assert there.mapper.mapping is not None


@pytest.mark.parametrize("most", [1, 3, 120])
def test_short_lives_and_endless_ones_are_bounded(most: int) -> None:
    there = house(speaks={PCP}, most=most)
    there.run(600)
    assert len(there.sent) <= 600 / min(RENEW_SOONEST, most) + 600 / RENEW_SOONEST + 5
    endless = house(speaks={PCP})
    endless.router.answers = lambda request, now: forever(SimRouter.answers(endless.router, request, now))  # type: ignore[method-assign]
    endless.run(LIFETIME)
    mapping = endless.mapper.mapping
    assert mapping is not None and mapping.expires <= endless.at + LONGEST


def forever(answer: bytes | None) -> bytes | None:
    return None if answer is None else answer[:4] + b"\xff" * 4 + answer[8:]


def test_another_port_or_gateway_begins_anew_and_the_end_gives_back() -> None:
    there = house(speaks={PCP}, port=50_000)
    assert there.mapper.mapping is not None and there.mapper.mapping.outside.port == 50_000
    there.aim(PortWish(WISH.gateway, WISH.client, 41_642))
    assert set(there.router.open) == {41_642}
    asked = len(there.router.asked)
    there.aim(PortWish(WISH.gateway, WISH.client, 41_642))
    assert len(there.router.asked) == asked, "the same wish changes nothing"
    there.aim(None)
    assert there.router.open == {} and there.mapper.mapping is None
    assert there.mapper.deadline() == float("inf")
    there.run(10 * RETRY)
    assert len(there.router.asked) == asked + 1


def test_no_sequence_of_datagrams_breaks_it_or_makes_it_talk_without_end() -> None:
    rng = random.Random(7)
    there = house(speaks={PCP, NAT_PMP})
    seen: list[bytes] = []
    for _ in range(3000):
        router = SimRouter(outer=rng.choice(("45.1.2.3", "10.0.0.1")), born=rng.uniform(-9e9, there.at), refuses=rng.choice((0, 0, 2, 12)))  # fmt: skip
        request = rng.choice(there.router.asked)[1]
        answer = bytearray(router.answers(request, there.at) or b"\0" * 8)
        for _ in range(rng.randrange(3)):
            answer[rng.randrange(len(answer))] = rng.randrange(256)
        seen.append(bytes(answer))
        there.mapper.heard(bytes(rng.choice(seen)), GATEWAY, there.now)
        there.run(rng.uniform(0.0, 1.0))
    assert len(there.sent) <= 1500, "half an hour of lies"
