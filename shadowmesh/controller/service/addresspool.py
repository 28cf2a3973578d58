"""The address pool of a network: lowest free first; a freed address rests before it is given again.

Functions of a connection; the primary key (network, ip) is what makes an address unique.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.dml import ReturningDelete

from shadowmesh.controller.refusals import conflict, usage
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.addresses import OVERLAY_PREFIXES, may_be_overlay
from shadowmesh.model.errors import ShadowMeshError

_WINDOW = 256


class PoolEmpty(Exception):
    """No address is free and none rests. The service makes a sentence of it."""


_SHARED = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598: carriers' networks, not the internet
_REMEDY = "give it as for example 10.42.0.0/24"


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """Raises ShadowMeshError(bad_subnet); a suggestion in it is one that would be taken."""
    text = text.strip()
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as e:
        raise usage("bad_subnet", f"{text[:60]!r} is not a subnet", _REMEDY) from e
    if not isinstance(found, ipaddress.IPv4Network):
        raise usage("bad_subnet", "the subnet has to be IPv4 (an IPv6 one may be added to it)", _REMEDY)
    if "/" not in text:
        found = found.supernet(new_prefix=24)
    unfit = _unfit(found)
    if unfit is not None:
        raise unfit
    if str(found) != text:
        raise usage("bad_subnet", f"{text[:60]!r} is an address in a subnet, not the subnet", f"did you mean {found}?")
    return found


def _unfit(subnet: ipaddress.IPv4Network) -> ShadowMeshError | None:
    if subnet.prefixlen not in OVERLAY_PREFIXES:
        what = f"a subnet has a prefix of /{OVERLAY_PREFIXES[0]} to /{OVERLAY_PREFIXES[-1]}, not /{subnet.prefixlen}"
        return usage("bad_subnet", what, _REMEDY)
    if not may_be_overlay(subnet):
        return usage(
            "bad_subnet", f"{subnet} is reserved for other purposes", "10.0.0.0/8 has room for private networks"
        )
    return None


def next_free(pool: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network | None:
    """The lowest /24 of `pool` that overlaps none of `taken`; None if there is none."""
    start, end = int(pool.network_address), int(pool.broadcast_address)
    for other in sorted(taken):
        if int(other.broadcast_address) < start:
            continue
        if int(other.network_address) > start + 255:
            break
        start = (int(other.broadcast_address) | 255) + 1
    return ipaddress.IPv4Network((start, 24)) if start + 255 <= end else None


def is_public(subnet: ipaddress.IPv4Network) -> bool:
    """Whether there are hosts of the internet in it."""
    return not (subnet.is_private or subnet.subnet_of(_SHARED))


def parse_subnet6(text: str) -> ipaddress.IPv6Network:
    """A ULA /64. Raises ShadowMeshError(bad_subnet)."""
    try:
        found = ipaddress.IPv6Network(text.strip())
    except ValueError as e:
        raise usage(
            "bad_subnet", f"{text[:60]!r} is not an IPv6 subnet", "give a ULA such as fd12:3456:789a::/64"
        ) from e
    if not may_be_overlay(found):
        raise usage("bad_subnet", f"{found} is not a /64 in fc00::/7", "give a ULA such as fd12:3456:789a::/64")
    return found


def address6(subnet6: str | None, ip: int) -> ipaddress.IPv6Address | None:
    """A member's IPv6 address: its IPv4 address in the last 32 bits."""
    return None if subnet6 is None else ipaddress.IPv6Network(subnet6).network_address + ip


def pool_size(subnet: ipaddress.IPv4Network) -> int:
    return subnet.num_addresses - 2


def first(subnet: ipaddress.IPv4Network) -> int:
    return int(subnet.network_address) + 1


def last(subnet: ipaddress.IPv4Network) -> int:
    return int(subnet.broadcast_address) - 1


@prepared
def _end_rests(ref: str, now: dt.datetime) -> ReturningDelete[tuple[int]]:
    t = schema.addresses
    rested = sa.and_(t.c.network_ref == ref, t.c.client_id.is_(None), t.c.rests_until <= now)
    return t.delete().where(rested).returning(t.c.ip)


