"""Webhooks and syslog: making, listing, ending them. A sink lives by the rights of who made it (`standing`)."""

from __future__ import annotations

import builtins
import datetime as dt
import hmac
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    Permission,
    Principal,
    find_network,
    permissions_in,
    require_admin,
    require_in,
    require_signed_in,
    sees_others,
    standings,
    visible,
)
from shadowmesh.controller.outward.destinations import Destinations, networks_of, resolve
from shadowmesh.controller.outward.webhookpost import new_webhook_secret
from shadowmesh.controller.refusals import conflict, not_allowed, not_found, usage
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.sinkstreams import Wanted, first_kept, newest
from shadowmesh.controller.settings import Settings
from shadowmesh.controller.store import schema
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.ids import NetworkRef, new_id
from shadowmesh.model.keys import Secret
from shadowmesh.model.receivers import (
    Sink,
    SinkCompared,
    SinkCreated,
    SinkState,
    SyslogCreate,
    SyslogPatch,
    WebhookCreate,
    WebhookPatch,
    blinded,
    digest_of,
    place_of,
)

MOST_OF_A_NETWORK = 20
MOST_OF_ALL = 1000
Kind = Literal["webhook", "syslog"]
_NEEDED = frozenset({Permission.NETWORK_CONFIGURE, Permission.LOGS_VIEW})  # and to see what others' machines did
_AFTER_DELETION = dt.timedelta(hours=1)
_PREFIXES: Mapping[Kind, str] = {"webhook": "whk", "syslog": "slg"}


class SealedTarget(Struct, frozen=True, kw_only=True):
    """What lies encrypted in the database."""

    url: str
    secret: str = ""


@dataclass(frozen=True, slots=True)
class SinkStanding:
    """A sink's row with what its maker may do now: see what it sends (`may`); and whether it may lead `anywhere`, as it was
    made by an administrator who had no limits, and is one still."""

    row: Row[Any]
    may: bool
    anywhere: bool

    @property
    def wanted(self) -> Wanted:
        ref = None if self.row.network_ref is None else NetworkRef(self.row.network_ref)
        return Wanted(self.row.stream, ref, frozenset(self.row.events))


def standing_sinks(conn: Connection, *conditions: sa.ColumnElement[bool]) -> list[SinkStanding]:
    s, u, n = schema.sinks, schema.users, schema.networks
    query = (
        sa.select(s, u.c.disabled, u.c.admin, u.c.email, n.c.name.label("network_name"))
        .outerjoin(u, u.c.id == s.c.owner_id)
        .outerjoin(n, n.c.ref == s.c.network_ref)
        .where(*conditions)
        .order_by(s.c.id)
    )
    rows = conn.execute(query).all()
    people = {row.email for row in rows if row.disabled is False and row.network_ref is not None and not row.admin}
    held = standings(conn, people, {row.network_ref for row in rows} - {None}) if people else {}
    found = []
    for row in rows:
        admin = row.owner_id is None or (row.disabled is False and bool(row.admin))
        theirs = held.get((row.email, row.network_ref)) if row.disabled is False else None
        owns = theirs is not None and theirs.permissions >= _NEEDED and theirs.oversees and row.stream != "audit"
        found.append(SinkStanding(row, admin or owns, admin and row.anywhere))
    return found


def forget_of_deleted(conn: Connection, now: dt.datetime) -> None:
    """Of networks that are no more, once the last events of them had time to be sent."""
    s, n = schema.sinks, schema.networks
    gone = sa.select(n.c.ref).where(n.c.deleted_at < now - _AFTER_DELETION)
    conn.execute(s.delete().where(s.c.network_ref.in_(gone)))


def destinations(settings: Settings, *, anywhere: bool) -> Destinations:
    own = frozenset(urlsplit(url).hostname or "" for url in settings.announced_urls)
    return Destinations(anywhere, networks_of(settings.webhook_networks), own)


def open_target(context: ServiceContext, row: Row[Any]) -> SealedTarget:
    return from_json(context.keys.vault.decrypt(row.sealed, f"sink {row.id}").reveal(), SealedTarget)


