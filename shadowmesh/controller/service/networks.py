"""Networks: create, list, show, set, delete, rotate the key."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    Permission,
    Principal,
    find_network,
    overseen,
    permissions_by_network,
    require_permission,
    require_signed_in,
    visible,
)
from shadowmesh.controller.refusals import conflict, unknown, usage
from shadowmesh.controller.service import epochs, invites
from shadowmesh.controller.service.addresspool import first, is_public, last, next_free, parse_subnet, parse_subnet6
from shadowmesh.controller.service.audit_log import difference, one_at_a_time, record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.grants import sealed_key
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.outer_addresses import outer_addresses, refuse_covering
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.service.reports import forget_reports
from shadowmesh.controller.service.revocations import revoke_network
from shadowmesh.controller.service.templating import filled_in
from shadowmesh.controller.service.usagesums import give_plan
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump, living_network
from shadowmesh.model import api
from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.ids import NetworkRef, like_id, new_id
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret
from shadowmesh.model.relaylink import Revocation

# What people set, and the audit log shows.
_SETTINGS = (
    "name",
    "description",
    "subnet",
    "subnet6",
    "approval",
    "code_approval",
    "max_clients",
    "p2p_enabled",
    "relay_fallback",
    "reports",
    "relay_id",
)

_NAMED = 3


class Networks:
    """One function per capability; each takes who asks."""

    def __init__(self, context: ServiceContext, hub: Hub, maps: Maps, presences: Presences, events: Events) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._presences = presences
        self._events = events

    async def create(
        self, who: Principal, asked: api.NetworkCreate, once: IdempotentRequest | None = None
    ) -> api.NetworkCreated:
        require_permission(who, Permission.NETWORK_CREATE)
        wanted = None if asked.subnet is None else parse_subnet(asked.subnet)
        subnet6 = None if asked.subnet6 is None else parse_subnet6(asked.subnet6)
        outer = await outer_addresses(self._context)
        refuse_covering(wanted, outer)
        refuse_covering(subnet6, outer)
        owner = who.user_id or ""
        key = Secret(os.urandom(32))
        network_id = NetworkID.of(key)
        sealed = None
        if asked.sealing_key is not None:
            sealing = SealingPublicKey.parse(asked.sealing_key)
            sealed = api.SealedNetworkKey(sealed=sealed_key(network_id, 0, key, sealing), epoch=0)

        def tx(conn: Connection) -> tuple[api.NetworkCreated, bool]:
            require_signed_in(conn, who, self._context.now())  # or it would be of somebody who was deleted meanwhile
            if once and (earlier := once.found(self._context, conn, who, api.NetworkCreated)):
                return earlier, False
            wish = filled_in(conn, asked)
            _check_name(conn, owner, wish.name)
            one_at_a_time(
                conn
            )  # two that choose a subnet don't choose the same, and two don't both become the last one
            _check_number(self._context, conn, owner)
            subnet = wanted or _free_subnet(conn, self._context.settings.default_pool, outer)
            now, ref = self._context.now(), NetworkRef(new_id("net"))
            conn.execute(
                schema.networks.insert().values(
                    ref=ref,
                    network_id=network_id,
                    owner_id=owner,
                    name=wish.name,
                    name_key=wish.name.lower(),
                    description=wish.description,
                    subnet=str(subnet),
                    subnet6=None if subnet6 is None else str(subnet6),
                    approval=wish.approval,
                    code_approval=wish.code_approval,
                    max_clients=wish.max_clients,
                    p2p_enabled=wish.p2p_enabled,
                    relay_fallback=wish.relay_fallback,
                    reports=wish.reports,
                    relay_id=_relay_id(conn, who, ref, wish.relay),
                    created_at=now,
                    created_by=who.name,
                    generation=1,
                    serial=1,
                    lowest_free=0,
                )
            )
            epochs.add_first(self._context, conn, ref, key, now)
            if not who.admin:
                give_plan(conn, ref, self._context.settings.sign_up_plan, now)
            if who.email is not None:
                conn.execute(schema.members.insert().values(network_ref=ref, email=who.email, role="owner"))
            invite_id, code = invites.add_standing(self._context, conn, who, ref, wish.name)
            more = {"invite": invite_id, "key_given": sealed is not None, "owner": who.user_id}
            if wish.template is not None:
                more["template"] = wish.template
            after = shown(_living(conn, ref)._mapping, *_SETTINGS)
            record(self._context, conn, who, "network.create", wish.name, id=ref, **more, after=after)
            view = self._view_of(conn, who, ref).model_copy(update={"warnings": _warnings(conn, who, ref, subnet)})
            answer = api.NetworkCreated(
                **view.model_dump(),
                invitation_code=code,
                encryption_key=sealed,
                network_key_reason=None if sealed else "no_sealing_key",
            )
            if once:
                once.keep(self._context, conn, who, answer)
            return answer, True

        answer, fresh = await self._context.write(tx)
        if fresh:
            self._events.publish("network_changed", NetworkRef(answer.network_id), change="created", name=answer.name)
        return answer

    async def list(self, who: Principal, after: str | None, limit: int) -> api.NetworkList:
        """Those that `who` may see, by name."""
        n = schema.networks

        def tx(conn: Connection) -> api.NetworkList:
            query = sa.select(n).where(n.c.deleted_at.is_(None), visible(conn, who)).order_by(n.c.name_key, n.c.ref)
            if after is not None:
                name, _, ref = after.rpartition("/")
                query = query.where(sa.tuple_(n.c.name_key, n.c.ref) > sa.tuple_(sa.literal(name), sa.literal(ref)))
            rows = conn.execute(query.limit(limit + 1)).all()
            more = f"{rows[limit - 1].name_key}/{rows[limit - 1].ref}" if len(rows) > limit else None
            may = permissions_by_network(conn, who, [row.ref for row in rows[:limit]])
            return api.NetworkList(networks=[self._view(conn, row, may) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def refs(self, who: Principal) -> frozenset[str]:
        """The ids of all that `who` may see."""
        n = schema.networks

        def tx(conn: Connection) -> frozenset[str]:
            query = sa.select(n.c.ref).where(n.c.deleted_at.is_(None), visible(conn, who))
            return frozenset(conn.execute(query).scalars())

        return await self._context.read(tx)

    async def overseen(self, who: Principal) -> frozenset[str]:
        """The ids of those in which they see what others' machines did, too."""
        n = schema.networks
        return await self._context.read(
            lambda conn: frozenset(conn.execute(sa.select(n.c.ref).where(overseen(conn, who))).scalars())
        )

    async def show(self, who: Principal, name: str) -> api.Network:
        def tx(conn: Connection) -> api.Network:
            network = find_network(conn, who, name, Permission.NETWORK_VIEW)
            return self._view(conn, network, permissions_by_network(conn, who, [network.ref]))

        return await self._context.read(tx)

    async def set(
        self,
        who: Principal,
        name: str,
        wish: api.NetworkPatch,
        still: Callable[[api.Network], bool] | None = None,
    ) -> api.Network:
        """`still`: whether it is as whoever wishes this has seen it; else ShadowMeshError(changed_meanwhile) is raised."""
        changes = wish.model_dump(exclude_none=True)

        subnet = None if wish.subnet is None else parse_subnet(wish.subnet)
        outer = {} if subnet is None else await outer_addresses(self._context)

        def tx(conn: Connection) -> api.Network:
            network = find_network(conn, who, name, Permission.NETWORK_CONFIGURE, lock=True)
            if still is not None and not still(self._view_of(conn, who, network.ref)):
                raise conflict("changed_meanwhile", f"{network.name} was changed meanwhile", "look at it again")
            refuse_covering(subnet, outer)
            values = dict(changes)
            if wish.name is not None:
                values |= _renamed(self._context, conn, who, network, wish.name)
            if subnet is not None:
                _resize(conn, network, subnet)
                values |= {"subnet": str(subnet), "lowest_free": 0}
            if "relay" in values:
                values["relay_id"] = _relay_id(conn, who, network.ref, values.pop("relay") or None)
            if values:
                n = schema.networks
                conn.execute(n.update().where(n.c.ref == network.ref).values(**values))
                bump(conn, network.ref)
                if values.get("reports") == "off":
                    forget_reports(conn, network.ref)
                more = difference(network, {name: values[name] for name in values if name in _SETTINGS})
                record(self._context, conn, who, "network.set", network.name, id=network.ref, **more)
            warnings = [] if subnet is None else _warnings(conn, who, network.ref, subnet)
            return self._view_of(conn, who, network.ref).model_copy(update={"warnings": warnings})

        answer = await self._context.write(tx)
        await self._maps.refresh(NetworkRef(answer.network_id))
        self._events.publish("network_changed", NetworkRef(answer.network_id), change="set", fields=sorted(changes))
        return answer

    async def rotate_key(self, who: Principal, name: str) -> api.Network:
        """A new epoch now, whatever was merged."""

        def tx(conn: Connection) -> api.Network:
            network = find_network(conn, who, name, Permission.NETWORK_CONFIGURE, lock=True)
            epoch = epochs.rotate(self._context, conn, NetworkRef(network.ref), self._context.now())
            bump(conn, network.ref)
            more = {"before": {"epoch": epoch - 1}, "after": {"epoch": epoch}}
            record(self._context, conn, who, "network.rotate-key", network.name, id=network.ref, **more)
            return self._view_of(conn, who, network.ref)

        answer = await self._context.write(tx)
        await self._maps.refresh(NetworkRef(answer.network_id))
        self._events.publish("network_changed", NetworkRef(answer.network_id), change="key_rotated")
        return answer

    async def delete(self, who: Principal, name: str) -> None:
        """Cuts all its clients off, at the relays too, and destroys its keys."""

        def tx(conn: Connection) -> tuple[NetworkRef, Revocation]:
            network = find_network(conn, who, name, Permission.NETWORK_DELETE, lock=True)
            now, ref = self._context.now(), network.ref
            n, c = schema.networks, schema.clients
            ended = conn.execute(
                c.update()
                .where(c.c.network_ref == ref, schema.LIVING)
                .values(state="deleted", removed_at=now)
                .returning(c.c.id)
            )
            clients = sorted(ended.scalars())
            forget_reports(conn, ref)
            for gone in (schema.epochs, schema.invites, schema.addresses, schema.members, schema.group_roles):
                conn.execute(gone.delete().where(gone.c.network_ref == ref))
            conn.execute(n.update().where(n.c.ref == ref).values(deleted_at=now, rotation_due=None))
            revoked = revoke_network(self._context, conn, network)
            before = shown(network._mapping, *_SETTINGS) | {"clients": clients}
            record(self._context, conn, who, "network.delete", network.name, id=ref, before=before)
            return NetworkRef(ref), revoked

        ref, revoked = await self._context.write(tx)
        self._hub.revoke(revoked)
        assert revoked.network_id is not None
        self._maps.end(ref, revoked.network_id)
        await self._maps.refresh(ref)
        self._presences.forget(ref)
        self._events.publish("network_changed", ref, change="deleted")

    def _view_of(self, conn: Connection, who: Principal, ref: str) -> api.Network:
        return self._view(conn, _living(conn, ref), permissions_by_network(conn, who, [ref]))

    def _view(self, conn: Connection, row: Row[Any], may: Mapping[str, Collection[Permission]]) -> api.Network:
        c, e, r = schema.clients, schema.epochs, schema.relays
        counting = sa.select(c.c.state, sa.func.count()).where(c.c.network_ref == row.ref).group_by(c.c.state)
        states: dict[str, int] = {state: int(number) for state, number in conn.execute(counting)}
        valid = [
            api.Epoch(epoch=x.epoch, current_from=x.current_from, ends=x.ends)
            for x in conn.execute(sa.select(e).where(e.c.network_ref == row.ref).order_by(e.c.epoch))
        ]
        now = self._context.now()
        current = [x.epoch for x in valid if x.current_from <= now] or [valid[0].epoch]
        relay = conn.execute(sa.select(r.c.name).where(r.c.id == row.relay_id)).scalar_one_or_none()
        return api.Network(
            network_id=row.ref,
            name=row.name,
            wire_id=str(NetworkID(row.network_id)),
            description=row.description,
            subnet=row.subnet,
            subnet6=row.subnet6,
            approval=row.approval,
            code_approval=row.code_approval,
            max_clients=row.max_clients,
            p2p_enabled=row.p2p_enabled,
            relay_fallback=row.relay_fallback,
            reports=row.reports,
            relay=relay,
            created_at=row.created_at,
            serial=row.serial,
            epoch=max(current),
            epochs=valid,
            clients=states.get("approved", 0),
            pending=states.get("pending", 0),
            clients_online=self._hub.online(NetworkRef(row.ref)),
            rotation_due=row.rotation_due,
            permissions=[p for p in Permission if p in may.get(row.ref, ())],
        )


