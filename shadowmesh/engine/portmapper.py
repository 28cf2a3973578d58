"""A port that the home router opens on request: asked for by PCP (RFC 6887) or NAT-PMP (RFC 6886), renewed, and given back.

Sans-I/O. In come the gateway and the datagrams of its port `natpmp.SERVER_PORT`, out go requests to it and, while there is one, the
mapping: a candidate like others, which counts once a peer's probe came through it. A router isn't authenticated: whatever it says
is bounded, and it can make this host send one small request each few seconds at most.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from math import inf
from typing import Final

from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol.natpmp import (
    SERVER_PORT,
    NatPmpAddress,
    NatPmpMapping,
    NatPmpRefused,
    NatPmpResult,
    address_request,
    mapping_request,
    parse_nat_pmp,
    restarted,
)
from shadowmesh.protocol.pcp import (
    NONCE_SIZE,
    PcpAnnounce,
    PcpMapping,
    PcpRefused,
    PcpResult,
    PcpVersionRefused,
    map_request,
    parse_pcp,
    state_lost,
)

LIFETIME: Final = 7200  # seconds asked for (RFC 6886, section 3.3)
LONGEST: Final = 86400  # that is believed (RFC 6887, section 15)
SEARCH: Final = 32.0  # seconds until a silent gateway is left alone
RETRY: Final = 1800.0  # seconds until it is asked anew, as after a refusal
RETRY_SOONEST: Final = 30.0  # after a refusal, whatever lifetime that has
RENEW_SOONEST: Final = 4.0  # between two requests for a mapping that is there (RFC 6887, section 11.2.1)


class MappingProtocol(StrEnum):
    PCP = "pcp"
    NAT_PMP = "nat-pmp"


class MappingProblem(StrEnum):
    """Why there is no mapping, where one is wanted."""

    SILENT = "silent"  # the gateway speaks none of the protocols, or has them switched off
    REFUSED = "refused"
    DOUBLE_NAT = "double_nat"  # the gateway's outer address is no public one: another NAT is behind it


@dataclass(frozen=True, slots=True)
class PortWish:
    """`port` of this host's `client`, its address towards the `gateway`, shall be reachable."""

    gateway: IPv4Address
    client: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class PortMapping:
    """What comes to `outside` comes to the port, until `expires` (boot time) at least."""

    outside: SockAddr
    protocol: MappingProtocol
    expires: float


# Seconds from the search's begin. PCP comes first; a router of before answers it with its own version, and some with silence.
# NAT-PMP's pauses double from 250 ms (RFC 6886, section 3.1), PCP's from 3 s (RFC 6887, section 8.1.1).
_SCHEDULE: Final = (
    (0.0, MappingProtocol.PCP), (1.0, MappingProtocol.NAT_PMP), (1.25, MappingProtocol.NAT_PMP), (1.75, MappingProtocol.NAT_PMP),
    (2.75, MappingProtocol.NAT_PMP), (3.0, MappingProtocol.PCP), (4.75, MappingProtocol.NAT_PMP), (8.75, MappingProtocol.NAT_PMP),
    (9.0, MappingProtocol.PCP), (16.75, MappingProtocol.NAT_PMP), (21.0, MappingProtocol.PCP),
)  # fmt: skip