class Sinks:
    def __init__(self, context: ServiceContext, position: Callable[[str], int | None]) -> None:
        """`position`: up to which number a sink was sent by this node, if it was."""
        self._context = context
        self._position = position

    async def create_webhook(
        self, who: Principal, network: str | None, wish: WebhookCreate, once: IdempotentRequest | None = None
    ) -> SinkCreated:
        """Of a network, or with None of all of them. Raises ShadowMeshError: address_refused, too_many_webhooks, …"""
        if wish.stream != "events" and wish.events:
            raise usage("bad_webhook", f"the stream {wish.stream} has no types of events", "leave them out")
        if wish.stream == "audit" and network is not None:
            raise usage("bad_webhook", "the audit log is of the whole controller", "leave out the network")
        if network is None:
            require_admin(who)
        if not who.whole.administers:
            await self._check_place(who, network, wish.url)
        target = SealedTarget(url=wish.url, secret=wish.secret or new_webhook_secret())
        return await self._create("webhook", who, network, target, wish, list(wish.events), once)

    async def create_syslog(
        self, who: Principal, wish: SyslogCreate, once: IdempotentRequest | None = None
    ) -> SinkCreated:
        require_admin(who)
        return await self._create("syslog", who, None, SealedTarget(url=wish.url), wish, [], once)

    async def _check_place(self, who: Principal, network: str | None, url: str) -> None:
        """Nobody learns what a name stands for who may not make a webhook."""
        name = network or ""
        await self._context.read(lambda conn: _find_own(conn, who, name))
        parts = urlsplit(url)
        if parts.scheme != "https":
            raise usage("bad_webhook", "an owner's webhook has an https:// URL", "give one, or ask an administrator")
        allowed = destinations(self._context.settings, anywhere=False)
        await resolve(parts.hostname or "", parts.port or 443, allowed)

    async def _create(
        self,
        kind: Kind,
        who: Principal,
        network_name: str | None,
        target: SealedTarget,
        wish: WebhookCreate | SyslogCreate,
        events: builtins.list[str],
        once: IdempotentRequest | None,
    ) -> SinkCreated:
        context, s = self._context, schema.sinks
        _check_ca(wish.ca)

        def tx(conn: Connection) -> SinkCreated:
            now = context.now()
            require_signed_in(conn, who, now)
            network = None
            if network_name is not None:
                network = _find_own(conn, who, network_name, lock=True)
            if once and (earlier := once.found(context, conn, who, SinkCreated)):
                return earlier
            ref = None if network is None else network.ref
            _check_room(conn, ref)
            sink_id, place = new_id(_PREFIXES[kind]), place_of(target.url)
            name = wish.name or sink_id
            _check_free(conn, kind, ref, name)
            last = newest(conn)[wish.stream]
            sealed = context.keys.vault.encrypt(Secret(to_json(target)), f"sink {sink_id}")
            conn.execute(
                s.insert().values(
                    id=sink_id,
                    kind=kind,
                    name=name,
                    name_key=name.lower(),
                    network_ref=ref,
                    owner_id=who.user_id,
                    made_by=who.key,
                    anywhere=who.whole.administers,
                    created_by=who.name,
                    created_at=now,
                    place=place,
                    sealed=sealed,
                    ca=wish.ca or None,
                    stream=wish.stream,
                    events=events,
                    after=first_kept(conn, wish.stream, last) - 1 if wish.backlog else last,
                    delivered=0,
                    dropped=0,
                    attempts=0,
                    gone=False,
                )
            )
            after = {"place": place, "stream": wish.stream, "events": events, "backlog": wish.backlog}
            after |= {"name": name} if name != sink_id else {}
            more = {} if network is None else {"network": network.name}
            record(context, conn, who, f"{kind}.create", place, id=sink_id, after=after, **more)
            (made,) = standing_sinks(conn, s.c.id == sink_id)
            answer = SinkCreated(**self._view(who, made, newest(conn)).model_dump(), secret=target.secret or None)
            if once:
                once.keep(context, conn, who, answer)
            return answer

        return await context.write(tx)

    async def list(self, who: Principal, kind: Kind, network: str | None = None) -> builtins.list[Sink]:
        """Those that `who` may end: an administrator all, others those of networks that they configure."""
        s = schema.sinks

        def tx(conn: Connection) -> list[Sink]:
            n = schema.networks
            condition: sa.ColumnElement[bool] = sa.true()
            if network is not None:
                condition = s.c.network_ref == find_network(conn, who, network, Permission.NETWORK_CONFIGURE).ref
            elif not who.whole.administers:
                mine = sa.select(n.c.ref).where(
                    n.c.deleted_at.is_(None), visible(conn, who, Permission.NETWORK_CONFIGURE)
                )
                condition = s.c.network_ref.in_(mine)
            last = newest(conn)
            return [self._view(who, found, last) for found in standing_sinks(conn, s.c.kind == kind, condition)]

        return await self._context.read(tx)

    async def set(self, who: Principal, kind: Kind, sink_id: str, wish: WebhookPatch | SyslogPatch) -> Sink:
        """Leads it elsewhere, or signs otherwise: nothing of what waits is lost. From then on it lives by the rights of `who`."""
        context, s = self._context, schema.sinks
        events = wish.events if isinstance(wish, WebhookPatch) else None
        secret = wish.secret if isinstance(wish, WebhookPatch) else None
        _check_ca(wish.ca or None)
        if wish.url is not None and not who.whole.administers:
            found = await context.read(lambda conn: find_sink(conn, who, kind, sink_id))
            await self._check_place(who, found.row.network_ref, wish.url)

        def tx(conn: Connection) -> Sink:
            require_signed_in(conn, who, context.now())
            row = find_sink(conn, who, kind, sink_id).row
            if row.network_ref is not None:
                _find_own(conn, who, row.network_ref)
            if events and row.stream != "events":
                raise usage("bad_webhook", f"the stream {row.stream} has no types of events", "leave them out")
            old = open_target(context, row)
            target = SealedTarget(url=wish.url or old.url, secret=secret or old.secret)
            place = place_of(target.url)
            values: dict[str, Any] = {
                "place": place,
                "sealed": context.keys.vault.encrypt(Secret(to_json(target)), f"sink {row.id}"),
                "ca": row.ca if wish.ca is None else wish.ca or None,
                "events": row.events if events is None else builtins.list(events),
                "owner_id": who.user_id,
                "made_by": who.key,
                "anywhere": who.whole.administers,
                "created_by": who.name,
                "attempts": 0,
                "last_error": None,
                "failing_since": None,
                "next_attempt": None,
                "gone": False,
            }
            conn.execute(s.update().where(s.c.id == row.id).values(values))
            before = {"place": row.place, "events": row.events}
            after = {"place": place, "events": values["events"]}
            changed = sorted(wish.model_fields_set)
            more = {} if row.network_name is None else {"network": row.network_name}
            record(
                context, conn, who, f"{kind}.set", place, id=row.id, before=before, after=after, fields=changed, **more
            )
            (made,) = standing_sinks(conn, s.c.id == row.id)
            return self._view(who, made, newest(conn))

        return await context.write(tx)

    async def compare(
        self, who: Principal, sink_id: str, nonce: str, url: str | None, secret: str | None
    ) -> SinkCompared:
        """Whether a webhook has this URL and this secret, each `blinded`: neither is sent for it, or shown."""
        found = await self._context.read(lambda conn: find_sink(conn, who, "webhook", sink_id))
        target = open_target(self._context, found.row)

        def same(value: str, asked: str | None) -> bool | None:
            return None if asked is None else hmac.compare_digest(blinded(nonce, value), asked)

        return SinkCompared(url=same(target.url, url), secret=same(target.secret, secret))

    async def delete(self, who: Principal, kind: Kind, sink_id: str) -> None:
        def tx(conn: Connection) -> None:
            found = find_sink(conn, who, kind, sink_id).row
            conn.execute(schema.sinks.delete().where(schema.sinks.c.id == found.id))
            before = {"place": found.place, "stream": found.stream, "events": found.events}
            more = {} if found.network_name is None else {"network": found.network_name}
            record(self._context, conn, who, f"{kind}.delete", found.place, id=found.id, before=before, **more)

        await self._context.write(tx)

    async def find_tested(self, who: Principal, kind: Kind, sink_id: str) -> SinkStanding:
        """One whose receiver's answer `who` may read."""
        found = await self._context.read(lambda conn: find_sink(conn, who, kind, sink_id))
        if not _reads_answers(who, found.row):
            raise not_allowed(
                "not_allowed", "this one may lead to addresses that aren't public", "ask an administrator to test it"
            )
        return found

    def _view(self, who: Principal, found: SinkStanding, last: Mapping[str, int]) -> Sink:
        row = found.row
        position = self._position(row.id)
        state: SinkState = "ok" if row.failing_since is None else "failing"
        return Sink(
            id=row.id,
            name=row.name,
            network_id=row.network_ref,
            network=row.network_name,
            url=row.place,
            stream=row.stream,
            events=row.events,
            ca_digest=digest_of(row.ca),
            state="gone" if row.gone else state if found.may else "no_rights",
            created_at=row.created_at,
            created_by=row.created_by,
            delivered=row.delivered,
            waiting=max(0, last[row.stream] - (row.after if position is None else position)),
            dropped=row.dropped,
            last_success=row.last_success,
            last_error=row.last_error if _reads_answers(who, row) else _status_of(row.last_error),
            failing_since=row.failing_since,
            next_attempt=row.next_attempt,
        )


