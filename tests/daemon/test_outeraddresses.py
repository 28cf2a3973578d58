"""Which addresses are in use outside the overlays, read off what the pump is told."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from ipaddress import ip_address

from shadowmesh.daemon.outeraddresses import KEPT, OuterAddresses, PumpTraffic
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.pump import Path, PeerIndex, RemovePeer, Send, SetPath, Slot

RELAY, PEER, PRIVATE = (ip_address(t) for t in ("11.0.0.1", "45.0.0.1", "192.168.1.2"))


class Seen:
    def __init__(self) -> None:
        self.addresses = OuterAddresses()
        self.now = 1000.0
        self.members: set[IPAddress] = set()
        self.traffic = PumpTraffic(self.hold, self.reach, lambda address: address in self.members)

    def hold(self, owner: Hashable, addresses: Iterable[IPAddress]) -> None:
        self.addresses.hold(owner, addresses)

    def reach(self, address: IPAddress) -> None:
        self.addresses.sent_to(address, self.now)


def path(address: IPAddress) -> Path:
    return Path(Slot(0), SockAddr(str(address), 4500))


def test_the_paths_that_carry_data_are_in_use_until_they_change_or_their_peer_goes() -> None:
    seen = Seen()
    one, other = PeerIndex(1), PeerIndex(2)
    seen.traffic.see([SetPath(one, path(PRIVATE), path(RELAY)), SetPath(other, path(RELAY))])
    assert seen.addresses.all() == {PRIVATE, RELAY}
    seen.traffic.see([SetPath(one, path(PEER))])
    assert seen.addresses.all() == {PEER, RELAY}
    seen.traffic.see([RemovePeer(one), SetPath(other, None)])
    assert seen.addresses.all() == set()
    seen.traffic.see([SetPath(one, path(PEER))])
    seen.traffic.forget()
    assert seen.addresses.all() == set()


def test_a_path_to_another_members_address_leads_none_of_its_packets_out_of_the_overlay() -> None:
    seen = Seen()
    seen.members = {PRIVATE, PEER}
    seen.traffic.see([SetPath(PeerIndex(1), path(PRIVATE), path(RELAY)), Send(path(PEER), b"ping")])
    assert seen.addresses.all() == {RELAY}


def test_an_address_that_becomes_a_members_while_a_path_leads_there_is_held_no_more() -> None:
    seen = Seen()
    seen.traffic.see([SetPath(PeerIndex(1), path(PRIVATE), path(RELAY))])
    seen.members = {PRIVATE}
    seen.traffic.members_changed()
    assert seen.addresses.all() == {RELAY}
    seen.members = set()
    seen.traffic.members_changed()
    assert seen.addresses.all() == {PRIVATE, RELAY}
    seen.traffic.forget()
    assert seen.addresses.all() == set()


def test_public_addresses_that_are_tried_are_in_use_for_a_while_private_ones_not_at_all() -> None:
    seen = Seen()
    for address in (PEER, PRIVATE):
        seen.traffic.see([Send(path(address), b"ping")])
    assert seen.addresses.all() == {PEER}
    seen.now += KEPT
    seen.traffic.see([Send(path(RELAY), b"ping")])
    assert seen.addresses.all() == {PEER, RELAY}
    seen.now += KEPT
    seen.traffic.see([Send(path(RELAY), b"ping")])
    assert seen.addresses.all() == {RELAY}


def test_only_news_is_told_as_such() -> None:
    addresses = OuterAddresses()
    assert addresses.sent_to(PEER, 0.0) and not addresses.sent_to(PEER, 1.0)
    assert not addresses.sent_to(PEER, KEPT + 1.0), "it was in use a moment ago"
    assert addresses.hold("network", [RELAY]) and not addresses.hold("network", [RELAY])
    assert not addresses.sent_to(RELAY, 2.0)
    assert addresses.hold("network", []) and not addresses.hold("network", [])