class PortMapper:
    """Looks for a mapping while there is a wish, and keeps it.

    `nonce`: by which PCP tells whose a mapping is, NONCE_SIZE bytes that others can't guess; the same after a crash, or what was
    left open would be another's. `rng`: for the moments of renewal.
    """

    def __init__(self, nonce: bytes, rng: random.Random) -> None:
        assert len(nonce) == NONCE_SIZE
        self._nonce = nonce
        self._rng = rng
        self._wish: PortWish | None = None
        self._requests: list[bytes] = []
        self._forget()

    def _forget(self) -> None:
        self.mapping: PortMapping | None = None
        self.problem: MappingProblem | None = None
        self._began = 0.0  # of the search
        self._step = len(_SCHEDULE)  # the next of it
        self._refused: set[MappingProtocol] = set()
        self._ends_at = self._again_at = self._renew_at = inf
        self._asked_at = -inf  # for the mapping that is there
        self._epoch: tuple[MappingProtocol, int, float] | None = None  # as heard last, and when
        self._outer: IPv4Address | None = None  # by NAT-PMP, which tells address and port by themselves
        self._opened: NatPmpMapping | None = None

    # what comes in

    def aim(self, wish: PortWish | None, now: Now) -> None:
        """What is wanted from now on; None: nothing. Another wish than before gives back what there was, as far as that gateway is
        the present one still."""
        if wish == self._wish:
            return
        requests: list[bytes] = []
        if self._wish is not None and (wish is None or wish.gateway == self._wish.gateway):
            self._give_back()
            requests = self._requests
        self._wish, self._requests = wish, requests
        self._forget()
        if wish is not None:
            self._search(now)

    def heard(self, data: bytes, source: SockAddr, now: Now) -> None:
        """A datagram. What isn't the gateway's, or no answer to what was asked, is passed over."""
        wish = self._wish
        if wish is None or source != SockAddr(str(wish.gateway), SERVER_PORT):
            return
        try:
            if data[:1] == b"\0":
                self._nat_pmp(parse_nat_pmp(data), wish, now)
            else:
                self._pcp(parse_pcp(data), wish, now)
        except MalformedError:
            return

    def closed(self, now: Now) -> None:
        """The gateway says that nobody listens there (an ICMP error, which may be late, or made up)."""
        if self._ends_at < inf and self.mapping is None and not self._refused:
            self._give_up(MappingProblem.SILENT, RETRY, now)

    def on_timer(self, now: Now) -> None:
        """What is due."""
        boot = now.boot
        if self._wish is None:
            return
        if self.mapping is not None and boot >= self.mapping.expires:
            self.mapping = None
            self._search(now)
        if boot >= self._again_at:
            self._search(now)
        while self._step < len(_SCHEDULE) and boot >= self._began + _SCHEDULE[self._step][0]:
            self._ask(_SCHEDULE[self._step][1])
            self._step += 1
        if boot >= self._ends_at:
            self._give_up(MappingProblem.REFUSED if self._refused else MappingProblem.SILENT, RETRY, now)
        if boot >= self._renew_at and self.mapping is not None:
            self._ask(self.mapping.protocol)
            self._asked_at = boot
            pause = max(RENEW_SOONEST, (self.mapping.expires - boot) / 2)
            self._renew_at = boot + pause if boot + pause < self.mapping.expires else inf

    # what goes out

    def take_requests(self) -> list[bytes]:
        """What is to be sent to the gateway's SERVER_PORT. After `aim(None)` once more: what is given back."""
        requests, self._requests = self._requests, []
        return requests

    def deadline(self) -> float:
        """Boot time at which `on_timer` has something to do; infinite where nothing is to come."""
        if self._wish is None:
            return inf
        step = self._began + _SCHEDULE[self._step][0] if self._step < len(_SCHEDULE) else inf
        expires = inf if self.mapping is None else self.mapping.expires
        return min(step, self._ends_at, self._again_at, self._renew_at, expires)

    # the search

    def _search(self, now: Now) -> None:
        self._began, self._step = now.boot, 0
        self._refused.clear()
        self._ends_at, self._again_at, self._renew_at = now.boot + SEARCH, inf, inf
        self._opened = self._outer = None

    def _found(self) -> None:
        self._step = len(_SCHEDULE)
        self._ends_at = self._again_at = inf

    def _give_up(self, problem: MappingProblem, pause: float, now: Now) -> None:
        self._found()
        self._renew_at = inf
        self.mapping, self.problem = None, problem
        self._again_at = now.boot + min(max(pause, RETRY_SOONEST), RETRY)

    def _ask(self, protocol: MappingProtocol, lifetime: int = LIFETIME) -> None:
        wish, mapping = self._wish, self.mapping
        if wish is None or protocol in self._refused:
            return
        port = wish.port if mapping is None else mapping.outside.port
        if protocol is MappingProtocol.PCP:
            address = None if mapping is None else IPv4Address(mapping.outside.host)
            self._requests.append(
                map_request(
                    wish.client, self._nonce, wish.port, suggested_port=port, suggested_address=address, lifetime=lifetime
                )
            )  # fmt: skip
            return
        if lifetime:
            self._requests.append(address_request())
        self._requests.append(mapping_request(wish.port, suggested_port=port, lifetime=lifetime))

    def _give_back(self) -> None:
        """Whatever may have been opened."""
        if self.mapping is not None:
            self._ask(self.mapping.protocol, 0)

    # the answers

    def _pcp(self, answer: PcpMapping | PcpAnnounce | PcpRefused | PcpVersionRefused, wish: PortWish, now: Now) -> None:
        if isinstance(answer, PcpVersionRefused):
            self._no(MappingProtocol.PCP, RETRY, now)
            return
        if isinstance(answer, PcpMapping | PcpRefused) and answer.nonce != self._nonce:
            return  # another host's, or made up
        self._note_epoch(MappingProtocol.PCP, answer.epoch, now)
        if isinstance(answer, PcpRefused):
            self._no(MappingProtocol.PCP, answer.lifetime, now, double_nat=answer.result == PcpResult.ADDRESS_MISMATCH)
        elif isinstance(answer, PcpMapping) and answer.internal_port == wish.port and answer.lifetime:
            self._open(MappingProtocol.PCP, answer.external_address, answer.external_port, answer.lifetime, now)

    def _nat_pmp(self, answer: NatPmpAddress | NatPmpMapping | NatPmpRefused, wish: PortWish, now: Now) -> None:
        if isinstance(answer, NatPmpRefused) and answer.result == NatPmpResult.UNSUPPORTED_VERSION:
            self._no(MappingProtocol.PCP, RETRY, now)  # that is how a router of NAT-PMP answers PCP
            return
        self._note_epoch(MappingProtocol.NAT_PMP, answer.epoch, now)
        if isinstance(answer, NatPmpRefused):
            self._no(MappingProtocol.NAT_PMP, RETRY, now)
            return
        if isinstance(answer, NatPmpAddress):
            self._outer = answer.address
        elif answer.internal_port == wish.port and answer.lifetime:
            self._opened = answer
        if self._outer is not None and (opened := self._opened) is not None:
            self._opened = None
            self._open(MappingProtocol.NAT_PMP, self._outer, opened.external_port, opened.lifetime, now)

    def _no(self, protocol: MappingProtocol, pause: float, now: Now, *, double_nat: bool = False) -> None:
        """The gateway doesn't want to by this protocol: the other one is asked at once, if it wasn't yet."""
        if self.mapping is not None and self.mapping.protocol is not protocol:
            return
        if self.mapping is None and self._step >= len(_SCHEDULE) and self._ends_at == inf:
            return  # nothing was asked
        new = protocol not in self._refused
        self._refused.add(protocol)
        if len(self._refused) == len(MappingProtocol) or self.mapping is not None:
            self._give_up(MappingProblem.DOUBLE_NAT if double_nat else MappingProblem.REFUSED, pause, now)
        elif new and protocol is MappingProtocol.PCP:
            self._began = now.boot - _SCHEDULE[1][0]
            self._step = 1

    def _open(self, protocol: MappingProtocol, address: IPAddress, port: int, lifetime: int, now: Now) -> None:
        if self.mapping is not None and self.mapping.protocol is not protocol:
            return  # asked for by both, given by both: the first one is kept
        if not isinstance(address, IPv4Address):
            return
        self._found()
        expires = now.boot + min(lifetime, LONGEST)
        self.mapping = PortMapping(SockAddr(str(address), port), protocol, expires)
        if not address.is_global:
            self._give_back()
            self._give_up(MappingProblem.DOUBLE_NAT, RETRY, now)
            return
        self.problem = None
        half = (expires - now.boot) * (0.5 + self._rng.random() / 8)
        self._renew_at = max(now.boot + half, self._asked_at + RENEW_SOONEST)

    def _note_epoch(self, protocol: MappingProtocol, epoch: int, now: Now) -> None:
        """A router that has forgotten its mappings shows it by its epoch; it is asked again, some moment later, as others are, too."""
        before, self._epoch = self._epoch, (protocol, epoch, now.boot)
        if before is None or before[0] is not protocol or self.mapping is None or self.mapping.protocol is not protocol:
            return
        lost = state_lost if protocol is MappingProtocol.PCP else restarted
        if lost(before[1], epoch, now.boot - before[2]):
            soon = max(now.boot + self._rng.uniform(0.0, 2.0), self._asked_at + RENEW_SOONEST)
            self._renew_at = min(self._renew_at, soon)
