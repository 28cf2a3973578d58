"""Who may come in: right invites and codes, room in the network, a key, a name and an address that nobody else has.

What enrolling (`service.enrolment`) and registering (`service.registration`) share.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service import invites
from shadowmesh.controller.service.addresspool import PoolEmpty, pool_size
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.limits import SharedLimits
from shadowmesh.controller.service.usagesums import FULL, plan_of
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import WireGuardPublicKey

T = TypeVar("T")

# Wrong guesses by source. There is no limit for all sources together, which a stranger could use up for everybody: with
# 59 bits in a code, a million sources that guess without pause need a thousand years for one of a hundred open codes.
_CODE_BURST, _CODE_PER = 5, 12.0
_SECRET_BURST, _SECRET_PER = 30, 2.0  # 128 bits: this bounds the work, not the chance


class InviteGuesses:
    """How often a source may show an invite or a code that is none."""

    def __init__(self, limits: SharedLimits) -> None:
        self._codes = limits.limiter("invitation codes", _CODE_BURST, _CODE_PER)
        self._secrets = limits.limiter("invites", _SECRET_BURST, _SECRET_PER)

    async def counted(self, by_code: bool, source: str, now: float, attempt: Callable[[], Awaitable[T]]) -> T:
        """The attempt's result; a wrong invite or code counts against its source, a right one never.

        A code counts until it has proved right, so that guesses sent all at once are no more than one after another. A
        secret counts once it has proved wrong: many machines behind one address may join at the same moment.
        """
        if not by_code:
            await self._secrets.check(source, now)
        else:
            await self._codes.take(source, now)
        right = False
        try:
            result = await attempt()
            right = True
        except (ShadowMeshError, PoolEmpty) as e:
            right = getattr(e, "code", "") != invites.INVALID
            raise
        finally:
            if right and by_code:
                await self._codes.give_back(source)
            elif not right and not by_code:
                await self._secrets.allows(source, now)
        return result


def name_of(hostname: str) -> str:
    """A client's name from a host name: its first label, in lower case, without what names can't have."""
    label = hostname.strip().lower().split(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", label)[:50].strip("-") or "client"


@prepared
def _count(ref: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(schema.clients.c.network_ref == ref, schema.LIVING)


@prepared
def _of_key(ref: str, wg_key: bytes) -> sa.Select[tuple[str]]:
    c = schema.clients
    return sa.select(c.c.id).where(c.c.network_ref == ref, c.c.wg_key == wg_key, schema.LIVING)


@prepared
def _of_name(ref: str, name: str) -> sa.Select[tuple[str]]:
    c = schema.clients
    return sa.select(c.c.id).where(c.c.network_ref == ref, c.c.name == name, schema.LIVING)


def check_room(conn: Connection, network: Row[Any]) -> None:
    """Raises ShadowMeshError: network_full, plan_full, quota_reached."""
    plan = plan_of(conn, network.ref)
    if plan is not None and plan.told >= FULL:
        raise conflict(
            "quota_reached",
            f"{network.name} has used up the bytes of its plan {plan.name} for {plan.month}",
            "wait for the next month, or have an administrator give it another plan",
        )
    clients = conn.execute(*_count(network.ref)).scalar_one()
    if plan is not None and plan.max_clients is not None and clients >= plan.max_clients:
        raise conflict(
            "plan_full",
            f"{network.name} has {clients} clients, and its plan {plan.name} is for {plan.max_clients}",
            "remove one, or have an administrator give it another plan",
        )
    if clients >= network.max_clients:
        raise conflict(
            "network_full",
            f"{network.name} has {network.max_clients} clients, as many as it may have",
            "remove one, or raise the limit with `network set --max-clients`",
        )


def check_key_free(conn: Connection, network: Row[Any], wg_key: WireGuardPublicKey, client_id: str) -> None:
    """Raises ShadowMeshError(key_taken)."""
    taken = conn.execute(*_of_key(network.ref, wg_key)).scalar()
    if taken not in (None, client_id):
        raise conflict("key_taken", "another client of this network has the same key", "make a fresh one")


def _is_taken(conn: Connection, ref: str, name: str) -> bool:
    return conn.execute(*_of_name(ref, name)).first() is not None


def _free_number(taken: Callable[[int], bool]) -> int:
    """A number from 2 on that isn't taken, the lowest where they are taken without gaps; in a logarithm of looks."""
    low, high = 1, 2  # low is taken
    while taken(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    return high


def waits(network: Row[Any], *, by_code: bool) -> bool:
    """Whether who comes in so waits for approval."""
    return bool(network.approval or (by_code and network.code_approval))


def free_name(conn: Connection, network: Row[Any], wanted: str | None, hostname: str = "") -> str:
    """The one that is wanted, else one made of the host name, with a number if it is taken. Raises ShadowMeshError(name_taken)."""
    base = wanted or name_of(hostname)
    if not _is_taken(conn, network.ref, base):
        return base
    if wanted:
        raise invites.name_taken(wanted, network.name)
    return f"{base}-{_free_number(lambda n: _is_taken(conn, network.ref, f'{base}-{n}'))}"


def pool_empty(conn: Connection, hub: Hub, ref: str) -> ShadowMeshError:
    """Says how large the pool is and who would be missed least."""
    c, n = schema.clients, schema.networks
    network = conn.execute(sa.select(n).where(n.c.ref == ref)).one()
    query = (
        sa.select(c)
        .where(c.c.network_ref == ref, schema.LIVING)
        .order_by(sa.func.coalesce(c.c.last_seen, c.c.created_at))
    )
    size = pool_size(ipaddress.IPv4Network(network.subnet))
    idle = next((r for r in conn.execute(query) if not hub.is_online(NetworkRef(ref), ClientID(r.id))), None)
    who = ""
    if idle is not None:
        since = idle.last_seen or idle.created_at
        who = f"; longest idle is {idle.name}, {'seen' if idle.last_seen else 'made'} {since:%Y-%m-%d %H:%M} UTC"
    return conflict(
        "pool_empty",
        f"all {size} addresses of {network.name} ({network.subnet}) are taken{who}",
        "remove a client, or let the subnet grow with `network set --subnet`",
    )