def find_sink(conn: Connection, who: Principal, kind: Kind, sink_id: str) -> SinkStanding:
    """Raises ShadowMeshError(webhook_unknown, syslog_unknown), also if `who` may not end it."""
    s = schema.sinks
    found = standing_sinks(conn, s.c.id == sink_id, s.c.kind == kind)
    if found:
        ref = found[0].row.network_ref
        if who.whole.administers if ref is None else Permission.NETWORK_CONFIGURE in permissions_in(conn, who, ref):
            return found[0]
    raise not_found(f"{kind}_unknown", f"there is no {kind} {sink_id[:60]!r}", f"`shadowmesh {kind} list` names them")


def _reads_answers(who: Principal, row: Row[Any]) -> bool:
    """Whether they may see what its receiver says, which can be a host that only this controller reaches."""
    return who.whole.administers or not row.anywhere


def _status_of(error: str | None) -> str | None:
    """The status of a receiver's answer, without the answer."""
    if error is None:
        return None
    status = error.partition(" ")[0]
    return status if status.isdecimal() else "not delivered"


def _find_own(conn: Connection, who: Principal, name: str, *, lock: bool = False) -> Row[Any]:
    """A network that a sink of `who` may be of: they read all of its logs, by what they showed. Raises ShadowMeshError."""
    network = find_network(conn, who, name, Permission.NETWORK_CONFIGURE, lock=lock)
    require_in(conn, who.whole, network, Permission.LOGS_VIEW)
    if not sees_others(conn, who, network.ref):
        raise not_allowed(
            "not_allowed", f"a webhook tells of others' machines in {network.name}, too", "ask an owner of it"
        )
    return network


