"""The WebSocket of people, `/api/v1/ws`: events as they happen, and those that were missed.

`{"type": "subscribe", "network_id": "net_… or name", "since": 17}`; without a network all that one may see; without
`since` from now on. A second subscribe replaces the first. Answered by `subscribed`, then events with `seq` and `at`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.edge.access import foreign_origin, services, who_asks
from shadowmesh.controller.edge.links import FORBIDDEN, MALFORMED, receive
from shadowmesh.controller.edge.outbox import Outbox
from shadowmesh.controller.service.events import PAGE
from shadowmesh.controller.service.services import Services
from shadowmesh.model.api import Event
from shadowmesh.model.codec import from_json
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.ids import NetworkRef

_UNAUTHORISED = 4401


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe", frozen=True):
    network_id: str | None = None
    since: int | None = None


class _Watcher:
    """One connection's subscription."""

    def __init__(self, at: Services, who: Principal, outbox: Outbox) -> None:
        self._at = at
        self._who = who
        self._outbox = outbox
        self._wanted: frozenset[str] | None = frozenset()  # None: all
        self._last = 0
        self._catching_up: list[Event] | None = None

    async def subscribe(self, wish: Subscribe) -> None:
        ref: NetworkRef | None = None
        if wish.network_id is not None:
            ref = NetworkRef((await self._at.networks.show(self._who, wish.network_id[:100])).id)
            self._wanted = frozenset({ref})
        elif self._who.admin:
            self._wanted = None
        else:
            page = await self._at.networks.list(self._who, None, 1000)
            self._wanted = frozenset(network.id for network in page.items)
        # From here on what happens is held back until what was missed has been told.
        self._catching_up = []
        await self._at.events.flush()
        self._last = wish.since if wish.since is not None else await self._at.events.newest()
        self._outbox.post(json.dumps({"type": "subscribed", "seq": self._last, "network_id": ref}))
        missed = await self._at.events.since(self._who, self._last, ref)
        while missed:
            self._send(missed)
            missed = await self._at.events.since(self._who, self._last, ref) if len(missed) == PAGE else []
        held, self._catching_up = self._catching_up, None
        self._send(held)

    def happened(self, events: Sequence[Event]) -> None:
        if self._catching_up is not None:
            self._catching_up.extend(events)
        else:
            self._send(events)

    def _send(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.seq > self._last and self._concerns(event):
                self._outbox.post(event.model_dump_json())
                self._last = event.seq

    def _concerns(self, event: Event) -> bool:
        return self._wanted is None or event.network_id in self._wanted


async def watch(socket: WebSocket) -> None:
    at, outbox = services(socket), Outbox(socket)
    if foreign_origin(socket):
        await socket.close(FORBIDDEN)
        return
    await socket.accept()
    stop = None
    try:
        watcher = _Watcher(at, await who_asks(socket), outbox)
        stop = at.events.listen(watcher.happened)
        while True:
            await watcher.subscribe(from_json(await receive(socket), Subscribe))
    except WebSocketDisconnect:
        pass
    except MalformedError as e:
        await _fail(outbox, "malformed", str(e)[:300], MALFORMED)
    except ShadowMeshError as e:
        await _fail(outbox, e.code, str(e), _UNAUTHORISED if e.code == "not_signed_in" else MALFORMED)
    finally:
        if stop is not None:
            stop()
        outbox.stop()


async def _fail(outbox: Outbox, code: str, what: str, close: int) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        outbox.post(json.dumps({"type": "error", "code": code, "detail": what}))
        outbox.close(close, code)
        await outbox.flush()
