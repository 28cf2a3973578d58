"""Which addresses outside the overlays this host talks to: no route of an overlay may lead there. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.pump import Command, PeerIndex, RemovePeer, SetPath

KEPT = 300.0  # seconds: an address that nothing connected to for longer is not in use
MOST = 4096  # addresses that were connected to; more in five minutes aren't told apart from an attack


class OuterAddresses:
    """Those that are *held*, as relays', controllers' and peers' are, and those that something connected to of late.

    Members' addresses are never routed around, whoever names them: a member that lets itself be heard from another's address, or a
    controller or relay that says to be there, would draw that one's packets out of the overlay, in the clear. What this host
    itself sends outside is marked, and gets there all the same.
    """

    def __init__(self, is_member: Callable[[IPAddress], bool]) -> None:
        """`is_member`: whether an address is a member's in a network that is up."""
        self._is_member = is_member
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
        """Something connects to this address. Returns whether it wasn't in use."""
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

    def around(self) -> frozenset[IPAddress]:
        """Those that no overlay's route may lead to; one that was connected to stays for five to ten minutes."""
        return frozenset(a for a in self.held().union(self._sent, self._sent_before) if not self._is_member(a))


class PumpTraffic:
    """Reads off the pump's commands where the paths lead that carry data: these addresses are in use.

    Those that are merely tried are not: any member may name any address.
    """

    def __init__(self, hold: Callable[[Hashable, Iterable[IPAddress]], None]) -> None:
        self._hold = hold
        self._peers: set[PeerIndex] = set()  # with paths

    def see(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if isinstance(command, SetPath):
                paths = (command.primary, command.also)
                self._peer(command.peer, {p.remote.ip for p in paths if p is not None and p.remote is not None})
            elif isinstance(command, RemovePeer):
                self._peer(command.peer, set())

    def _peer(self, peer: PeerIndex, addresses: set[IPAddress]) -> None:
        if addresses or peer in self._peers:
            self._hold(("peer", peer), addresses)
            (self._peers.add if addresses else self._peers.discard)(peer)

    def forget(self) -> None:
        """The pump has gone, with all its paths."""
        for peer in list(self._peers):
            self._peer(peer, set())
