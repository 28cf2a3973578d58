"""Enrolment: an invite and three keys become a client, once, whatever gets lost on the way.

Two enrolments for one use, one address or one name are decided by the database: the invite's use is a guarded update,
the rest are unique indices. The same keys with the same invite find the client that they made before.
"""

from __future__ import annotations

import datetime as dt
import hmac
import ipaddress
import os
import re
import struct
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.errors import conflict, not_allowed, usage
from shadowmesh.controller.service import addresses, invites
from shadowmesh.controller.service.addresses import PoolEmpty, pool_size
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.clients import ALIVE
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolChallenge, EnrolRequest
from shadowmesh.model.ids import ClientID, NetworkRef, new_id
from shadowmesh.model.keys import NetworkID, SealingPublicKey
from shadowmesh.protocol.sealing import check_sealing_key
from shadowmesh.protocol.signing import NONCE_SIZE, Context, registration_message, verify_text

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_CODE_BURST, _CODE_PER = 5, 12.0  # short codes tried from one address
_ALL_BURST, _ALL_PER = 100, 0.6  # and from all


class Nonces:
    """Nonces that any controller with the same secrets recognises: time ‖ random ‖ keyed hash. Good for some minutes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def fresh(self) -> bytes:
        head = struct.pack(">Q", int(self._core.now().timestamp())) + os.urandom(8)
        return head + self._mac(head)

    def check(self, text: str) -> bytes:
        """The nonce's bytes. Raises ShadowMeshError(nonce_expired)."""
        try:
            nonce = bytes.fromhex(text)
        except ValueError:
            nonce = b""
        if len(nonce) == NONCE_SIZE and hmac.compare_digest(self._mac(nonce[:16]), nonce[16:]):
            age = self._core.now().timestamp() - int.from_bytes(nonce[:8], "big")
            if -1 <= age <= self._core.timing.challenge_life:
                return nonce
        raise not_allowed("nonce_expired", "the nonce is not one of this controller, or too old", "ask for a new one")

    def _mac(self, head: bytes) -> bytes:
        return bytes.fromhex(self._core.keys.vault.mac("nonce", head.hex()))[:16]


