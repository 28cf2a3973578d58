"""Which addresses are in use outside the overlays, read off what the pump is told, and which of them are routed around."""

from __future__ import annotations

from ipaddress import ip_address

from shadowmesh.daemon.outeraddresses import KEPT, OuterAddresses, PumpTraffic
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.pump import Path, PeerIndex, RemovePeer, Send, SetPath, Slot

RELAY, PEER, PRIVATE = (ip_address(t) for t in ("11.0.0.1", "45.0.0.1", "192.168.1.2"))


class Seen:
    def __init__(self) -> None:
        self.members: set[IPAddress] = set()
        self.addresses = OuterAddresses(lambda address: address in self.members)
        self.traffic = PumpTraffic(self.addresses.hold)


def path(address: IPAddress) -> Path:
    return Path(Slot(0), SockAddr(str(address), 4500))


def test_the_paths_that_carry_data_are_in_use_until_they_change_or_their_peer_goes() -> None:
    seen = Seen()
    one, other = PeerIndex(1), PeerIndex(2)
    seen.traffic.see([SetPath(one, path(PRIVATE), path(RELAY)), SetPath(other, path(RELAY))])
    assert seen.addresses.around() == {PRIVATE, RELAY}
    seen.traffic.see([SetPath(one, path(PEER))])
    assert seen.addresses.around() == {PEER, RELAY}
    seen.traffic.see([RemovePeer(one), SetPath(other, None)])
    assert seen.addresses.around() == set()
    seen.traffic.see([SetPath(one, path(PEER))])
    seen.traffic.forget()
    assert seen.addresses.around() == set()


def test_an_address_that_is_merely_tried_is_not_in_use_as_any_member_may_name_any() -> None:
    seen = Seen()
    seen.traffic.see([Send(path(address), b"ping") for address in (PEER, PRIVATE)])
    assert seen.addresses.around() == set()


def test_a_members_address_is_not_routed_around_whoever_says_to_be_there() -> None:
    seen = Seen()
    seen.members = {PRIVATE, PEER, ip_address("10.7.0.9")}
    seen.traffic.see([SetPath(PeerIndex(1), path(PRIVATE), path(RELAY))])
    seen.addresses.hold("another network's relay", [PEER])
    seen.addresses.sent_to(ip_address("10.7.0.9"), 0.0)
    assert seen.addresses.around() == {RELAY}
    assert seen.addresses.held() == {PRIVATE, PEER, RELAY}, "a subnet that covers them is refused all the same"


def test_an_address_that_becomes_a_members_is_routed_around_no_more() -> None:
    seen = Seen()
    seen.traffic.see([SetPath(PeerIndex(1), path(PRIVATE), path(RELAY))])
    seen.addresses.sent_to(PEER, 0.0)
    seen.members = {PRIVATE, PEER}
    assert seen.addresses.around() == {RELAY}
    seen.members = set()
    assert seen.addresses.around() == {PRIVATE, PEER, RELAY}


def test_what_was_connected_to_is_in_use_for_a_while() -> None:
    addresses = Seen().addresses
    addresses.sent_to(PEER, 1000.0)
    addresses.sent_to(RELAY, 1000.0 + KEPT)
    assert addresses.around() == {PEER, RELAY}
    addresses.sent_to(RELAY, 1000.0 + 2 * KEPT)
    assert addresses.around() == {RELAY}


def test_only_news_is_told_as_such() -> None:
    addresses = Seen().addresses
    assert addresses.sent_to(PEER, 0.0) and not addresses.sent_to(PEER, 1.0)
    assert not addresses.sent_to(PEER, KEPT + 1.0), "it was in use a moment ago"
    assert addresses.hold("network", [RELAY]) and not addresses.hold("network", [RELAY])
    assert not addresses.sent_to(RELAY, 2.0)
    assert addresses.hold("network", []) and not addresses.hold("network", [])