@prepared
def _end_rest(ref: str, ip: int) -> sa.Delete:
    t = schema.addresses
    return t.delete().where(t.c.network_ref == ref, t.c.ip == ip, t.c.client_id.is_(None))


@prepared
def _taken_from(ref: str, low: int) -> sa.Select[tuple[int]]:
    t = schema.addresses
    return sa.select(t.c.ip).where(t.c.network_ref == ref, t.c.ip >= low).order_by(t.c.ip).limit(_WINDOW)


@prepared
def _give(ref: str, ip: int, client_id: str) -> sa.Insert:
    return schema.addresses.insert().values(network_ref=ref, ip=ip, client_id=client_id)


@prepared
def _set_lowest(ref: str, lowest: int) -> sa.Update:
    t = schema.networks
    return t.update().where(t.c.ref == ref).values(lowest_free=lowest)


def claim(conn: Connection, network: Row[Any], client_id: str, wanted: int | None, now: dt.datetime) -> int:
    """Gives the client an address: `wanted`, or the lowest free one. Raises PoolEmpty, or ShadowMeshError.

    The caller holds the network's row, so nobody else claims in it meanwhile.
    """
    subnet = ipaddress.IPv4Network(network.subnet)
    if wanted is not None:
        return _claim_this(conn, network, subnet, client_id, wanted)
    lowest = _wake(conn, network, now)
    found = _lowest_free(conn, network.ref, max(lowest, first(subnet)), last(subnet))
    if found is None:
        found = _longest_resting(conn, network.ref)
    _insert(conn, network.ref, found, client_id)
    conn.execute(*_set_lowest(network.ref, max(lowest, found + 1)))
    return found


def _claim_this(conn: Connection, network: Row[Any], subnet: ipaddress.IPv4Network, client_id: str, wanted: int) -> int:
    address = ipaddress.IPv4Address(wanted)
    if not first(subnet) <= wanted <= last(subnet):
        raise conflict(
            "address_outside", f"{address} is not an address for clients of {subnet}", "choose one inside it"
        )
    t = schema.addresses
    taken = conn.execute(sa.select(t.c.client_id).where(t.c.network_ref == network.ref, t.c.ip == wanted)).first()
    if taken is not None and taken.client_id not in (None, client_id):
        raise address_taken(address)
    _insert(conn, network.ref, wanted, client_id)
    return wanted


def address_taken(address: ipaddress.IPv4Address) -> ShadowMeshError:
    return conflict("address_taken", f"{address} is another client's", "choose another, or none for the next free one")


def _insert(conn: Connection, ref: str, ip: int, client_id: str) -> None:
    conn.execute(*_end_rest(ref, ip))
    conn.execute(*_give(ref, ip, client_id))


def _wake(conn: Connection, network: Row[Any], now: dt.datetime) -> int:
    """Frees addresses that have rested; returns the number below which none is free."""
    rested = conn.execute(*_end_rests(network.ref, now)).scalars()
    return min([int(network.lowest_free), *(int(ip) for ip in rested)])


def _lowest_free(conn: Connection, ref: str, low: int, high: int) -> int | None:
    while low <= high:
        taken = list(conn.execute(*_taken_from(ref, low)).scalars())
        for ip in taken:
            if ip != low:
                break
            low += 1
        else:
            if len(taken) == _WINDOW:
                continue
        return low if low <= high else None
    return None


def _longest_resting(conn: Connection, ref: str) -> int:
    t = schema.addresses
    found = conn.execute(
        sa.select(t.c.ip)
        .where(t.c.network_ref == ref, t.c.client_id.is_(None))
        .order_by(t.c.rests_until, t.c.ip)
        .limit(1)
    ).scalar_one_or_none()
    if found is None:
        raise PoolEmpty
    return int(found)


def free(conn: Connection, ref: str, ip: int, rests_until: dt.datetime) -> None:
    """The address rests until then."""
    t = schema.addresses
    conn.execute(t.update().where(t.c.network_ref == ref, t.c.ip == ip).values(client_id=None, rests_until=rests_until))
