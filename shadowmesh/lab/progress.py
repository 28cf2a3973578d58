"""How the pairs of a mesh come together, and whether that was good enough. Decisions only: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from shadowmesh.lab.matrix import Reach, reach
from shadowmesh.lab.nat import NatType
from shadowmesh.model.codec import Struct
from shadowmesh.model.status import PathKind, PeerStatus, Status

DIRECT_WITHIN = 15.0  # seconds from the first packet on; the promise for pairs that punching brings together


class PairReport(Struct, frozen=True, kw_only=True):
    """How one pair ended up. Times are seconds after traffic began."""

    a: str
    b: str
    nat_a: str
    nat_b: str
    expected: str
    talked_s: float | None
    relay_seen: bool
    direct_s: float | None
    path: str
    reason: str
    explanation: str
    broken: int
    mbit: float | None = None
    intact: bool | None = None
    problem: str | None = None


@dataclass(slots=True)
class Pair:
    """One pair as it is seen from both ends. It is direct when both ends say so."""

    a: str
    b: str
    nat_a: NatType
    nat_b: NatType
    expected: Reach
    talked: float | None = None
    direct: float | None = None
    relay_seen: bool = False
    broken: int = 0
    mbit: float | None = None
    intact: bool | None = None
    _views: dict[str, PeerStatus] = field(default_factory=dict)

    def see(self, observer: str, peer: PeerStatus, at: float) -> None:
        """One end's view of the other, `at` seconds after traffic began."""
        self._views[observer] = peer
        if peer.path == "relay":
            self.relay_seen = True
        if self.path == "direct":
            if self.direct is None:
                self.direct = at
        else:
            self.direct = None  # it fell back: what counts is since when it stays direct

    @property
    def path(self) -> PathKind:
        """The worse of the two ends' paths."""
        seen = {view.path for view in self._views.values()}
        if len(self._views) < 2 or "none" in seen:
            return "none"
        return "relay" if "relay" in seen else "direct"

    @property
    def view(self) -> PeerStatus | None:
        """The view to show: of the end that explains the path."""
        found = sorted(self._views.values(), key=lambda view: ("none", "relay", "direct").index(view.path))
        return found[0] if found else None

    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.talked is not None and (self.direct is not None or self.expected is not Reach.DIRECT)

    def problem(self) -> str | None:
        """What is not as promised, as a sentence; None if all is."""
        if self.talked is None:
            return f"{self.a} and {self.b} never talked"
        if self.broken:
            return f"the connection between {self.a} and {self.b} broke {self.broken} times"
        if self.expected is Reach.DIRECT:
            if self.direct is None:
                return f"{self.a} and {self.b} should be direct, and are on {self.path}"
            if self.direct > DIRECT_WITHIN:
                return f"{self.a} and {self.b} were direct only after {self.direct:.1f} s"
        if self.intact is False:
            return f"a transfer from {self.a} to {self.b} failed or arrived damaged"
        return None

    def report(self) -> PairReport:
        view = self.view
        return PairReport(
            a=self.a,
            b=self.b,
            nat_a=self.nat_a,
            nat_b=self.nat_b,
            expected=self.expected,
            talked_s=_rounded(self.talked),
            relay_seen=self.relay_seen,
            direct_s=_rounded(self.direct),
            path=self.path,
            reason=view.reason if view else "",
            explanation=view.explanation if view else "",
            broken=self.broken,
            mbit=_rounded(self.mbit),
            intact=self.intact,
            problem=self.problem(),
        )


class Progress:
    """All pairs of the hosts given as name → NAT type, fed with what each host's daemon says."""

    def __init__(self, hosts: dict[str, NatType]) -> None:
        self.pairs = {
            (a, b): Pair(a, b, nat_a, nat_b, reach(nat_a, nat_b))
            for (a, nat_a), (b, nat_b) in combinations(hosts.items(), 2)
        }

    def see(self, host: str, status: Status, at: float) -> None:
        for network in status.networks:
            for peer in network.peers:
                pair = self.pairs.get((host, peer.name)) or self.pairs.get((peer.name, host))
                if pair is not None:
                    pair.see(host, peer, at)

    def settled(self) -> bool:
        return all(pair.settled() for pair in self.pairs.values())

    def problems(self) -> list[str]:
        return [problem for pair in self.pairs.values() if (problem := pair.problem()) is not None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
