"""The WebSocket of people, `/api/v1/ws`: events as they happen, and those that were missed.

`{"type": "subscribe", "network_id": "net_… or name", "since": 17}`; without a network all that one may see; without
`since` from now on; who lacks `logs.view` gets at most what a short absence missed. A second subscribe replaces the first. Answered by `subscribed`, then events with `seq` and `at`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Annotated

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from shadowmesh.controller.authz import Permission, Principal
from shadowmesh.controller.edge.access import foreign_origin, services, who_asks
from shadowmesh.controller.edge.connections import proven
from shadowmesh.controller.edge.declared import DeclaredSocket
from shadowmesh.controller.edge.outbox import Outbox
from shadowmesh.controller.edge.pace import Pace
from shadowmesh.controller.edge.problems import public
from shadowmesh.controller.edge.websockets import FORBIDDEN, MALFORMED, REFUSED, receive
from shadowmesh.controller.service.events import PAGE, StoredEvent
from shadowmesh.controller.service.services import Services
from shadowmesh.model.codec import from_json
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.text import check_text

_UNAUTHORISED = 4401
_PACE = (10, 1.0)  # subscribes at once, and seconds for each more


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe", frozen=True):
    network_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    since: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


_SUBSCRIBING = frozenset({Permission.NETWORK_VIEW})


class _Watcher:
    """One connection's subscription. Rights are asked for at each subscribing, and again when they have changed."""

    def __init__(self, at: Services, who: Principal, socket: WebSocket, outbox: Outbox) -> None:
        self.who = who
        self._at = at
        self._socket = socket
        self._outbox = outbox
        self._turn = asyncio.Lock()
        self._wish: Subscribe | None = None
        self._wanted: frozenset[str] | None = frozenset()  # None: all
        self._overseen: frozenset[str] | None = frozenset()  # where others' machines are told of; None: everywhere
        self._last = 0
        self._behind = False  # what was missed isn't all told
        self._held: list[StoredEvent] | None = (
            None  # what happens while what was missed is told, or rights are in doubt
        )
        self._doubts = 0

    async def subscribe(self, wish: Subscribe) -> None:
        async with self._turn:
            ref = await self._see(self.who.narrowed(_SUBSCRIBING), wish)
            self._wish = wish
            self._held = self._held or []
            await self._at.events.flush()
            newest = await self._at.events.newest()
            # A number of the time before an older database was put back isn't waited for.
            self._last = newest if wish.since is None else min(wish.since, newest)
            self._outbox.post(json.dumps({"type": "subscribed", "seq": self._last, "network_id": ref}))
            await self._catch_up(ref)
            self._release()

    async def _catch_up(self, ref: NetworkRef | None) -> None:
        """Tells what was missed; where rights come into doubt meanwhile, `recheck` goes on with it."""
        self._behind = True
        while not self._doubts:
            missed = await self._at.events.since(self.who, self._last, ref)
            if self._doubts:
                return
            self._send(missed)
            if len(missed) < PAGE:
                self._behind = False
                return

    async def _see(self, who: Principal, wish: Subscribe) -> NetworkRef | None:
        """Takes up what is wished for, as far as `who` may see it. Raises ShadowMeshError(network_unknown)."""
        self._overseen = None if who.everywhere else await self._at.networks.overseen(who)
        if wish.network_id is not None:
            ref = NetworkRef(
                (await self._at.networks.show(who, check_text("network", wish.network_id, 100))).network_id
            )
            self._wanted = frozenset({ref})
            return ref
        self._wanted = None if who.everywhere else await self._at.networks.refs(who)
        return None

    def suspend(self) -> None:
        self._doubts += 1
        self._held = self._held or []

    async def recheck(self) -> None:
        async with self._turn:
            ref = None
            try:
                self.who = await who_asks(self._socket)
                if self._wish is not None:
                    ref = await self._see(self.who.narrowed(_SUBSCRIBING), self._wish)
            except ShadowMeshError as e:
                await self._end(e)
            self._doubts -= 1
            if self._behind:
                try:
                    await self._catch_up(ref)
                except ShadowMeshError as e:
                    await self._end(e)
            self._release()

    async def _end(self, error: ShadowMeshError) -> None:
        self._wanted, self._behind = frozenset(), False
        await _fail(self._outbox, error.code, public(error), _close_code(error))

    def happened(self, events: Sequence[StoredEvent]) -> None:
        if self._held is not None:
            self._held.extend(events)
        else:
            self._send(events)

    def _release(self) -> None:
        """Sends what was held back, unless rights are in doubt: then `recheck` does."""
        if self._doubts == 0 and self._held is not None:
            held, self._held = self._held, None
            self._send(held)

    def _send(self, events: Sequence[StoredEvent]) -> None:
        for event in events:
            if event.seq > self._last and self._concerns(event):
                self._outbox.post(event.model_dump_json())
                self._last = event.seq

    def _concerns(self, event: StoredEvent) -> bool:
        if self._wanted is None or event.network_id in self._wanted:
            return event.is_for(self.who, self._overseen)
        return event.network_id is None and bool(self._wanted)  # of a relay: it may serve whatever network


async def watch(socket: WebSocket) -> None:
    at, outbox = services(socket), Outbox(socket)
    if foreign_origin(socket):
        await socket.close(FORBIDDEN)
        return
    await socket.accept()
    with contextlib.ExitStack() as ending:
        ending.callback(outbox.stop)
        try:
            watcher = _Watcher(at, await who_asks(socket), socket, outbox)
            proven(socket)
            ending.callback(at.watchers.add(watcher))
            ending.callback(at.events.listen(watcher.happened))
            watcher.who = await who_asks(socket)  # once more: from here on no change is missed
            pace = Pace(*_PACE)
            while True:
                wish = from_json(await receive(socket), Subscribe)
                await pace.turn()
                await watcher.subscribe(wish)
        except WebSocketDisconnect:
            pass
        except MalformedError as e:
            await _fail(outbox, "malformed", str(e)[:300], MALFORMED)
        except ShadowMeshError as e:
            await _fail(outbox, e.code, public(e), _close_code(e))


def _close_code(error: ShadowMeshError) -> int:
    return _UNAUTHORISED if error.code == "not_signed_in" else REFUSED


async def _fail(outbox: Outbox, code: str, what: str, close: int) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        outbox.post(json.dumps({"type": "error", "code": code, "detail": what}))
        outbox.close(close, code)
        await outbox.flush()


SOCKET = DeclaredSocket(watch, Subscribe, {Subscribe: _SUBSCRIBING})