def _check_room(conn: Connection, ref: str | None) -> None:
    s = schema.sinks
    count = sa.select(sa.func.count()).select_from(s)
    if ref is not None and conn.execute(count.where(s.c.network_ref == ref)).scalar_one() >= MOST_OF_A_NETWORK:
        raise conflict("too_many_webhooks", f"a network has at most {MOST_OF_A_NETWORK} webhooks", "delete one first")
    if conn.execute(count).scalar_one() >= MOST_OF_ALL:
        raise conflict("too_many_webhooks", f"a controller has at most {MOST_OF_ALL} of them", "delete one first")


def _check_free(conn: Connection, kind: Kind, ref: str | None, name: str) -> None:
    s = schema.sinks
    taken = sa.select(s.c.id).where(s.c.kind == kind, s.c.network_ref == ref, s.c.name_key == name.lower())
    if (there := conn.execute(taken).scalar()) is not None:
        raise conflict(f"{kind}_exists", f"there is a {kind} {name} already ({there})", "choose another name")


def _check_ca(ca: str | None) -> None:
    if ca is None:
        return
    try:
        ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError) as e:  # TypeError: it isn't ASCII
        raise usage(
            "bad_ca", "the authorities aren't certificates in PEM", "give the file that the receiver has"
        ) from e