def _living(conn: Connection, ref: str) -> Row[Any]:
    row = living_network(conn, ref)
    assert row is not None, "the caller holds it"
    return row


def _check_name(conn: Connection, owner: str, name: str) -> None:
    """Names are their owner's: of the names that others gave nobody learns here."""
    n = schema.networks
    if like_id(name):
        raise usage("bad_name", f"{name!r} looks like an id, and couldn't be told from one", "choose another name")
    alike = sa.select(n.c.name).where(n.c.owner_id == owner, n.c.name_key == name.lower(), n.c.deleted_at.is_(None))
    if (taken := conn.execute(alike).scalar()) is not None:
        raise conflict("network_exists", f"there is a network {taken} already", "choose another name")


def _check_number(context: ServiceContext, conn: Connection, owner: str) -> None:
    """Raises ShadowMeshError(network_limit, CONFLICT) where a user owns as many networks as one may. Who manages at the
    controller's own socket is no user."""
    most, n = context.settings.max_networks_per_user, schema.networks
    if most is None or not owner:
        return
    own = sa.select(sa.func.count()).where(n.c.owner_id == owner, n.c.deleted_at.is_(None))
    if (number := conn.execute(own).scalar_one()) >= most:
        raise conflict(
            "network_limit",
            f"a user may own {most} {'network' if most == 1 else 'networks'}, and owns {number}",
            "delete one, or have networks.max_per_user raised on the controller",
        )


