"""Which addresses outside the overlays this host talks to: no route of an overlay may lead there. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from ipaddress import ip_address

from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.pump import Command, PeerIndex, RemovePeer, Send, SetPath

KEPT = (
    300.0  # seconds: an address that nothing was sent to for longer is not in use (a path at rest is pinged each 25 s)
)
MOST = 4096  # addresses that were sent to; more in five minutes aren't told apart from an attack


class OuterAddresses:
    """Those that are *held*, as relays' and controllers' are, and those that something was sent to of late."""

    def __init__(self) -> None:
        self._held: dict[Hashable, frozenset[IPAddress]] = {}
        self._sent: dict[IPAddress, None] = {}
        self._sent_before: dict[IPAddress, None] = {}
        self._turn = 0.0

    def hold(self, owner: Hashable, addresses: Iterable[IPAddress]) -> bool:
        """These are in use as long as `owner` holds them; none: it has gone. Returns whether that is news."""
        new = frozenset(addresses)
        if new == self._held.get(owner, frozenset()):
            return False
        self._held[owner] = new
        if not new:
            del self._held[owner]
        return True

    def sent_to(self, address: IPAddress, now: float) -> bool:
        """Something goes to this address. Returns whether it wasn't in use."""
        if now - self._turn >= KEPT:
            self._sent_before, self._sent, self._turn = self._sent, {}, now
        if address in self._sent:
            return False
        if len(self._sent) >= MOST:
            return False
        self._sent[address] = None
        return address not in self._sent_before and not any(address in held for held in self._held.values())

    def held(self) -> frozenset[IPAddress]:
        return frozenset().union(*self._held.values())

    def all(self) -> frozenset[IPAddress]:
        """All in use; one that is used no more stays for five to ten minutes."""
        return self.held().union(self._sent, self._sent_before)


class PumpTraffic:
    """Reads off the pump's commands which outer addresses are in use: those of paths that carry data, and public ones that are tried.

    Private addresses that are merely tried are not: half the world is 192.168.1.2, and an overlay may have such a member.
    Nor are members' addresses, whatever carries data: who lets itself be heard from another member's address would else
    draw that one's packets out of the overlay, in the clear. Pumps' own packets are marked, and need no way around.
    """

    def __init__(
        self,
        hold: Callable[[Hashable, Iterable[IPAddress]], None],
        reaching: Callable[[IPAddress], None],
        is_member: Callable[[IPAddress], bool],
    ) -> None:
        """`is_member`: whether an address is a member's in a network that is up."""
        self._hold = hold
        self._reaching = reaching
        self._is_member = is_member
        self._peers: dict[PeerIndex, frozenset[IPAddress]] = {}  # where their paths lead, members' addresses among them

    def see(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if isinstance(command, SetPath):
                paths = (command.primary, command.also)
                hosts = {p.remote.host for p in paths if p is not None and p.remote is not None}
                self._peer(command.peer, frozenset(map(ip_address, hosts)))
            elif isinstance(command, RemovePeer):
                self._peer(command.peer, frozenset())
            elif isinstance(command, Send) and command.path.remote is not None:
                address = ip_address(command.path.remote.host)
                if address.is_global and not self._is_member(address):
                    self._reaching(address)

    def _peer(self, peer: PeerIndex, addresses: frozenset[IPAddress]) -> None:
        if addresses or peer in self._peers:
            self._peers[peer] = addresses
            self._hold(("peer", peer), [a for a in addresses if not self._is_member(a)])
            if not addresses:
                del self._peers[peer]

    def members_changed(self) -> None:
        """Other addresses are members' now: what was held before one got it is held no more, and the other way round."""
        for peer, addresses in list(self._peers.items()):
            self._peer(peer, addresses)

    def forget(self) -> None:
        """The pump has gone, with all its paths."""
        for peer in list(self._peers):
            self._peer(peer, frozenset())
