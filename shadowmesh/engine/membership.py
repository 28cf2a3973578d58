"""This device's place in one network: its keys, the network's, its address, what the network allows."""

from __future__ import annotations

from ipaddress import IPv4Address

from shadowmesh.engine.events import NetworkIdentity
from shadowmesh.engine.networkkeys import NetworkKeys
from shadowmesh.paths.values import Policy
from shadowmesh.protocol.cookies import mac1_key
from shadowmesh.protocol.noise import StaticKeys
from shadowmesh.protocol.primitives import Primitives


class Membership:
    """One for a network. Its Engine keeps it up to date; peers and relays read it."""

    def __init__(self, identity: NetworkIdentity, primitives: Primitives) -> None:
        self.net = identity.net
        self.network_id = identity.network_id
        self.client_id = identity.client_id
        self.private = identity.private
        self.static = StaticKeys(identity.private, primitives)
        self.mac1_key = mac1_key(self.static.public)
        self.network_keys = NetworkKeys(identity.network_id, self.static.public)
        self.policy = Policy()
        self.ip: IPv4Address | None = None  # own overlay address, its id on relays; None before the first map
