"""One link per controller, whatever number of its networks this machine is in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from shadowmesh.client_api.link import (
    Connected,
    ControllerLink,
    Disconnected,
    IdentityChanged,
    LinkEvent,
    LinkRefused,
    MapChanged,
    MapRefused,
)
from shadowmesh.daemon.environment import Environment
from shadowmesh.daemon.network import LinkRefusal, Network
from shadowmesh.daemon.state import FormerNetwork, NetworkRecord
from shadowmesh.model.devicelink import (
    AuditCheckpoint,
    AuditQuery,
    AuditTestimony,
    Grant,
    Leave,
    LinkMessage,
    Pending,
    PresenceUpdate,
    Removed,
)
from shadowmesh.model.keys import NetworkID, Secret

if TYPE_CHECKING:
    from shadowmesh.protocol.signing import IdentityDocument, Signer

log = structlog.get_logger(__name__)

_ANEW = 5.0  # seconds


class LinkUser(Protocol):
    """Who is told what the controllers say: the daemon."""

    device: Signer
    boot_id: str
    networks: dict[NetworkID, Network]
    former: dict[NetworkID, FormerNetwork]

    async def connect(self, host: str, port: int, timeout: float, /) -> socket.socket: ...
    def link_changed(
        self, network: Network, connected: bool, refusal: LinkRefusal | None = None, away: str | None = None
    ) -> None: ...
    def forget(self, network_id: NetworkID) -> None: ...
    def identity_changed(self, fingerprint: str, identity: IdentityDocument) -> None: ...
    def clock_offset(self, network: Network, offset: float) -> None: ...
    def map_changed(self, network: Network, change: MapChanged) -> None: ...
    def message(self, network: Network, message: Grant | PresenceUpdate | Removed | Pending) -> None: ...
    def keep_checkpoint(self, fingerprint: str, checkpoint: AuditCheckpoint) -> None: ...
    def checkpoints(self, fingerprint: str) -> tuple[AuditCheckpoint, ...]: ...


class ControllerLinks:
    """Follows the set of networks, and of those whose controllers are still to be told that they were left: `refresh`
    after each change of it."""

    def __init__(self, user: LinkUser, environment: Environment) -> None:
        self._user = user
        self._environment = environment
        self._links: dict[str, ControllerLink] = {}  # by fingerprint
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()  # of links that nobody needs any more
        self._again: asyncio.TimerHandle | None = None
        self._stopping = False

    def _networks(self, fingerprint: str) -> list[Network]:
        return [n for n in self._user.networks.values() if n.record.controller.fingerprint == fingerprint]

    def _keys(self, fingerprint: str, network_id: NetworkID) -> Mapping[int, Secret]:
        return next((n.keys for n in self._networks(fingerprint) if n.id == network_id), {})

    def _left(self, fingerprint: str) -> list[FormerNetwork]:
        return [
            f
            for f in self._user.former.values()
            if f.state == "left" and f.record.controller.fingerprint == fingerprint
        ]

    def refresh(self) -> None:
        """Opens links to controllers that have networks here, tells them of new ones, closes the others."""
        if self._stopping:
            return
        records = [n.record for n in self._user.networks.values()]
        records += [f.record for f in self._user.former.values() if f.state == "left"]
        wanted: dict[str, list[NetworkRecord]] = {}
        for record in records:
            wanted.setdefault(record.controller.fingerprint, []).append(record)
        for fingerprint in [f for f in self._links if f not in wanted]:
            del self._links[fingerprint]
            task = self._tasks.pop(fingerprint)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for fingerprint, members in wanted.items():
            link = self._links.get(fingerprint)
            if link is None:
                self._open(fingerprint, members)
                continue
            for gone in link.networks - {r.network_id for r in members}:
                link.forget(gone)
            for network in self._networks(fingerprint):
                if network.map is not None:
                    link.hold(network.map)
                link.joined(network.id)

    def joined(self, network: Network) -> None:
        """A membership made just now, perhaps in the place of one that its link knows of: all about it is told anew."""
        link = self._links.get(network.record.controller.fingerprint)
        if link is not None:
            link.forget(network.id)
        self.refresh()

    def _open(self, fingerprint: str, records: list[NetworkRecord]) -> None:
        identity = records[0].controller.identity
        link = self._environment.link(
            urls=identity.urls,
            fingerprint=fingerprint,
            device=self._user.device,
            boot_id=self._user.boot_id,
            identity=identity,
            maps=[n.map for n in self._networks(fingerprint) if n.map is not None],
            networks=[r.network_id for r in records],
            wall=lambda: self._environment.clock().wall,
            keys=partial(self._keys, fingerprint),
            connect=self._user.connect,
        )
        self._links[fingerprint] = link
        self._tasks[fingerprint] = asyncio.create_task(self._follow(fingerprint, link))

    async def _follow(self, fingerprint: str, link: ControllerLink) -> None:
        try:
            async for event in link.run():
                if self._links.get(fingerprint) is link:  # one that is ended has nothing to say any more
                    self._event(fingerprint, event)
        except asyncio.CancelledError:
            await link.close()
            raise
        except Exception:
            # Anything that a controller makes happen here must not end the daemon's link to it.
            log.exception("link failed; opening it anew", controller=fingerprint)
            await link.close()
            if self._links.get(fingerprint) is link:
                del self._links[fingerprint]
                del self._tasks[fingerprint]
                if self._again is not None:
                    self._again.cancel()
                self._again = asyncio.get_running_loop().call_later(_ANEW, self.refresh)

    def _event(self, fingerprint: str, event: LinkEvent) -> None:
        user = self._user
        networks = self._networks(fingerprint)
        match event:
            case Connected():
                log.info("controller connected", url=event.url)
                for network in networks:
                    user.clock_offset(network, event.offset)
                    user.link_changed(network, True)
                for former in self._left(fingerprint):
                    leaving = Leave(network_id=former.record.network_id, wg_key=former.wg_key)
                    self._links[fingerprint].post(leaving)
            case Disconnected():
                log.warning("controller away", why=str(event.error), retry_in=round(event.retry_in, 1))
                for network in networks:
                    user.link_changed(network, False, away=event.error.what)
            case IdentityChanged():
                log.info("controller's identity changed", urls=event.identity.urls)
                user.identity_changed(fingerprint, event.identity)
            case LinkRefused():
                log.error("controller refuses this device", code=event.code, why=event.what)
                for network in networks:
                    user.link_changed(network, False, LinkRefusal(event.code, event.what))
            case AuditCheckpoint():
                user.keep_checkpoint(fingerprint, event)
            case AuditQuery():
                testimony = AuditTestimony(nonce=event.nonce, checkpoints=user.checkpoints(fingerprint))
                self._links[fingerprint].post(testimony)
            case _:
                if any(f.record.network_id == event.network_id for f in self._left(fingerprint)):
                    if isinstance(event, Removed):
                        user.forget(event.network_id)
                    return
                concerned = next((n for n in networks if n.id == event.network_id), None)
                if concerned is None:
                    log.warning(
                        "ignored: a network of another controller", controller=fingerprint, message=type(event).__name__
                    )
                    return
                if isinstance(event, MapChanged):
                    user.map_changed(concerned, event)
                elif isinstance(event, MapRefused):
                    log.error("older map refused", network=concerned.name, held=event.held, offered=event.offered)
                else:
                    user.message(concerned, event)

    def send(self, network_id: NetworkID, message: LinkMessage) -> bool:
        """False if the controller isn't connected: what it needs is told anew on connecting."""
        network = self._user.networks.get(network_id)
        link = None if network is None else self._links.get(network.record.controller.fingerprint)
        return link is not None and link.post(message)

    async def look(self, patience: float) -> dict[str, float]:
        """Seconds since each connected controller was last heard, by fingerprint. Those that were quiet are asked, and waited for."""
        links = list(self._links.items())
        silences = await asyncio.gather(*(link.silence(patience) for _, link in links))
        return {
            fingerprint: silence
            for (fingerprint, _), silence in zip(links, silences, strict=True)
            if silence is not None
        }

    def kick(self) -> None:
        """The host's network changed, or it woke."""
        for link in self._links.values():
            link.kick()

    async def stop(self) -> None:
        """Ends all links. None is opened meanwhile; `refresh` opens them again."""
        self._stopping = True
        try:
            links, tasks = list(self._links.values()), list(self._tasks.values())
            self._links.clear()
            self._tasks.clear()
            await asyncio.gather(*(link.close() for link in links), return_exceptions=True)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._ending, return_exceptions=True)
        finally:
            self._stopping = False
            if self._again is not None:
                self._again.cancel()
                self._again = None
