"""The values of a peer's path: its timing, what it wants done, what it knows of each pair of addresses."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final, Literal, NamedTuple, TypeAlias

from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import CandidateKind, PathKey, Rank

NO_ID: Final = bytes(12)  # stands for no id in pings and pongs
CHECK_ROUNDS = (0.0, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0)
CHECK_SETTLED = 1.0  # seconds after which a check that found a path ends
CALL_REPEATS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds into a check at which an unanswered call-me-maybe is repeated
TRUST = 6.5
HEARTBEAT = 3.0
PASSIVE = (
    HEARTBEAT + 0.4
)  # seconds for which the peer's pings, when they confirm our pongs, do for heartbeats of our own …
MEASURE = 30.0  # … but for one in so many seconds, which measures the round trip
FIRST_MEASURE = 0.5  # seconds with data on a relay, after which its round trip is measured for the first time
REPEAT = 0.3
ACTIVE = 10.0  # seconds after the last data during which a path counts as active
WORRY = 1.8  # seconds of unanswered heartbeats after which a path is in doubt: a check starts, the relay doubles it
WORRY_UNPROVEN = 0.6  # the same after waking a dormant path
DORMANT_PING = 25.0
FORGET = 300.0
FORGET_PINGED = 30.0  # the same since the last ping of a peer that keeps up a path; longer than DORMANT_PING
NESTED_WANTED = 10.0  # seconds for which a peer's ping on a nested path says that it has no other
RETRY = 60.0
RETRY_JITTER = 10.0
RETRY_LOST = 10.0  # the first wait after a path that had worked was lost; doubled each time, up to RETRY
MAX_TRIGGERED = 8  # addresses learnt from pings out of the blue, per peer
STRANGE_PINGS = 12  # pings at once to addresses that never answered: a peer may name those of third parties …
STRANGE_PINGS_RATE = 6.0  # … and as many a second after that
PING_MEMORY = 10.0  # seconds for which a pong to a ping still counts …
MAX_PINGS = 512  # … if it is one of the last so many; a check sends some fifty in a round
MAX_PONG_IDS = 16  # of our last pongs that the peer may confirm; pings may be replayed, and each is answered
CLEARLY_FASTER = 0.7  # share of the present round trip below which a path of the same rank is taken …
CLEARLY_FASTER_BY = 0.005  # … if it also gains so many seconds


class SendPing(NamedTuple):
    """Send a disco ping. `path` None: through the relay. `heard`: what it says of the peer's last pong there. `nested`: the path is
    inside another tunnel, and wanted nevertheless. `mtu`: it only asks whether an inner packet of this size would get through; 0: it is no such."""

    path: PathKey | None
    tx_id: bytes
    heard: bytes = NO_ID
    nested: bool = False
    mtu: int = 0


class SendCallMeMaybe(NamedTuple):
    """Send a call-me-maybe with our candidates through the relay. `ask`: the peer's are wanted in return."""

    ask: bool


class PathRoute(NamedTuple):
    """Where data goes from now on. `also`: the same data is sent there, too, until one of them is proven."""

    primary: PathKey | Literal["relay"] | None
    also: PathKey | Literal["relay"] | None


class PathMoved(NamedTuple):
    """The path or its reason changed; for people."""

    direct: bool
    reason: Reason


class Resized(NamedTuple):
    """Packets of another size than before get through where data goes: `PeerPath.mtu`."""


Action: TypeAlias = SendPing | SendCallMeMaybe | PathRoute | PathMoved | Resized

RELAY_ROUTE = PathRoute("relay", None)


@dataclass(slots=True, eq=False)
class PathProbe:
    """One pair of addresses and what came of trying it. Times are CLOCK_BOOTTIME."""

    path: PathKey
    kind: CandidateKind | None  # None: learnt from a ping out of the blue
    rank: Rank
    reason: Reason
    sent_at: float = -inf
    pong_at: float = -inf
    rtt: float = 0.0
    lost_at: float = -inf
    measured_at: float = -inf  # last round trip; `pong_at` also counts what the peer's pings confirm
    heard: bytes = NO_ID  # own id of the last pong on it
    told_nested: bool = False  # the peer says that this path is inside another tunnel


class TokenBucket:
    """So many at once, and so many a second after that."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = -inf

    def take(self, now: float) -> bool:
        """Takes one, if there is one at `now`, in seconds that never go back."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Policy:
    """What the network allows. `udp`: this host's UDP gets out."""

    p2p: bool = True
    relay_fallback: bool = True
    udp: bool = True


ALLOW_ALL = Policy()