def name_of(hostname: str) -> str:
    """A client's name from a host name: its first label, in lower case, without what names can't have."""
    label = hostname.strip().lower().split(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", label)[:50].strip("-") or "client"


class Enrolment:
    def __init__(self, core: Core, hub: Hub, maps: Maps, presences: Presences, events: Events) -> None:
        self._core = core
        self._hub = hub
        self._maps = maps
        self._presences = presences
        self._events = events
        self.nonces = Nonces(core)
        self._codes = Limiter(_CODE_BURST, _CODE_PER)
        self._all_codes = Limiter(_ALL_BURST, _ALL_PER)

    async def challenge(self, wish: ChallengeRequest, source: str) -> EnrolChallenge:
        """With where the invite leads, if the wish names one. Raises ShadowMeshError: invite_invalid, rate_limited."""
        now = self._core.now().timestamp()
        network = await self._preview(wish, source, now) if wish != ChallengeRequest() else None
        return EnrolChallenge(
            nonce=self.nonces.fresh().hex(),
            wall=now,
            identity=self._core.keys.identity.public,
            network_name=None if network is None else network.name,
            network_id=None if network is None else NetworkID(network.network_id),
            subnet=None if network is None else ipaddress.IPv4Network(network.subnet),
        )

    async def _preview(self, wish: ChallengeRequest, source: str, now: float) -> Row[Any]:
        if wish.code is not None:
            self._codes.take(source, now)
            self._all_codes.take("", now)
        n = schema.networks

        def tx(conn: Connection) -> Row[Any] | None:
            ref = self._find_invite(conn, wish).network_ref
            return conn.execute(sa.select(n).where(n.c.ref == ref, n.c.deleted_at.is_(None))).first()

        network = await self._core.read(tx)
        if network is None:
            raise invites.invalid()
        if wish.code is not None:  # no guess: the attempt is counted when it is redeemed
            self._codes.give_back(source)
            self._all_codes.give_back("")
        return network

    async def enrol(self, request: EnrolRequest, source: str) -> EnrolAnswer:
        """`source` is the address that short codes are limited by."""
        self._check(request)
        if request.code is not None:
            now = self._core.now().timestamp()
            self._codes.take(source, now)
            self._all_codes.take("", now)
        try:
            ref, client_id, fresh = await self._core.write(lambda conn: self._tx(conn, request))
        except PoolEmpty as e:
            raise await self._pool_empty(request) from e
        return await self._answer(ref, client_id, request, fresh=fresh)

    def _check(self, request: EnrolRequest) -> None:
        by_invite = request.invite_id is not None and request.secret is not None
        if by_invite == (request.code is not None):
            raise usage("bad_request", "an enrolment has either an invite's id and secret, or a code")
        if request.name is not None and not _NAME.match(request.name):
            raise usage(
                "bad_name", f"{request.name[:80]!r} can't be a client's name", "use a-z, 0-9 and -, at most 63 of them"
            )
        if len(request.hostname) > 300 or len(request.version) > 100:
            raise usage("bad_request", "the host name or version is too long")
        message = registration_message(
            self.nonces.check(request.nonce),
            self._core.keys.identity.public,
            device_key=request.device_key,
            wg_key=request.wg_key,
            sealing_key=request.sealing_key,
            invite=request.invite_id or request.code or "",
        )
        if not verify_text(request.device_key, Context.REGISTRATION, message, request.signature):
            raise not_allowed("bad_signature", "the device's signature is wrong")
        check_sealing_key(request.sealing_key)

    def _tx(self, conn: Connection, request: EnrolRequest) -> tuple[NetworkRef, ClientID, bool]:
        now = self._core.now()
        invite = self._find_invite(conn, request)
        n, c = schema.networks, schema.clients
        network = conn.execute(
            sa.select(n).where(n.c.ref == invite.network_ref, n.c.deleted_at.is_(None)).with_for_update()
        ).first()
        if network is None:
            raise invites.invalid()
        mine = sa.select(c).where(
            c.c.network_ref == network.ref, c.c.device_key == request.device_key, c.c.state.in_(ALIVE)
        )
        known = conn.execute(mine).first()
        if known is not None and known.wg_key == request.wg_key and known.sealing_key == request.sealing_key:
            return NetworkRef(network.ref), ClientID(known.id), False  # the answer was lost: here it is again
        invites.use(conn, invite, now)
        if known is not None:
            return self._rekey(conn, network, known, request)
        self._check_room(conn, network)
        return self._insert(conn, network, invite, request, now)

    def _find_invite(self, conn: Connection, request: ChallengeRequest | EnrolRequest) -> Row[Any]:
        t, vault = schema.invites, self._core.keys.vault
        if request.code is not None:
            mac = vault.mac(invites.CODE, invites.normal_code(request.code))
            row = conn.execute(sa.select(t).where(t.c.code_mac == mac)).first()
            if row is None:
                raise invites.invalid()
            return row
        row = conn.execute(sa.select(t).where(t.c.id == request.invite_id)).first()
        mac = vault.mac(invites.SECRET, request.secret or "")
        if row is None or not hmac.compare_digest(mac, row.secret_mac):
            raise invites.invalid()
        return row

    def _check_room(self, conn: Connection, network: Row[Any]) -> None:
        c = schema.clients
        counting = sa.select(sa.func.count()).where(c.c.network_ref == network.ref, c.c.state.in_(ALIVE))
        if conn.execute(counting).scalar_one() >= network.max_clients:
            raise conflict(
                "network_full",
                f"{network.name} has {network.max_clients} clients, as many as it may have",
                "remove one, or raise the limit with `network set --max-clients`",
            )

    def _rekey(
        self, conn: Connection, network: Row[Any], known: Row[Any], request: EnrolRequest
    ) -> tuple[NetworkRef, ClientID, bool]:
        """The same device with new keys for this network: it stays the client that it was."""
        c = schema.clients
        serial = bump(conn, network.ref)
        conn.execute(
            c.update()
            .where(c.c.id == known.id)
            .values(
                wg_key=request.wg_key,
                sealing_key=request.sealing_key,
                version=request.version,
                epoch_held=None,
                changed_serial=serial,
            )
        )
        self._record(conn, "client.rekey", network, known.id, known.name)
        return NetworkRef(network.ref), ClientID(known.id), True

    def _insert(
        self, conn: Connection, network: Row[Any], invite: Row[Any], request: EnrolRequest, now: dt.datetime
    ) -> tuple[NetworkRef, ClientID, bool]:
        client_id = ClientID(new_id("cli"))
        wait = network.approval or (request.code is not None and network.code_approval)
        serial = network.serial if wait else bump(conn, network.ref)
        ip = addresses.claim(conn, network, client_id, invite.ip, now)
        name = self._name(conn, network, invite, request)
        c = schema.clients
        taken = sa.select(c.c.id).where(
            c.c.network_ref == network.ref, c.c.wg_key == request.wg_key, c.c.state.in_(ALIVE)
        )
        if conn.execute(taken).first() is not None:
            raise conflict("key_taken", "another client of this network has the same key", "make a fresh one")
        conn.execute(
            c.insert().values(
                id=client_id,
                network_ref=network.ref,
                name=name,
                ip=ip,
                state="pending" if wait else "approved",
                device_key=request.device_key,
                wg_key=request.wg_key,
                sealing_key=request.sealing_key,
                tags=invite.tags,
                owner_id=invite.owner_id,
                invite_id=invite.id,
                created_at=now,
                approved_at=None if wait else now,
                version=request.version,
                changed_serial=serial,
                ephemeral=invite.ephemeral,
                idle=invite.idle,
            )
        )
        self._record(conn, "client.enrol", network, client_id, name, invite=invite.id, pending=wait)
        return NetworkRef(network.ref), client_id, True

    def _record(self, conn: Connection, action: str, network: Row[Any], client: str, name: str, **more: object) -> None:
        who = Principal(f"device {client}")
        record(self._core, conn, who, action, name, id=client, network=network.name, **more)

    def _name(self, conn: Connection, network: Row[Any], invite: Row[Any], request: EnrolRequest) -> str:
        """The invite's name, else the one asked for, else one made of the host name, with a number if it is taken."""
        c = schema.clients
        fixed = invite.client_name or request.name
        base = fixed or name_of(request.hostname)
        alike = sa.select(c.c.name).where(
            c.c.network_ref == network.ref, c.c.state.in_(ALIVE), sa.or_(c.c.name == base, c.c.name.like(f"{base}-%"))
        )
        taken = set(conn.execute(alike).scalars())
        if base not in taken:
            return str(base)
        if fixed:
            raise invites.name_taken(fixed, network.name)
        return next(name for n in range(2, len(taken) + 3) if (name := f"{base}-{n}") not in taken)

    async def _pool_empty(self, request: EnrolRequest) -> Exception:
        """Says how large the pool is and who would be missed least."""
        c, n = schema.clients, schema.networks

        def tx(conn: Connection) -> tuple[Row[Any], list[Row[Any]]]:
            network = conn.execute(sa.select(n).where(n.c.ref == self._find_invite(conn, request).network_ref)).one()
            query = (
                sa.select(c)
                .where(c.c.network_ref == network.ref, c.c.state.in_(ALIVE))
                .order_by(sa.func.coalesce(c.c.last_seen, c.c.created_at))
            )
            return network, list(conn.execute(query))

        network, rows = await self._core.read(tx)
        size = pool_size(ipaddress.IPv4Network(network.subnet))
        idle = next((r for r in rows if not self._hub.is_online(NetworkRef(network.ref), ClientID(r.id))), None)
        who = ""
        if idle is not None:
            since = idle.last_seen or idle.created_at
            who = f"; longest idle is {idle.name}, {'seen' if idle.last_seen else 'made'} {since:%Y-%m-%d %H:%M} UTC"
        return conflict(
            "pool_empty",
            f"all {size} addresses of {network.name} ({network.subnet}) are taken{who}",
            "remove a client, or let the subnet grow with `network set --subnet`",
        )

    async def _answer(self, ref: NetworkRef, client_id: ClientID, request: EnrolRequest, *, fresh: bool) -> EnrolAnswer:
        live = await self._maps.refresh(ref) if fresh else await self._maps.get(ref)
        n, c = schema.networks, schema.clients

        def tx(conn: Connection) -> tuple[Row[Any] | None, Row[Any] | None]:
            network = conn.execute(sa.select(n).where(n.c.ref == ref)).first()
            return network, conn.execute(sa.select(c).where(c.c.id == client_id, c.c.state.in_(ALIVE))).first()

        network, row = await self._core.read(tx)
        if network is None or row is None or live is None:
            raise invites.invalid()  # removed in this very moment
        member = row.state == "approved"
        if fresh:
            kind = "network_changed" if member else "client_pending"
            self._events.publish(kind, ref, change="client_joined", client_id=client_id, name=row.name)
        grant = None
        if member:
            grant = self._maps.grant(live, request.device_key, row.ip, SealingPublicKey(row.sealing_key))
            self._maps.admit(live, row)
        return EnrolAnswer(
            state=row.state,
            network=ref,
            network_name=network.name,
            network_id=NetworkID(network.network_id),
            client_id=client_id,
            name=row.name,
            ip=ipaddress.IPv4Address(row.ip),
            subnet=ipaddress.IPv4Network(network.subnet),
            map=live.update(client_id) if member else None,
            grant=grant,
        )
