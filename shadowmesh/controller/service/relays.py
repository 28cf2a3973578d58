"""Relays: tokens to register with, registering, links, load, drain, remove."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    Permission,
    Principal,
    find_network,
    not_signed_in,
    require_admin,
    require_signed_in,
    visible,
)
from shadowmesh.controller.refusals import not_allowed, not_found, unknown, usage
from shadowmesh.controller.service import revocations
from shadowmesh.controller.service.audit_log import difference, record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.enrolment import Nonces
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import Hub, RelayLink, encode
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump_those
from shadowmesh.controller.store.notices import tell
from shadowmesh.controller.store.relayuse import relays_for
from shadowmesh.model import api
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.devicelink import LinkError
from shadowmesh.model.ids import RelayID, is_id, like_id, new_id
from shadowmesh.model.keys import NetworkID, SigningPublicKey
from shadowmesh.model.relaylink import (
    Drain,
    Load,
    RelayCertificate,
    RelayCertificateRequest,
    RelayHello,
    RelayRegistered,
    RelayRegistration,
    Revocations,
    Serves,
    TokenKeys,
    is_relay_url,
)
from shadowmesh.model.text import check_text
from shadowmesh.protocol.signing import Context, hello_message, verify_text

TOKEN_PREFIX = "smr1_"  # noqa: S105 - how every relay token starts
_TOKEN = "relay token"  # noqa: S105 - the label of its keyed hash
_REPLACED = 4000
_REMOVED = 4001
RELAYS = "relays"  # topic of notices: one was drained, removed or moved


def _check_place(url: str | None, udp: SockAddr | None, name: str, region: str, version: str) -> None:
    if url is None and udp is None:
        raise usage("bad_relay", "a relay has a WebSocket URL or a UDP address, or both")
    if url is not None and not is_relay_url(check_text("relay's URL", url, 300)):
        raise usage("bad_relay", f"{url[:80]!r} is not a ws:// or wss:// URL")
    for what, text in (("name", name), ("region", region), ("version", version)):
        check_text(f"relay's {what}", text, 63)


class Relays:
    def __init__(self, context: ServiceContext, hub: Hub, maps: Maps, events: Events, nonces: Nonces) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._events = events
        self._nonces = nonces

    async def create_token(
        self, who: Principal, wish: api.RelayTokenCreate, once: IdempotentRequest | None = None
    ) -> api.RelayTokenCreated:
        """What a new relay registers with; shown once."""
        require_admin(who)
        context, now = self._context, self._context.now()
        token, token_id = TOKEN_PREFIX + secrets.token_urlsafe(24), new_id("rtk")
        answer = api.RelayTokenCreated(id=token_id, token=token, expires_at=now + dt.timedelta(seconds=wish.expires_in))

        def tx(conn: Connection) -> api.RelayTokenCreated:
            require_signed_in(conn, who, now)
            named = [find_network(conn, who, name, Permission.NETWORK_VIEW).ref for name in wish.networks or ()]
            if once and (earlier := once.found(context, conn, who, api.RelayTokenCreated)):
                return earlier
            conn.execute(
                schema.relay_tokens.insert().values(
                    id=token_id,
                    mac=context.keys.vault.mac(_TOKEN, token),
                    uses_left=wish.uses,
                    expires_at=answer.expires_at,
                    created_at=now,
                    created_by=who.name,
                    made_by=who.key,
                    networks=sorted(set(named)) or None,
                )
            )
            after = wish.model_dump(mode="json", exclude_none=True)
            record(context, conn, who, "relay.token", token_id, id=token_id, after=after)
            if once:
                once.keep(context, conn, who, answer)
            return answer

        return await context.write(tx)

    async def tokens(self, who: Principal) -> Sequence[api.RelayToken]:
        """Those that are good still."""
        require_admin(who)
        t = schema.relay_tokens
        query = sa.select(t).where(_good(self._context.now())).order_by(t.c.created_at, t.c.id)
        rows = await self._context.read(lambda conn: conn.execute(query).all())
        return [api.RelayToken(**{name: getattr(row, name) for name in api.RelayToken.model_fields}) for row in rows]

    async def revoke_token(self, who: Principal, token: str) -> None:
        """Raises ShadowMeshError(relay_token_unknown)."""
        require_admin(who)
        t, now = schema.relay_tokens, self._context.now()

        def tx(conn: Connection) -> None:
            this = sa.and_(t.c.id == token, _good(now))
            before = conn.execute(sa.select(t.c.uses_left).where(this)).scalar()
            if before is None or conn.execute(t.update().where(this).values(uses_left=0)).rowcount == 0:
                raise not_found(
                    "relay_token_unknown",
                    f"there is no relay token {token[:60]!r}",
                    "`shadowmesh relay tokens` names them",
                )
            change = {"before": {"uses_left": before}, "after": {"uses_left": 0}}
            record(self._context, conn, who, "relay.revoke-token", token, id=token, **change)

        await self._context.write(tx)

    async def register(self, wish: RelayRegistration) -> RelayRegistered:
        """A relay with a good token and its key's signature. The same key again is the same relay."""
        _check_place(wish.url, wish.udp, wish.name, wish.region, wish.version)
        context = self._context
        message = hello_message(self._nonces.check(wish.nonce), context.keys.identity.public, wish.token)
        if not verify_text(wish.key, Context.RELAY_REGISTRATION, message, wish.signature):
            raise not_allowed("bad_signature", "the relay's signature is wrong")
        r, t = schema.relays, schema.relay_tokens

        def tx(conn: Connection) -> tuple[str, str, bool, str | None]:
            now = context.now()
            token = conn.execute(sa.select(t).where(t.c.mac == context.keys.vault.mac(_TOKEN, wish.token))).first()
            if token is None:
                raise not_allowed(
                    "relay_token_invalid", "this relay token is not valid", "`shadowmesh relay token` makes one"
                )
            known = conn.execute(sa.select(r).where(r.c.key == wish.key, r.c.removed_at.is_(None))).first()
            if known is not None:
                return known.id, known.name, False, self._certify(conn, known.id, wish.csr)
            used = conn.execute(
                t.update()
                .where(t.c.id == token.id, t.c.uses_left > 0, t.c.expires_at > now)
                .values(uses_left=t.c.uses_left - 1)
            )
            if used.rowcount == 0:
                raise not_allowed(
                    "relay_token_expired",
                    "this relay token was used up or has expired",
                    "`shadowmesh relay token` makes one",
                )
            relay_id, name = new_id("rly"), _free_name(conn, wish.name)
            place = _place(wish)
            conn.execute(
                r.insert().values(
                    id=relay_id,
                    name=name,
                    key=wish.key,
                    **place,
                    version=wish.version,
                    draining=False,
                    created_at=now,
                    networks=token.networks,
                )
            )
            who, after = _principal(relay_id), place | {"name": name, "key": str(wish.key)}
            record(context, conn, who, "relay.register", name, id=relay_id, token=token.id, after=after)
            bump_users(conn, relay_id)
            return relay_id, name, True, self._certify(conn, relay_id, wish.csr)

        relay_id, name, fresh, certificate = await context.write(tx)
        if fresh:
            self._events.publish("relay_changed", None, relay_id=relay_id, change="registered")
            await self._refresh_maps()
        return RelayRegistered(
            relay_id=RelayID(relay_id),
            name=name,
            token_keys=(context.keys.tokens.public,),
            controller_urls=context.settings.announced_urls,
            certificate=certificate,
        )

    def _certify(self, conn: Connection, relay_id: str, csr: str | None) -> str | None:
        """A certificate for a relay that asks for one; without one it isn't linked from then on."""
        if csr is None:
            return None
        authority, now, r = self._context.authority, self._context.now(), schema.relays
        assert authority is not None
        text, ends = authority.issue(csr, f"relay:{relay_id}", now, None)
        conn.execute(r.update().where(r.c.id == relay_id).values(certified=True))
        name = conn.execute(sa.select(r.c.name).where(r.c.id == relay_id)).scalar_one()
        after = {"until": ends.isoformat()}
        record(self._context, conn, _principal(relay_id), "relay.certificate", name, id=relay_id, after=after)
        return text

    async def renew(self, identity: str | None, wish: RelayCertificateRequest) -> RelayCertificate:
        """For the relay whose certificate the connection showed. Raises ShadowMeshError: not_signed_in, relay_unknown."""
        kind, _, relay_id = (identity or "").partition(":")
        if kind != "relay":
            raise not_signed_in()

        def tx(conn: Connection) -> str:
            return self._certify(conn, _find(conn, relay_id).id, wish.csr) or ""

        return RelayCertificate(certificate=await self._context.write(tx))

    async def _refresh_maps(self) -> None:
        await self._maps.refresh_all([live.ref for live in self._maps])

    # links

    async def hello(
        self,
        hello: RelayHello,
        nonce: bytes,
        post: Callable[[str], None],
        close: Callable[[int, str], None],
        certified: str | None = None,
    ) -> RelayLink:
        """The link, registered, with all that the relay has to know posted. `certified`: whom the certificate that the connection
        showed stands for. Raises ShadowMeshError."""
        _check_place(hello.url, hello.udp, "", hello.region, hello.version)
        check_text("relay's id", hello.relay_id, 60)
        check_text("boot id", hello.boot_id, 64)
        message = hello_message(nonce, self._context.keys.identity.public, hello.boot_id)
        if not verify_text(hello.key, Context.RELAY_HELLO, message, hello.signature):
            raise not_allowed("bad_signature", "the relay's signature is wrong")
        row = await self._context.read(lambda conn: _itself(conn, hello))
        if (row.certified or certified is not None) and certified != f"relay:{row.id}":
            raise not_allowed(
                "relay_uncertified",
                "this relay is linked only with its own certificate",
                "register it with `shadowmesh relay token` if it has lost that",
            )
        changed = False
        if difference(row, _place(hello))["after"] or row.version != hello.version:
            row, changed = await self._context.write(lambda conn: self._arrived(conn, hello))
        else:
            await self._note_seen(RelayID(row.id))
        networks = await self._context.read(lambda conn: _networks(conn, row))
        link = RelayLink(RelayID(row.id), hello.boot_id, post, close, networks=networks)
        old = self._hub.relays.get(link.relay_id)
        self._hub.relays[link.relay_id] = link
        if old is not None:
            old.close(_REPLACED, "replaced by a newer link")
        now = self._context.now()
        post(encode(Serves(networks=await self._context.read(lambda conn: _served(conn, row)))))
        post(encode(TokenKeys(keys=(self._context.keys.tokens.public,), wall=now.timestamp())))
        try:
            number, entries = await self._context.read(lambda conn: revocations.for_relays(conn, now))
            post(encode(Revocations(complete=True, entries=tuple(filter(link.hears_of, entries)))))
            # What was revoked after that read may have been told before the list, which replaced it.
            _, more = await self._context.read(lambda conn: revocations.for_relays(conn, now, number))
            if more := list(filter(link.hears_of, more)):
                post(encode(Revocations(complete=False, entries=tuple(more))))
            self._set_draining(link, row.draining)
            if changed:
                await self._refresh_maps()
        except BaseException:
            if self._hub.relays.get(link.relay_id) is link:
                del self._hub.relays[link.relay_id]
            raise
        self._events.publish("relay_changed", None, relay_id=row.id, change="online")
        return link

    def _arrived(self, conn: Connection, hello: RelayHello) -> tuple[Row[Any], bool]:
        r = schema.relays
        row, place = _itself(conn, hello), _place(hello)
        more = difference(row, place)
        seen = {"version": hello.version, "last_seen": self._context.now()}
        conn.execute(r.update().where(r.c.id == row.id).values(**place, **seen))
        in_maps = bool(more["after"].keys() - {"capacity_mbit"})
        if in_maps:
            bump_users(conn, row.id)
        if more["after"]:
            record(self._context, conn, _principal(row.id), "relay.set", row.name, id=row.id, **more)
        return row, in_maps

    def loaded(self, link: RelayLink, load: Load) -> None:
        link.load, link.load_at = load, self._context.now()

    async def gone(self, link: RelayLink) -> None:
        """Its link ended."""
        if self._hub.relays.get(link.relay_id) is not link:
            return
        del self._hub.relays[link.relay_id]
        self._events.publish("relay_changed", None, relay_id=link.relay_id, change="offline")  # before it is back
        await self._note_seen(link.relay_id)

    async def _note_seen(self, relay_id: RelayID) -> None:
        r, now = schema.relays, self._context.now()
        seen = r.update().where(r.c.id == relay_id).values(last_seen=now)
        await self._context.note(lambda conn: conn.execute(seen), "a relay was seen")

    # management

    async def list(self, who: Principal, after: str | None, limit: int) -> api.Page[api.Relay]:
        """By name: an administrator sees all and how they do, others where those of their networks' maps are."""
        r = schema.relays

        def tx(conn: Connection) -> api.Page[api.Relay]:
            query = sa.select(r).where(r.c.removed_at.is_(None), _serves(conn, who)).order_by(r.c.name).limit(limit + 1)
            if after is not None:
                query = query.where(r.c.name > after)
            rows = conn.execute(query).all()
            more = rows[limit - 1].name if len(rows) > limit else None
            return api.Page(items=[self._view(row, full=who.everywhere) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def drain(self, who: Principal, name: str, *, draining: bool = True) -> api.Relay:
        """Out of the maps (or back in them); its running sessions go on."""
        require_admin(who)
        r = schema.relays

        def tx(conn: Connection) -> tuple[Row[Any], list[str]]:
            row = _find(conn, name)
            if row.draining != draining:
                conn.execute(r.update().where(r.c.id == row.id).values(draining=draining))
                bump_users(conn, row.id)
                more = difference(row, {"draining": draining})
                action = "relay.drain" if draining else "relay.undrain"
                record(self._context, conn, who, action, row.name, id=row.id, **more)
            return _find(conn, row.id), _left_without(conn, row.id) if draining else []

        row, warnings = await self._context.write(tx)
        link = self._hub.relays.get(RelayID(row.id))
        if link is not None:
            self._set_draining(link, draining)
        await self._refresh_maps()
        change = "draining" if draining else "undrained"
        self._events.publish("relay_changed", None, relay_id=row.id, change=change)
        return self._view(row).model_copy(update={"warnings": warnings})

    async def remove(self, who: Principal, name: str) -> None:
        require_admin(who)
        r, n = schema.relays, schema.networks

        def tx(conn: Connection) -> Row[Any]:
            row = _find(conn, name)
            bump_users(conn, row.id)
            freed = n.update().where(n.c.relay_id == row.id, n.c.deleted_at.is_(None)).values(relay_id=None)
            networks = sorted(conn.execute(freed.returning(n.c.ref)).scalars())
            conn.execute(r.update().where(r.c.id == row.id).values(removed_at=self._context.now()))
            before = shown(row._mapping, "name", "key", "url", "udp", "region", "capacity_mbit")
            record(
                self._context, conn, who, "relay.remove", row.name, id=row.id, before=before, networks_freed=networks
            )
            return row

        row = await self._context.write(tx)
        link = self._hub.relays.get(RelayID(row.id))
        if link is not None:
            self._end(link)
        await self._refresh_maps()
        self._events.publish("relay_changed", None, relay_id=row.id, change="removed")

    async def follow(self) -> None:
        """Does to the relays that are connected here what another controller decided."""
        r, links = schema.relays, dict(self._hub.relays)
        if not links:
            return
        query = sa.select(r.c.id, r.c.draining, r.c.removed_at).where(r.c.id.in_(links))
        for row in await self._context.read(lambda conn: conn.execute(query).all()):
            link = links[RelayID(row.id)]
            if row.removed_at is not None:
                self._end(link)
            else:
                self._set_draining(link, row.draining)

    def _end(self, link: RelayLink) -> None:
        link.post(encode(LinkError(code="relay_removed", what="this relay was removed from the controller")))
        link.close(_REMOVED, "removed")

    def _set_draining(self, link: RelayLink, draining: bool) -> None:
        if link.draining != draining:
            link.draining = draining
            link.post(encode(Drain(draining=draining)))

    def _view(self, row: Row[Any], *, full: bool = True) -> api.Relay:
        relay_id = RelayID(row.id)
        link, online = self._hub.relays.get(relay_id), self._hub.relay_online(relay_id)
        load = link.load_view() if link is not None else self._hub.relays_elsewhere.get(relay_id)
        return api.Relay(
            id=row.id,
            name=row.name,
            key=str(SigningPublicKey(row.key)),
            url=row.url,
            udp=row.udp,
            region=row.region,
            capacity_mbit=row.capacity_mbit if full else None,
            version=row.version if full else "",
            draining=row.draining,
            online=online,
            created_at=row.created_at,
            last_seen=self._context.now() if online else row.last_seen,
            load=load if full else None,
        )


def _place(said: RelayRegistration | RelayHello) -> dict[str, Any]:
    """What a relay says of itself that clients or administrators go by."""
    udp = None if said.udp is None else str(said.udp)
    return {"url": said.url, "udp": udp, "region": said.region, "capacity_mbit": said.capacity_mbit}


def _principal(relay_id: str) -> Principal:
    return Principal(f"relay {relay_id}")


def _left_without(conn: Connection, relay_id: str) -> list[str]:
    """Who has no relay any more once this one is drained."""
    n, r = schema.networks, schema.relays
    others = sa.select(r.c.id).where(r.c.id != relay_id, r.c.removed_at.is_(None), r.c.draining.is_(False))
    if conn.execute(others.limit(1)).first() is None:
        return ["no other relay is in use: pairs that can't meet directly lose each other"]
    pinned = sa.select(n.c.name).where(n.c.relay_id == relay_id, n.c.deleted_at.is_(None)).order_by(n.c.name_key)
    names = list(conn.execute(pinned).scalars())
    return (
        [f"{', '.join(names)} may use this relay only: pairs there that can't meet directly lose each other"]
        if names
        else []
    )


def _good(now: dt.datetime) -> sa.ColumnElement[bool]:
    t = schema.relay_tokens
    return sa.and_(t.c.uses_left > 0, t.c.expires_at > now)


def revoke_tokens(context: ServiceContext, conn: Connection, email: str) -> list[str]:
    """Who may no longer add relays leaves no token for one behind. The ids of those that ended.

    A token names its maker as the audit log does: an address, or one with an API key's name.
    """
    t = schema.relay_tokens
    theirs = sa.or_(t.c.created_by == email, t.c.created_by.startswith(f"{email} by ", autoescape=True))
    open_ones = sa.and_(theirs, _good(context.now()))
    return sorted(conn.execute(t.update().where(open_ones).values(uses_left=0).returning(t.c.id)).scalars())


def _serves(conn: Connection, who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `relays`: those that are in the map of a network that `who` may view."""
    if who.everywhere:
        return sa.true()
    n = schema.networks
    theirs = sa.select(n.c.ref, n.c.relay_id).where(n.c.deleted_at.is_(None), visible(conn, who))
    return schema.relays.c.id.in_(relays_for(conn, conn.execute(theirs)))


def bump_users(conn: Connection, relay_id: str) -> None:
    """New serials for the networks whose maps name this relay, or might."""
    n = schema.networks
    bump_those(conn, sa.or_(n.c.relay_id.is_(None), n.c.relay_id == relay_id))
    tell(conn, RELAYS)


def _itself(conn: Connection, hello: RelayHello) -> Row[Any]:
    """The relay that says this. Raises ShadowMeshError(relay_unknown)."""
    r = schema.relays
    row = conn.execute(sa.select(r).where(r.c.id == hello.relay_id, r.c.removed_at.is_(None))).first()
    if row is None or row.key != hello.key:
        raise not_allowed(
            "relay_unknown", "this relay is not registered here", "register it with `shadowmesh relay token`"
        )
    return row


def _served(conn: Connection, relay: Row[Any]) -> tuple[NetworkID, ...] | None:
    """The networks that a relay is for, as the wire names them."""
    if relay.networks is None:
        return None
    n = schema.networks
    rows = conn.execute(sa.select(n.c.network_id).where(n.c.ref.in_(relay.networks), n.c.deleted_at.is_(None)))
    return tuple(sorted(NetworkID(found) for found in rows.scalars()))


def _networks(conn: Connection, relay: Row[Any]) -> frozenset[NetworkID] | None:
    """Those that a relay is for, and were: what is revoked there, it has to know."""
    if relay.networks is None:
        return None
    n = schema.networks
    rows = conn.execute(sa.select(n.c.network_id).where(n.c.ref.in_(relay.networks)))
    return frozenset(NetworkID(found) for found in rows.scalars())


def _find(conn: Connection, name: str) -> Row[Any]:
    r = schema.relays
    by = r.c.id == name if is_id(name, "rly") else r.c.name == name
    row = conn.execute(sa.select(r).where(by, r.c.removed_at.is_(None))).first()
    if row is None:
        known = conn.execute(sa.select(r.c.name).where(r.c.removed_at.is_(None))).scalars().all()
        raise unknown("relay_unknown", f"there is no relay {name[:80]!r}", name, known, "shadowmesh relay list")
    return row


def _free_name(conn: Connection, wish: str) -> str:
    r = schema.relays
    base = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in wish)[:50].strip("._-") or "relay"
    base = base.replace("_", "-", 1) if like_id(base) else base
    taken = {*api.RELAY_CALLS, *conn.execute(sa.select(r.c.name).where(r.c.removed_at.is_(None))).scalars()}
    return base if base not in taken else next(n for i in range(2, len(taken) + 3) if (n := f"{base}-{i}") not in taken)