def _renamed(context: ServiceContext, conn: Connection, who: Principal, network: Row[Any], name: str) -> dict[str, Any]:
    """What changes with the name. Who renames another's network owns it from then on: the name is among their own."""
    owner = network.owner_id if who.admin else who.user_id or ""
    if (owner, name.lower()) != (network.owner_id, network.name_key):
        _check_name(conn, owner, name)
    if owner != network.owner_id:
        one_at_a_time(conn)
        _check_number(context, conn, owner)
    return {"owner_id": owner, "name_key": name.lower()}


def _free_subnet(conn: Connection, pool: ipaddress.IPv4Network, outer: Iterable[IPAddress]) -> ipaddress.IPv4Network:
    """A /24 of `pool` that overlaps no network of this controller, whoever owns it, and covers none of `outer`.
    Raises ShadowMeshError(no_free_subnet, CONFLICT)."""
    n = schema.networks
    taken = [
        ipaddress.IPv4Network(text)
        for text in conn.execute(sa.select(n.c.subnet).where(n.c.deleted_at.is_(None))).scalars()
    ]
    taken += [ipaddress.IPv4Network(address) for address in outer if isinstance(address, ipaddress.IPv4Address)]
    found = next_free(pool, taken)
    if found is None:
        raise conflict("no_free_subnet", f"no /24 of {pool} is free", "choose a subnet yourself: --subnet CIDR")
    return found


