"""The methods of the daemon's socket: what the client verbs ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from shadowmesh import __version__
from shadowmesh.client_api.ownenrolment import CertificateSignIn, OwnEnrolment, own_invite
from shadowmesh.daemon import naming
from shadowmesh.daemon.daemon import ASK_FIRST, Daemon
from shadowmesh.daemon.ended import former_status, join_result
from shadowmesh.daemon.join import enrol
from shadowmesh.daemon.local_api import Access, Caller, Method
from shadowmesh.daemon.network import Network
from shadowmesh.daemon.params import netns_of, number, one_of, text, text_or_none
from shadowmesh.daemon.ping import pings
from shadowmesh.daemon.selfenrolment import SelfEnrolment, TokenFile, keep_certificate
from shadowmesh.daemon.state import FormerNetwork
from shadowmesh.daemon.wgexport import free_port, stated_endpoint, wireguard_config
from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.devicelink import Leave
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import Member
from shadowmesh.model.status import JoinResult, NetworkStatus, PingTry, Status, Why
from shadowmesh.protocol.noise import public_key
from shadowmesh.serving.tasks import in_thread

_LEAVE_GRACE = 2.0
_OWN_INVITE = 30.0  # seconds
_LOOK = 0.5
_LOOK_PATIENCE = 1.0  # seconds for a quiet controller to answer before a status is shown without
_CHECK = 10.0  # seconds for the event loop to say whether this host can carry a network


class Api:
    """`methods` is for LocalApi."""

    def __init__(self, daemon: Daemon, own: OwnEnrolment | None = None) -> None:
        """`own`: how this machine enrols itself, when `start` is called."""
        self._daemon = daemon
        self.self_enrolment = (
            None
            if own is None
            else SelfEnrolment(
                own,
                lambda: [n.record for n in daemon.networks.values()],
                daemon.former.values,
                self._enrol_itself,
                daemon.changed,
            )
        )
        self._now = daemon.environment.clock
        self._joining: set[NetworkID] = set()
        self.methods: dict[str, tuple[Access, Method]] = {
            "status": (Access.STATUS, self.status),
            "watch": (Access.STATUS, self.watch),
            "join": (Access.CHANGE, self.join),
            "network": (Access.STATUS, self.network),
            "leave": (Access.CHANGE, self.leave),
            "up": (Access.CHANGE, self.up),
            "down": (Access.CHANGE, self.down),
            "ping": (Access.READ, self.ping),
            "why": (Access.READ, self.why),
            "wait": (Access.STATUS, self.wait),
            "check_usable": (Access.STATUS, self.check_usable),
            "export_wireguard": (Access.CHANGE, self.export_wireguard),
            "reset_identity": (Access.CHANGE, self.reset_identity),
        }

    def start(self) -> None:
        """Begins what needs nobody to ask for it."""
        if self.self_enrolment is not None:
            self._daemon.spawn(self.self_enrolment.run())
            sign_in = self.self_enrolment.wish.sign_in
            if isinstance(sign_in, CertificateSignIn):
                self._daemon.spawn(keep_certificate(self.self_enrolment.wish, sign_in, self._daemon.connect))

    async def _enrol_itself(self, wish: OwnEnrolment) -> None:
        tokens = TokenFile(self._daemon.state.directory)
        work = partial(own_invite, wish, tokens, connect=self._daemon.connect, timeout=_OWN_INVITE)
        invite, _ = await in_thread(work)
        await self._enrol({"invite": invite, "name": wish.name}, _OWN_INVITE)

    # status

    async def status(self, caller: Caller, _params: dict[str, Any]) -> Status:
        return self._status(caller, await self._daemon.links.look(_LOOK_PATIENCE))

    async def watch(self, caller: Caller, params: dict[str, Any]) -> AsyncIterator[Status]:
        """A Status now, at each change (at most ten a second), and at least each `interval_s`."""
        interval = max(0.1, number(params, "interval_s", 1.0))
        changed = asyncio.Event()
        stop = self._daemon.watch(changed)
        patience = _LOOK_PATIENCE
        try:
            while True:
                changed.clear()
                yield self._status(caller, await self._daemon.links.look(patience))
                patience = 0.0  # the next look shows what the answer to this one was
                await asyncio.sleep(0.1)
                await _wait_for(changed, interval - 0.1)
        finally:
            stop()

    def _status(self, caller: Caller, silences: dict[str, float]) -> Status:
        """`silences`: of controllers, by fingerprint."""
        daemon = self._daemon
        networks = [self._network_status(n, caller, silences) for n in daemon.networks.values()]
        networks += [former_status(f) for f in self._ended()]
        nat = daemon.mesh.node.nat
        if caller.access < Access.READ:
            nat = msgspec.structs.replace(nat, public=None, opened=None)
        networks.sort(key=lambda n: n.name)
        warnings = [*daemon.host.warnings, *(f"{n.name}: {n.error}" for n in networks if n.error)]
        warnings += [f"{n.name}: {n.trouble}" for n in daemon.networks.values() if n.trouble]
        warnings += [
            f"{f.record.name}: left; its controller will be told when it can be reached"
            for f in daemon.former.values()
            if f.state == "left"
        ]
        if self.self_enrolment is not None and self.self_enrolment.trouble is not None:
            warnings.append(self.self_enrolment.trouble)
        if daemon.keeper.warning is not None:
            warnings.append(daemon.keeper.warning)
        counters = daemon.mesh.node.counters
        return Status(
            version=__version__,
            pump=daemon.mesh.pump_name,
            networks=tuple(networks),
            nat=nat,
            warnings=tuple(warnings),
            drops=counters.drops(None) if counters is not None else {},
        )

    def _network_status(self, network: Network, caller: Caller, silences: dict[str, float]) -> NetworkStatus:
        daemon, moment = self._daemon, self._now()
        silence = silences.get(network.record.controller.fingerprint) if network.connected else None
        running = network.interface is not None
        peers = daemon.mesh.node.status(network.id, moment) if running else []
        if caller.access < Access.READ:
            peers = [msgspec.structs.replace(p, endpoint=None) for p in peers]
        return NetworkStatus(
            name=network.name,
            network_id=str(network.id),
            ip=network.record.ip,
            interface=network.interface.name if network.interface is not None else "",
            netns=network.record.netns,
            state=network.run_state,
            controller="connected" if network.connected else "offline",
            map_serial=network.map.serial if network.map is not None else 0,
            epoch=daemon.mesh.node.epoch(network.id, moment) if running else max(network.keys, default=0),
            client_id=network.record.client_id,
            client_name=network.record.client_name,
            subnet=str(network.map.head.subnet) if network.map is not None else "",
            home_relay=daemon.mesh.node.relay_name(network.id) if running else None,
            error=network.complaint if caller.access >= Access.READ else network.public_complaint,
            controller_error=network.away if caller.access >= Access.READ else None,
            controller_silent_s=None if silence is None else round(silence, 1),
            clock_offset_s=round(network.clock_offset(moment), 3),
            network_ref=None if network.map is None else network.map.head.network_ref,
            peers=tuple(peers),
        )

    # networks

    async def join(self, _caller: Caller, params: dict[str, Any]) -> JoinResult:
        """Within `timeout_s`, first contact included. What has been begun is finished, whether someone waits or not."""
        timeout = number(params, "timeout_s", 30.0)
        end = self._now().boot + timeout
        network = await asyncio.shield(self._daemon.spawn(self._enrol(params, timeout)))
        if params.get("wait", True) and network.record.approved:
            left = end - self._now().boot
            if not await self._until(lambda: network.run_state == "up" and network.error is None, left):
                raise ShadowMeshError(
                    "not_up", f"{network.name} was joined but is not up: {network.complaint or 'no map yet'}",
                    "`shadowmesh status` follows it",
                )  # fmt: skip
        return join_result(network)

    async def _enrol(self, params: dict[str, Any], timeout: float) -> Network:
        daemon, loop = self._daemon, asyncio.get_running_loop()
        netns = netns_of(params) or None
        mine: set[NetworkID] = set()  # the network, once it is known

        async def check(network_id: NetworkID, name: str, subnets: tuple[IPNetwork, ...]) -> None:
            if network_id in self._joining:  # of two enrolments of one device the controller knows the last one's keys
                raise ShadowMeshError(
                    "join_under_way", f"this machine is joining {name} already", "`shadowmesh status` follows it",
                    kind=Kind.CONFLICT,
                )  # fmt: skip
            daemon.carrier.check_wish(name, subnets, network_id, netns)
            mine.add(network_id)
            self._joining.add(network_id)

        def refuse(network_id: NetworkID, name: str, subnets: tuple[IPNetwork, ...]) -> None:
            asked = asyncio.run_coroutine_threadsafe(check(network_id, name, subnets), loop)
            try:
                asked.result(_CHECK)
            except TimeoutError as e:
                asked.cancel()
                raise ShadowMeshError(
                    "busy", f"the daemon was too busy for {_CHECK:.0f} s to say whether this host can carry {name}",
                    "join again; the invite is as good as before", kind=Kind.CONFLICT,
                ) from e  # fmt: skip

        work = partial(
            enrol,
            daemon.state,
            text(params, "invite"),
            name=text_or_none(params, "name"),
            controller=text_or_none(params, "controller"),
            fingerprint=text_or_none(params, "fingerprint"),
            refuse=refuse,
            netns=netns,
            connect=daemon.connect,
            timeout=timeout,
        )
        try:
            with daemon.enrolling():
                record = await in_thread(work)  # a daemon that ends doesn't wait for it: the same invite joins again
                known = daemon.networks.get(record.network_id)
                if known is not None:
                    daemon.carrier.take_down(known)
                network = daemon.add(record)
                daemon.links.joined(network)
                return network
        finally:
            self._joining -= mine

    async def network(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        """Which network a person means, an ended one too. Raises ShadowMeshError: network_unknown, ambiguous."""
        name = text(params, "network")
        former = self._former(name)
        record = former.record if former is not None else naming.find(self._daemon.networks.values(), name).record
        return {"name": record.name, "network_id": str(record.network_id)}

    async def leave(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        """The keys here go at once; a controller that can't be reached is told when it can."""
        name = text(params, "network")
        former = self._former(name)
        if former is not None:
            self._daemon.forget(former.record.network_id)
            return {"name": former.record.name, "controller_told": True}
        network = self._find(name)
        leaving = Leave(network_id=network.id, wg_key=public_key(network.secrets.wg_private))
        told = self._daemon.links.send(network.id, leaving)
        gone = told and await self._until(lambda: network.id not in self._daemon.networks, _LEAVE_GRACE)
        if network.id in self._daemon.networks:
            self._daemon.end(network, "left")
        return {"name": network.name, "controller_told": bool(gone)}

    async def reset_identity(self, _caller: Caller, _params: dict[str, Any]) -> dict[str, Any]:
        return {"networks": await self._daemon.reset_identity()}

    async def up(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        """`netns` puts one into a network namespace, an empty one back. Raises ShadowMeshError for the first that isn't up
        after all were tried."""
        chosen, failed = self._chosen(params), None
        asked = netns_of(params)
        for network in chosen:
            netns = network.record.netns if asked is None else asked or None
            moves = netns != network.record.netns
            if (network.interface is None or moves) and network.map is not None and network.record.approved:
                self._daemon.carrier.check_wish(network.name, network.map.head.subnets, network.id, netns)
            if moves:
                self._daemon.carrier.take_down(network)
            network.change(wanted=True, netns=netns)
            self._daemon.carrier.bring_up(network)
        for network in chosen:
            await self._until(lambda network=network: self._settled(network), ASK_FIRST)  # type: ignore[misc]
            failed = failed or self._not_up(network)
        if params.get("network") is None:  # asked for all: those that others ended are among them
            failed = failed or next(map(naming.ended_error, self._ended()), None)
            failed = failed or (None if chosen else naming.not_in_any((), ()))
        if failed is not None:
            raise failed
        return {"networks": [self._brief(n) for n in chosen]}

    async def down(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        chosen, saved = self._chosen(params), True
        for network in chosen:
            self._daemon.carrier.take_down(network)
            saved = network.change(wanted=False) and saved
        if not saved:
            assert self._daemon.keeper.failure is not None
            raise ShadowMeshError(
                "not_saved", f"down, but not kept over a restart: {self._daemon.keeper.failure.what}",
                self._daemon.keeper.failure.remedy,
            )  # fmt: skip
        return {"networks": [self._brief(n) for n in chosen]}

    def _settled(self, network: Network) -> bool:
        """Whether it is known if the controller takes this machine, as far as it can be: a copied machine is never up."""
        return network.answered or network.id not in self._daemon.networks

    def _not_up(self, network: Network) -> ShadowMeshError | None:
        """What to say of a network that isn't up, and doesn't wait for approval."""
        former = self._daemon.former.get(network.id)
        if former is not None:
            return naming.ended_error(former)
        state = network.run_state
        if state in ("up", "pending-approval"):
            return None
        if network.refusal is not None and network.refusal.duplicate:
            return ShadowMeshError(
                network.refusal.code, f"{network.name} isn't up: {network.refusal.what}",
                "if this machine is a copy: `shadowmesh daemon reset-identity`, and join again", kind=Kind.CONFLICT,
            )  # fmt: skip
        kind = Kind.NOT_ALLOWED if state == "refused" else Kind.FAILED
        return ShadowMeshError(
            "not_up", f"{network.name} isn't up: {network.complaint or 'it has no map yet'}",
            "`shadowmesh status` follows it", kind=kind,
        )  # fmt: skip

    @staticmethod
    def _brief(network: Network) -> dict[str, Any]:
        interface = network.interface.name if network.interface is not None else ""
        return {
            "name": network.name,
            "network_id": str(network.id),
            "client_name": network.record.client_name,
            "ip": network.record.ip,
            "interface": interface,
            "state": network.run_state,
        }

    # peers

    async def ping(self, _caller: Caller, params: dict[str, Any]) -> AsyncIterator[PingTry]:
        network, member = self.peer(text(params, "peer"))
        count = None if params.get("until_direct") else int(number(params, "count", 4))
        timeout = number(params, "timeout_s", 30.0)
        daemon = self._daemon
        async for attempt in pings(daemon.environment, daemon.mesh, network, member, count=count, timeout=timeout):
            yield attempt

    async def why(self, _caller: Caller, params: dict[str, Any]) -> Why:
        network, member = self.peer(text(params, "peer"))
        self._running(network)
        return self._daemon.mesh.node.why(network.id, member.client_id, self._now())

    async def wait(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        """Until a network is up, or a peer answers (`up`) or is direct."""
        target, state = text(params, "target"), one_of(params, "state", "up", "direct")
        timeout = number(params, "timeout_s", 30.0)
        started = self._now().boot
        former = self._former(target)
        if former is not None:
            raise naming.ended_error(former)
        if any(naming.means(n.record, target) for n in self._daemon.networks.values()):
            network = self._find(target)
            await self._until(lambda: self._settled(network), min(timeout, ASK_FIRST))

            def over() -> bool:
                return network.run_state in ("up", "duplicate", "refused") or network.id in self._daemon.former

            reached = await self._until(over, timeout - (self._now().boot - started))
            hint = "`shadowmesh status` follows it"
            failed = self._not_up(network) if reached else None
            if network.run_state == "pending-approval":
                failed = naming.waiting(network.record)
            if failed is not None:
                raise failed
        else:
            if caller.access < Access.READ:  # it pings
                raise ShadowMeshError(
                    "not_allowed", "this user may not use `shadowmesh wait` for a peer", "run it as root",
                    kind=Kind.NOT_ALLOWED,
                )  # fmt: skip
            reached = False
            hint = f"see `shadowmesh why {target}`"
            want_direct = state == "direct"
            async for attempt in self.ping(caller, {"peer": target, "until_direct": True, "timeout_s": timeout}):
                if attempt.ok and (attempt.path == "direct" or not want_direct):
                    reached = True
                    break
        if not reached:
            raise ShadowMeshError("not_reached", f"{target} was not {state} within {timeout:.0f} s", hint)
        return {"target": target, "state": state, "seconds": round(self._now().boot - started, 3)}

    async def check_usable(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        """Raises what `ping` would, where this machine can't have peers: no network, one that ended, or that waits."""
        chosen = self._chosen(params)
        failed = naming.not_in_any(chosen, self._ended())
        if failed is not None:
            raise failed
        return {"networks": [n.name for n in chosen]}

    async def export_wireguard(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        endpoint = None if params.get("endpoint") is None else stated_endpoint(str(params["endpoint"]))
        network, member = self.peer(text(params, "peer"))
        takeover = bool(params.get("takeover"))
        if not takeover:
            raise ShadowMeshError(
                "daemon_up", f"{network.name} runs here, and one identity can't run twice",
                "say --takeover to stop it here", kind=Kind.CONFLICT,
            )  # fmt: skip
        self._running(network)
        node, moment = self._daemon.mesh.node, self._now()
        export = node.export_wireguard(network.id, member.client_id, moment)
        config = wireguard_config(
            network.name,
            member,
            export,
            listen_port=free_port(),
            epoch=node.epoch(network.id, moment),
            endpoint=endpoint,
        )
        network.change(wanted=False)
        self._daemon.carrier.take_down(network)
        return {"config": config, "peer": member.name, "network": network.name}

    # finding

    def _running(self, network: Network) -> None:
        if network.interface is None:
            raise ShadowMeshError(
                "network_down", f"{network.name} is {network.run_state} here", f"`shadowmesh up {network.name}`",
                kind=Kind.CONFLICT,
            )  # fmt: skip

    def _former(self, name: str) -> FormerNetwork | None:
        """One that ended by others' will, where no network of today goes by this name."""
        if any(naming.means(n.record, name) for n in self._daemon.networks.values()):
            return None
        return next((f for f in self._ended() if naming.means(f.record, name)), None)

    def _ended(self) -> list[FormerNetwork]:
        """Those that ended by others' will."""
        return [f for f in self._daemon.former.values() if f.state != "left"]

    def _find(self, name: str) -> Network:
        former = self._former(name)
        if former is not None:
            raise naming.ended_error(former)
        return naming.find(self._daemon.networks.values(), name)

    def _chosen(self, params: dict[str, Any]) -> list[Network]:
        name = params.get("network")
        return _by_name(self._daemon.networks.values()) if name is None else [self._find(str(name))]

    def peer(self, text: str) -> tuple[Network, Member]:
        """The one peer that a person means: NAME, NAME@NETWORK, an overlay address or a client id."""
        name, _, network_name = text.partition("@")
        networks = [self._find(network_name)] if network_name else _by_name(self._daemon.networks.values())
        found = [(n, m) for n in networks for m in _members(n) if naming.means_member(m, name)]
        if len(found) == 1:
            return found[0]
        if found:
            all_here = self._daemon.networks.values()
            candidates = ", ".join(f"{m.name}@{naming.label(n, all_here)}" for n, m in found)
            raise ShadowMeshError("ambiguous", f"{text} names several peers", f"say {candidates}", kind=Kind.USAGE)
        raise naming.no_peer(text, networks, [] if network_name else self._ended())

    async def _until(self, reached: Callable[[], bool], timeout: float) -> bool:
        """Whether it came true within `timeout` seconds; looked at on each change, and now and then."""
        changed = asyncio.Event()
        stop = self._daemon.watch(changed)
        end = self._now().boot + timeout
        try:
            while not reached():
                left = end - self._now().boot
                if left <= 0:
                    return False
                changed.clear()
                await _wait_for(changed, min(left, _LOOK))
            return True
        finally:
            stop()


def _members(network: Network) -> Iterator[Member]:
    if network.map is not None:
        yield from (m for m in network.map.members if m.client_id != network.record.client_id)


def _by_name(networks: Any) -> list[Network]:
    return sorted(networks, key=lambda n: n.name)


async def _wait_for(event: asyncio.Event, timeout: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(timeout, 0.0))
