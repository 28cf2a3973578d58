"""Carries networks on this host: their interfaces, what the host has to do for them, their places in Node and pump."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from shadowmesh.daemon.environment import AnyHostNet, Environment
from shadowmesh.daemon.hostnet import HostEvent, HostSettled, InterfaceChanged, InterfaceGone
from shadowmesh.daemon.interfaces import Interfaces, own_prefixes
from shadowmesh.daemon.join import outer_addresses, overlap_error
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.daemon.network import Network
from shadowmesh.daemon.stunservers import StunServers
from shadowmesh.engine import NetworkIdentity
from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.pump import INNER_MTU, AddTun, RemoveTun, SetLocal

log = structlog.get_logger(__name__)

_RETRY, _LAST_RETRY = 1.0, 60.0  # seconds between tries to bring up a network that can't run


class Carrier:
    """`networks` are those that are joined. What keeps one from running becomes its error, and is tried again.

    `may_run` says whether a network may be up yet; `changed` is called when what people see of one is another.
    """

    def __init__(
        self,
        environment: Environment,
        host: AnyHostNet,
        mesh: Mesh,
        stun: StunServers,
        networks: dict[NetworkID, Network],
        *,
        may_run: Callable[[Network], bool],
        changed: Callable[[], None],
    ) -> None:
        self.environment = environment
        self.host = host
        self.mesh = mesh
        self.networks = networks
        self._stun = stun
        self._may_run = may_run
        self._changed = changed
        self._interfaces = Interfaces(environment, host, self.host_event)
        self._retry: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Takes the interfaces away; Node and pump are gone."""
        if self._retry is not None:
            self._retry.cancel()
        for network in self.networks.values():
            if network.interface is not None:
                self._interfaces.remove(network.interface)
                network.interface = None
        self._interfaces.stop()

    def bring_up(self, network: Network) -> None:
        """Makes the interface of a wanted network and gives it to Node and pump."""
        record = network.record
        if not (record.wanted and record.approved) or network.map is None or network.me is None:
            return
        if network.refusal is not None and network.refusal.duplicate:
            return
        if not self._may_run(network):
            return
        if network.interface is None:
            try:
                network.map.check_addresses()
                self.check_overlap(network)
                network.interface = self._interfaces.make(network)
            except MalformedError as e:
                self._unusable(network, e)
                return
            except ShadowMeshError as e:
                network.failures += 1
                backoff = _RETRY if e.kind is Kind.CONFLICT else min(_RETRY * 2.0**network.failures, _LAST_RETRY)
                self._failed(network, str(e), network.error, backoff)
                return
            self._join(network)
            if network.interface is not None:
                network.error, network.failures = None, 0
        self._changed()

    def _try_again_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._retry is not None and self._retry.when() > loop.time() + seconds:
            self._retry.cancel()
            self._retry = None
        if self._retry is None:
            self._retry = loop.call_later(seconds, self.try_again)

    def try_again(self) -> None:
        """Tries those again that couldn't run: what they wait for may have come."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        moment = self.environment.clock().boot
        waiting = [n for n in self.networks.values() if n.error is not None and n.interface is None]
        for network in waiting:
            if network.retry_at <= moment:
                self.bring_up(network)
            else:
                self._try_again_in(network.retry_at - moment)

    def check_overlap(self, network: Network, *, lans: bool = True) -> None:
        """Raises ShadowMeshError(CONFLICT) if a subnet is another network's or (`lans`) a LAN's of this host."""
        assert network.map is not None
        others = list(self.networks.values())
        self._interfaces.check_subnets(
            others, network.name, network.map.head.subnets, network.id, netns=network.record.netns, lans=lans
        )

    def check_wish(
        self, name: str, subnets: Collection[IPNetwork], own: NetworkID | None = None, netns: str | None = None
    ) -> None:
        """As `check_overlap`, and raises the same if a subnet covers what this host needs outside its networks."""
        self._interfaces.check_subnets(list(self.networks.values()), name, subnets, own, netns=netns)
        if netns is None:
            self._interfaces.check_outer(name, subnets)

    def _join(self, network: Network) -> None:
        try:
            self.join_mesh(network)
        except MalformedError as e:
            self._unusable(network, e)

    def _unusable(self, network: Network, error: MalformedError) -> None:
        """Its controller says what can't be about this machine: nothing runs by that, and another map is tried when it comes."""
        known = network.error
        self.take_down(network)
        self._failed(network, f"its map can't be used: {error}", known, _LAST_RETRY)

    def _failed(self, network: Network, why: str, known: str | None, retry_in: float) -> None:
        """It can't run, and is tried again in `retry_in` seconds. `known`: why it couldn't before."""
        network.error = why
        network.retry_at = self.environment.clock().boot + retry_in
        self._try_again_in(_LAST_RETRY)
        if why != known:
            log.error("network can't run", network=network.name, why=why)
            self._changed()

    def rejoin_mesh(self) -> None:
        """Tells a new Node and pump of all networks that are up."""
        for network in list(self.networks.values()):
            if network.interface is not None:
                self._join(network)

    def join_mesh(self, network: Network) -> None:
        """Tells Node and pump of a network whose interface stands. Raises MalformedError for a map that isn't of this machine."""
        assert network.map is not None and network.me is not None and network.interface is not None
        moment, node = self.environment.clock(), self.mesh.node
        self.hold_outer(network)
        self.mesh.apply(AddTun(network.net, network.interface.fd, INNER_MTU, own_prefixes(network.me)))
        node.add_network(NetworkIdentity(network.net, network.id, network.record.client_id, network.secrets.wg_private))
        node.set_wall_offset(network.id, network.clock_offset(moment))
        node.apply_map(network.id, network.map, moment)
        node.set_stun_servers(network.id, self._stun.of(network.record.controller.fingerprint), moment)
        node.apply_keys(network.id, network.keys, moment)
        self.apply_token(network)
        node.controller_link(network.id, network.connected, moment)
        node.apply_presence(network.id, network.presence.values(), moment)
        node.set_host_addresses(self.host.addresses(), moment)
        self.mesh.poke()

    def hold_outer(self, network: Network) -> None:
        assert network.map is not None
        named = (server.ip for server in self._stun.of(network.record.controller.fingerprint))
        self.host.hold_outer(network.id, {*outer_addresses(network.map.head, network.identity.urls), *named})

    def apply_token(self, network: Network) -> None:
        try:
            self.mesh.node.apply_grant(network.id, network.relay_token, self.environment.clock())
        except MalformedError as e:
            log.warning("relay token refused", network=network.name, why=str(e))

    def take_down(self, network: Network) -> None:
        """Ends the network on this host; its record stays."""
        interface, network.interface = network.interface, None  # first: a pump that dies now has a successor at once
        if interface is not None:
            self.mesh.node.remove_network(network.id, self.environment.clock())
            self.mesh.flush()
            self.mesh.apply(RemoveTun(network.net))
            self._interfaces.remove(interface)
            self._try_again_in(0.0)  # another one may have waited for the subnet
        self.host.hold_outer(network.id, ())
        network.error = network.trouble = None
        network.failures = 0
        self._changed()

    def use_map(self, network: Network, moved: bool) -> None:
        """Members that the map doesn't name any more are cut off first, whatever else fails."""
        assert network.map is not None and network.me is not None
        if network.interface is None:
            return
        try:
            self.mesh.node.apply_map(network.id, network.map, self.environment.clock())
        except MalformedError as e:
            self._unusable(network, e)
            return
        self.mesh.flush()
        self.hold_outer(network)
        if moved:
            try:
                self.check_overlap(network, lans=False)
            except ShadowMeshError:
                self.take_down(network)
                self.bring_up(network)  # which says why it fails
                return
            self.mesh.apply(SetLocal(network.net, own_prefixes(network.me)))
            try:
                self._interfaces.configure(network.interface, network)
            except ShadowMeshError as e:
                network.error = str(e)
                log.error("the interface can't be changed", network=network.name, why=str(e))

    # what happens to the host

    def host_event(self, event: HostEvent) -> None:
        match event:
            case HostSettled():
                self._try_again_in(0.0)
            case InterfaceGone(fd=fd):
                for network in self._with_interface(fd):
                    self._remake(network)
            case InterfaceChanged(fd=fd):
                for network in self._with_interface(fd):
                    self._interface_changed(network, event)
            case _:
                pass

    def _with_interface(self, fd: int) -> list[Network]:
        return [n for n in self.networks.values() if n.interface is not None and n.interface.fd == fd]

    def _remake(self, network: Network) -> None:
        """Another device in place of one that was deleted; sessions and paths stay."""
        assert network.interface is not None and network.me is not None
        lost, network.interface = network.interface, None
        self.mesh.apply(RemoveTun(network.net))
        self._interfaces.remove(lost)
        try:
            network.interface = self._interfaces.make(network)
        except ShadowMeshError:
            self.mesh.node.remove_network(network.id, self.environment.clock())
            self.bring_up(network)  # which says why it fails
            return
        log.info("interface made anew", network=network.name, interface=network.interface.name)
        self.mesh.apply(AddTun(network.net, network.interface.fd, INNER_MTU, own_prefixes(network.me)))
        self._changed()

    def _interface_changed(self, network: Network, event: InterfaceChanged) -> None:
        assert network.interface is not None and network.map is not None
        network.interface.name = event.name
        network.trouble = event.trouble
        network.error = None
        if event.overlap is not None:
            interface, lan = event.overlap
            network.error = str(overlap_error(network.name, network.map.head.subnet, f"interface {interface}", lan))
            log.error("network can't run", network=network.name, why=network.error)
        self._changed()