def _warnings(conn: Connection, who: Principal, ref: str, subnet: ipaddress.IPv4Network) -> list[str]:
    """What may be meant, and is better said at once. Of networks that `who` may see."""
    found = []
    if is_public(subnet):
        found.append(f"{subnet} are addresses of the internet: members won't reach the hosts that have them there")
    n = schema.networks
    query = sa.select(n.c.name, n.c.subnet).where(n.c.deleted_at.is_(None), n.c.ref != ref, visible(conn, who))
    alike = [
        f"{row.name} ({row.subnet})"
        for row in conn.execute(query.order_by(n.c.name_key, n.c.ref))
        if ipaddress.IPv4Network(row.subnet).overlaps(subnet)
    ]
    if alike:
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        found.append(f"no machine can be in it and in {', '.join(alike[:_NAMED])}{more} at once: the subnets overlap")
    return found


def _resize(conn: Connection, network: Row[Any], subnet: ipaddress.IPv4Network) -> None:
    """Forgets resting addresses outside the new subnet. Raises ShadowMeshError(subnet_shrinks, CONFLICT) if a member is outside."""
    a, c = schema.addresses, schema.clients
    outside = sa.and_(a.c.network_ref == network.ref, sa.or_(a.c.ip < first(subnet), a.c.ip > last(subnet)))
    dropped = conn.execute(
        sa.select(c.c.name, a.c.ip).join(c, c.c.id == a.c.client_id).where(outside).order_by(a.c.ip)
    ).all()
    if dropped:
        others = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        raise conflict(
            "subnet_shrinks",
            f"{subnet} has no place for {dropped[0].name} ({ipaddress.IPv4Address(dropped[0].ip)}){others}",
            "give one that holds all members, or move them by `shadowmesh client set --ip`",
        )
    conn.execute(a.delete().where(outside))


def _relay_id(conn: Connection, who: Principal, ref: str, name: str | None) -> str | None:
    """Of the relay that the network is to use alone. One that is for other networks isn't there for this one, but to an
    administrator. Raises ShadowMeshError: relay_unknown, relay_elsewhere."""
    if name is None:
        return None
    r = schema.relays
    rows = conn.execute(sa.select(r.c.id, r.c.name, r.c.networks).where(r.c.removed_at.is_(None))).all()
    known = {row.name: row.id for row in rows if row.networks is None or ref in row.networks}
    if name not in known:
        if who.whole.administers and name in {row.name for row in rows}:
            raise conflict(
                "relay_elsewhere",
                f"the relay {name} is for other networks, by the token that it registered with",
                "register it anew with a token for this one, or for all: `shadowmesh relay token`",
            )
        raise unknown("relay_unknown", f"there is no relay {name!r}", name, list(known), "shadowmesh relay list")
    return str(known[name])
