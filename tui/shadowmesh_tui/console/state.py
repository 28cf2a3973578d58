"""What is known of a controller: networks, clients, who waits, what happened last; and what each event changes of it.

Pure: no I/O and no clock. What an event doesn't tell has to be read again: `apply` returns what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shadowmesh.model.accounts import WhoAmI
from shadowmesh.model.api import Client, Event, Network, Permission, Relay
from shadowmesh.model.connectivity import Topology
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.series import RelayRate, Series
from shadowmesh_tui.console.used import Used, UsedOf

MOST_EVENTS = 200
MOST_USED = 4  # answers about what was used that are kept


@dataclass(slots=True)
class Wants:
    """What has to be read again: all of it, the relays, networks, lists of clients, clients (network, client), lists of who waits,
    topologies of networks, and what was used."""

    everything: bool = False
    relays: bool = False
    networks: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
    clients: set[tuple[str, str]] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    topologies: set[str] = field(default_factory=set)
    usages: set[UsedOf] = field(default_factory=set)

    def __bool__(self) -> bool:
        parts = (self.networks, self.lists, self.clients, self.waiting, self.topologies, self.usages)
        return self.everything or self.relays or any(parts)

    def add(self, other: Wants) -> None:
        self.everything |= other.everything
        self.relays |= other.relays
        self.networks |= other.networks
        self.lists |= other.lists
        self.clients |= other.clients
        self.waiting |= other.waiting
        self.topologies |= other.topologies
        self.usages |= other.usages


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing new comes, since when (seconds of the boot clock), and when the next try is made."""

    error: ShadowMeshError
    since: float
    next_try: float | None = None

    @property
    def signed_out(self) -> bool:
        return self.error.code in ("not_signed_in", "unreadable_login", "no_token")


class Console:
    """`revision` grows with each change, so that what was made of it can be kept until then."""

    def __init__(self) -> None:
        self.revision = 0
        self.who: WhoAmI | None = None  # None: nothing is known yet
        self.networks: dict[str, Network] = {}  # by id, in the order of their names
        self.relays: dict[str, Relay] = {}
        self.clients: dict[str, dict[str, Client]] = {}  # of each network that was looked at
        self.waiting: dict[str, dict[str, Client]] = {}  # by network: who waits for approval there
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)  # the newest last
        self.failure: Failure | None = None
        self.seen_at: float | None = None  # when the last answer came, on the boot clock
        self.series: dict[str, Series] = {}  # by client
        self.relay_rates: dict[str, RelayRate] = {}  # by relay
        self.topologies: dict[str, Topology] = {}  # by network: of the one that was looked at last
        self.used: dict[UsedOf, Used] = {}  # the newest last
        self.used_shown: UsedOf | None = None  # what stands on the screen of it
        self.marked: set[str] = set()  # clients that an action shall be done to
        self._chosen: str | None = None

    def _changed(self) -> None:
        self.revision += 1

    # what they may do

    def may(self, needed: Permission, network_id: str | None = None) -> bool:
        """In this network; without one: anywhere, as `network.create` is of none."""
        if self.who is None:
            return False
        if network_id is None:
            return needed in self.who.permissions
        network = self.networks.get(network_id)
        return network is not None and needed in network.permissions

    @property
    def may_create(self) -> bool:
        """Make networks."""
        return self.may(Permission.NETWORK_CREATE)

    @property
    def may_administer(self) -> bool:
        """What is no network's: relays, plans."""
        return self.who is not None and self.who.administers and not self.who.read_only

    def may_anywhere(self, needed: Permission) -> bool:
        """In some network."""
        return any(needed in network.permissions for network in self.networks.values())

    def may_remove(self, client: Client) -> bool:
        """Whoever brings machines in may take their own out again."""
        if self.may(Permission.CLIENT_REMOVE, client.network_id):
            return True
        mine = self.who is not None and self.who.user is not None and client.owner == self.who.user
        return mine and self.may(Permission.CLIENT_REGISTER, client.network_id)

    # what was read

    def take_all(self, who: WhoAmI, networks: Iterable[Network], relays: Iterable[Relay], now: float) -> None:
        """What was known of networks that aren't there any more is forgotten."""
        self.who, self.failure, self.seen_at = who, None, now
        ordered = sorted(networks, key=lambda n: (n.name.casefold(), n.network_id))
        self.networks = {network.network_id: network for network in ordered}
        self.take_relays(relays)
        for known in (self.clients, self.waiting, self.topologies):
            for gone in known.keys() - self.networks.keys():
                del known[gone]
        self._changed()

    def take_relays(self, relays: Iterable[Relay]) -> None:
        self.relays = {relay.id: relay for relay in relays}
        rates = self.relay_rates
        self.relay_rates = {key: rates.get(key) or RelayRate() for key in self.relays}
        for key, rate in self.relay_rates.items():
            rate.observe(self.relays[key])
        self._changed()

    def take_topology(self, topology: Topology) -> None:
        """Those of other networks are forgotten: they are large, and grow old."""
        if (
            self.topologies.get(topology.network_id) != topology
        ):  # what is drawn of it stays good as long as it is the same
            self.topologies = {topology.network_id: topology}
        self._changed()

    def take_used(self, of: UsedOf, used: Used) -> None:
        self.used.pop(of, None)
        self.used[of] = used
        for old in list(self.used)[:-MOST_USED]:
            del self.used[old]
        self._changed()

    def take_network(self, network: Network) -> None:
        known = self.networks | {network.network_id: network}
        self.networks = dict(sorted(known.items(), key=lambda item: (item[1].name.casefold(), item[0])))
        self._changed()

    def drop_network(self, network_id: str) -> None:
        for known in (self.networks, self.clients, self.waiting, self.topologies):
            known.pop(network_id, None)
        self._changed()

    def take_clients(self, network_id: str, clients: Iterable[Client], now: float) -> None:
        """All of a network, as they are now."""
        known = {client.client_id: client for client in clients}
        gone = self.clients.get(network_id, {}).keys() - known.keys()
        self.clients[network_id] = known
        for client_id in gone:
            self._forget(client_id)
        for client in known.values():
            self.series.setdefault(client.client_id, Series()).observe(client, now)
        self.waiting[network_id] = {c.client_id: c for c in known.values() if c.state == "pending"}
        self._count_online(network_id)
        self._changed()

    def take_client(self, client: Client, now: float) -> None:
        """One of them, as it is now."""
        if client.network_id in self.clients:
            self.clients[client.network_id][client.client_id] = client
            self.series.setdefault(client.client_id, Series()).observe(client, now)
        waiting = self.waiting.setdefault(client.network_id, {})
        if client.state == "pending":
            waiting[client.client_id] = client
        else:
            waiting.pop(client.client_id, None)
        self._count_online(client.network_id)
        self._changed()

    def drop_client(self, network_id: str, client_id: str) -> None:
        for known in (self.clients, self.waiting):
            known.get(network_id, {}).pop(client_id, None)
        self._forget(client_id)
        self._count_online(network_id)
        self._changed()

    def _forget(self, client_id: str) -> None:
        self.series.pop(client_id, None)
        self.marked.discard(client_id)

    def take_waiting(self, network_id: str, clients: Iterable[Client]) -> None:
        self.waiting[network_id] = {client.client_id: client for client in clients}
        self._changed()

    def lose(self, error: ShadowMeshError, now: float, next_try: float | None = None) -> None:
        """The controller can't be asked, or refuses. What it said last stays, to be shown as old."""
        self.failure = Failure(error, self.failure.since if self.failure else now, next_try)
        self._changed()

    def heard(self, now: float) -> None:
        """It answers again."""
        self.failure, self.seen_at = None, now
        self._changed()

    # what happened

    def remember(self, events: Iterable[Event]) -> None:
        """Of a time that what was read is newer than. Those that came since stay the newest."""
        newer = list(self.events)
        self.events.clear()
        merged = {event.seq: event for event in (*newer, *events)}
        self.events.extend(merged[seq] for seq in sorted(merged))
        self._changed()

    def apply(self, event: Event) -> Wants:
        """Takes in what the event tells. Returns what it doesn't tell, and so has to be read."""
        self.events.append(event)
        self._changed()
        network_id, client_id = event.network_id, event.client_id or ""
        if event.type == "relay_changed":
            return Wants(relays=True)
        if network_id is None:
            return Wants()
        if event.type in ("client_online", "client_offline"):
            return self._presence(network_id, client_id, online=event.type == "client_online")
        if event.type == "client_removed":
            self.drop_client(network_id, client_id)
            return Wants(networks={network_id})
        if event.type in ("client_pending", "connection_upgrade"):
            asked = Wants(clients={(network_id, client_id)}) if self._concerns(event) else Wants()
            if event.type == "client_pending":
                asked.networks.add(network_id)
            return asked
        if event.type == "network_changed":
            return self._network_changed(network_id, client_id, str(event.data.get("change", "")))
        return Wants()

    def _concerns(self, event: Event) -> bool:
        return event.type == "client_pending" or event.network_id in self.clients

    def _presence(self, network_id: str, client_id: str, *, online: bool) -> Wants:
        client = self.clients.get(network_id, {}).get(client_id)
        if client is None:
            return Wants(networks={network_id})
        changes = {"status": "online"} if online else {"status": "offline", "connection_type": None, "latency_ms": None}
        self.clients[network_id][client_id] = client.model_copy(update=changes)
        self._count_online(network_id)
        return Wants()

    def _network_changed(self, network_id: str, client_id: str, change: str) -> Wants:
        if change == "deleted":
            self.drop_network(network_id)
            return Wants()
        asked = Wants(networks={network_id})
        if client_id and (network_id in self.clients or network_id in self.waiting):
            asked.clients.add((network_id, client_id))
        return asked

    def _count_online(self, network_id: str) -> None:
        """Where all clients are known, they are counted here: the number is as new as they are."""
        network, clients = self.networks.get(network_id), self.clients.get(network_id)
        if network is None:
            return
        counts = {"pending": len(self.waiting.get(network_id, {}))}
        if clients is not None:
            members = [c for c in clients.values() if c.state == "approved"]
            counts |= {"clients": len(members), "clients_online": sum(c.status == "online" for c in members)}
        elif network_id not in self.waiting:
            return
        self.networks[network_id] = network.model_copy(update=counts)

    # what the person has chosen

    @property
    def network(self) -> Network | None:
        """The chosen network; the first one while none is chosen, or the chosen one is gone."""
        if self._chosen in self.networks:
            return self.networks[self._chosen]
        return next(iter(self.networks.values()), None)

    def choose(self, network_id: str) -> None:
        if network_id != self._chosen:
            self._chosen = network_id
            self.marked.clear()
            self._changed()

    def step_network(self, step: int) -> None:
        ids, network = list(self.networks), self.network
        if network is not None:
            self.choose(ids[(ids.index(network.network_id) + step) % len(ids)])

    def client(self, network_id: str, client_id: str) -> Client | None:
        known = self.clients.get(network_id, {}).get(client_id)
        return known or self.waiting.get(network_id, {}).get(client_id)

    def approvals(self) -> list[Client]:
        """Who waits in the networks where they may let machines in, the longest waiting first."""
        found = [
            client
            for network_id, waiting in self.waiting.items()
            if self.may(Permission.NETWORK_INVITE, network_id)
            for client in waiting.values()
        ]
        return sorted(found, key=lambda c: (c.created_at, c.client_id))

    @property
    def badge(self) -> int:
        """How many wait for them: also where only their number is known yet."""
        return sum(
            len(self.waiting[n.network_id]) if n.network_id in self.waiting else n.pending
            for n in self.networks.values()
            if Permission.NETWORK_INVITE in n.permissions
        )


def told(event: Event, names: dict[str, str], networks: dict[str, Network]) -> tuple[datetime, str, str]:
    """When, where and what, in a few words. `names`: of clients by id."""
    network = networks.get(event.network_id or "")
    where = network.name if network is not None else ""
    who = str(event.data.get("name") or names.get(event.client_id or "", event.client_id or ""))
    change = str(event.data.get("change", ""))
    what = {
        "client_online": f"{who} is online",
        "client_offline": f"{who} is offline",
        "client_pending": f"{who} waits for approval",
        "client_removed": f"{who} was removed",
        "connection_upgrade": f"{who} is direct now",
        "relay_changed": f"a relay changed: {who or event.data.get('relay', '')}",
    }.get(event.type)
    if what is None:
        what = " ".join(part for part in (who, change.replace("_", " ") or event.type.replace("_", " ")) if part)
    return event.at, where, what


def names_of(clients: Sequence[dict[str, Client]]) -> dict[str, str]:
    return {client_id: client.name for known in clients for client_id, client in known.items()}
