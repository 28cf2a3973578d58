"""Enrolment: an invite and three keys become a client, once, whatever gets lost on the way.

Who enrols proves to hold the private half of each key (`protocol.possession`): a public key that was read off a map
enrols nobody. The challenge costs a sealing, so it is made only for an invite that is good, and so often for a source.
Two enrolments for one use, one address or one name are decided by the database: the invite's use is a guarded update,
the rest are unique indices. The same keys with the same invite find the client that they made before.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
import ipaddress
import os
import re
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.errors import conflict, not_allowed, usage
from shadowmesh.controller.service import addresses, invites
from shadowmesh.controller.service.addresses import PoolEmpty, pool_size
from shadowmesh.controller.service.audit_log import difference, record, shown
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
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef, new_id
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey, Secret, WireGuardPublicKey
from shadowmesh.model.text import check_text
from shadowmesh.protocol import possession
from shadowmesh.protocol.points import check_ed25519, check_x25519
from shadowmesh.protocol.signing import NONCE_SIZE, Context, registration_message, verify_text

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
# Wrong guesses by source. There is no limit for all sources together, which a stranger could use up for everybody: with
# 59 bits in a code, a million sources that guess without pause need a thousand years for one of a hundred open codes.
_CODE_BURST, _CODE_PER = 5, 12.0
_MAX_INVITE = 200  # characters of an id, secret or code
_SECRET_BURST, _SECRET_PER = 30, 2.0  # 128 bits: this bounds the work, not the chance
_CHALLENGE_BURST, _CHALLENGE_PER = 500, 0.02  # challenges for one source, each a sealing of 0.13 ms


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


def _check_invite(request: ChallengeRequest | EnrolRequest) -> None:
    by_invite = request.invite_id is not None and request.secret is not None
    if by_invite == (request.code is not None):
        raise usage("bad_request", "an enrolment has either an invite's id and secret, or a code")
    for text in (request.invite_id, request.secret, request.code):
        check_text("invite", text or "", _MAX_INVITE)


def _check_keys(device_key: DevicePublicKey, wg_key: WireGuardPublicKey) -> None:
    """The sealing key is checked by sealing to it. Raises MalformedError."""
    check_ed25519(device_key, "device key")
    check_x25519(wg_key, "WireGuard key")


def _known(conn: Connection, network: Row[Any], device_key: DevicePublicKey | None) -> Row[Any] | None:
    """The client of this network that the device is already."""
    c = schema.clients
    mine = sa.select(c).where(c.c.network_ref == network.ref, c.c.device_key == device_key, c.c.state.in_(ALIVE))
    return conn.execute(mine).first()


def _check_free(conn: Connection, network: Row[Any], wg_key: WireGuardPublicKey, client_id: str) -> None:
    c = schema.clients
    taken = sa.select(c.c.id).where(
        c.c.network_ref == network.ref, c.c.wg_key == wg_key, c.c.state.in_(ALIVE), c.c.id != client_id
    )
    if conn.execute(taken).first() is not None:
        raise conflict("key_taken", "another client of this network has the same key", "make a fresh one")


def _is_taken(conn: Connection, alive: sa.ColumnElement[bool], name: str) -> bool:
    c = schema.clients
    return conn.execute(sa.select(c.c.id).where(alive, c.c.name == name)).first() is not None


def _free_number(taken: Callable[[int], bool]) -> int:
    """A number from 2 on that isn't taken, the lowest where they are taken without gaps; in a logarithm of looks."""
    low, high = 1, 2  # low is taken
    while taken(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    return high


class Enrolment:
    def __init__(self, core: Core, hub: Hub, maps: Maps, presences: Presences, events: Events) -> None:
        self._core = core
        self._hub = hub
        self._maps = maps
        self._presences = presences
        self._events = events
        self.nonces = Nonces(core)
        self._codes = Limiter(_CODE_BURST, _CODE_PER)
        self._secrets = Limiter(_SECRET_BURST, _SECRET_PER)
        self._challenges = Limiter(_CHALLENGE_BURST, _CHALLENGE_PER)

    async def challenge(self, wish: ChallengeRequest, source: str) -> EnrolChallenge:
        """A nonce; for an invite and keys also where it leads and what the keys are proved by.

        `source` is the address that attempts are limited by. Raises ShadowMeshError: invite_invalid, invite_expired,
        invite_revoked, invite_used_up, rate_limited; MalformedError: a key that is none.
        """
        now, nonce, identity = self._core.now().timestamp(), self.nonces.fresh(), self._core.keys.identity.public
        if wish == ChallengeRequest():
            return EnrolChallenge(nonce=nonce.hex(), wall=now, identity=identity)
        _check_invite(wish)
        if wish.device_key is None or wish.wg_key is None or wish.sealing_key is None:
            raise usage("bad_request", "who enrols names the three public keys with the invite")
        _check_keys(wish.device_key, wish.wg_key)
        network = await self._counted(wish, source, lambda: self._core.read(lambda conn: self._preview(conn, wish)))
        self._challenges.take(source, now)
        transcript = self._transcript(
            nonce, wish.device_key, wish.wg_key, wish.sealing_key, wish.invite_id or wish.code
        )
        asked = possession.make_challenge(self._secret(transcript), wish.sealing_key, transcript)
        return EnrolChallenge(
            nonce=nonce.hex(),
            wall=now,
            identity=identity,
            ephemeral=asked.ephemeral,
            sealed=base64.b64encode(asked.sealed).decode(),
            network_name=network.name,
            network_id=NetworkID(network.network_id),
            subnet=ipaddress.IPv4Network(network.subnet),
            subnet6=None if network.subnet6 is None else ipaddress.IPv6Network(network.subnet6),
        )

    def _preview(self, conn: Connection, wish: ChallengeRequest) -> Row[Any]:
        """The network that the invite leads to, if it can be redeemed or this device has redeemed it."""
        invite = self._find_invite(conn, wish)
        n = schema.networks
        network = conn.execute(sa.select(n).where(n.c.ref == invite.network_ref, n.c.deleted_at.is_(None))).first()
        if network is None:
            raise invites.invalid()
        if _known(conn, network, wish.device_key) is None:
            invites.check_open(invite, self._core.now())
        return network

    async def _counted(
        self, wish: ChallengeRequest | EnrolRequest, source: str, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """The attempt's result; a wrong invite or code counts against its source, a right one never.

        A code counts until it has proved right, so that guesses sent all at once are no more than one after another. A
        secret counts once it has proved wrong: many machines behind one address may join at the same moment.
        """
        now = self._core.now().timestamp()
        if wish.code is None:
            self._secrets.check(source, now)
        else:
            self._codes.take(source, now)
        right = False
        try:
            result = await attempt()
            right = True
        except (ShadowMeshError, PoolEmpty) as e:
            right = getattr(e, "code", "") != invites.INVALID
            raise
        finally:
            if right and wish.code is not None:
                self._codes.give_back(source)
            elif not right and wish.code is None:
                self._secrets.allows(source, now)
        return result

    def _transcript(
        self,
        nonce: bytes,
        device_key: DevicePublicKey,
        wg_key: WireGuardPublicKey,
        sealing_key: SealingPublicKey,
        invite: str | None,
    ) -> bytes:
        return registration_message(
            nonce,
            self._core.keys.identity.public,
            device_key=device_key,
            wg_key=wg_key,
            sealing_key=sealing_key,
            invite=invite or "",
        )

    def _secret(self, transcript: bytes) -> Secret:
        return self._core.keys.vault.derive("possession", transcript, possession.SECRET_SIZE)

    async def enrol(self, request: EnrolRequest, source: str) -> EnrolAnswer:
        """The membership. Raises ShadowMeshError as `challenge` does, and: nonce_expired, bad_signature, bad_proof,
        bad_name, network_full, name_taken, key_taken, pool_empty.
        """
        self._check(request)
        try:
            ref, client_id, fresh = await self._counted(
                request, source, lambda: self._core.write(lambda conn: self._tx(conn, request))
            )
        except PoolEmpty as e:
            raise await self._pool_empty(request) from e
        return await self._answer(ref, client_id, request, fresh=fresh)

    def _check(self, request: EnrolRequest) -> None:
        _check_invite(request)
        _check_keys(request.device_key, request.wg_key)
        if request.name is not None and not _NAME.match(request.name):
            raise usage(
                "bad_name", f"{request.name[:80]!r} can't be a client's name", "use a-z, 0-9 and -, at most 63 of them"
            )
        check_text("host name", request.hostname, 300)
        check_text("version", request.version, 100)
        transcript = self._transcript(
            self.nonces.check(request.nonce),
            request.device_key,
            request.wg_key,
            request.sealing_key,
            request.invite_id or request.code,
        )
        if not verify_text(request.device_key, Context.REGISTRATION, transcript, request.signature):
            raise not_allowed("bad_signature", "the device's signature is wrong")
        try:
            proof = base64.b64decode(request.proof, validate=True)
        except (binascii.Error, ValueError):
            proof = b""
        if not possession.is_proof(proof, self._secret(transcript), request.wg_key, transcript):
            raise not_allowed("bad_proof", "the private halves of the WireGuard and the sealing key weren't proved")

    def _tx(self, conn: Connection, request: EnrolRequest) -> tuple[NetworkRef, ClientID, bool]:
        now = self._core.now()
        invite = self._find_invite(conn, request)
        n = schema.networks
        network = conn.execute(
            sa.select(n).where(n.c.ref == invite.network_ref, n.c.deleted_at.is_(None)).with_for_update()
        ).first()
        if network is None:
            raise invites.invalid()
        known = _known(conn, network, request.device_key)
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
        _check_free(conn, network, request.wg_key, known.id)
        c = schema.clients
        serial = bump(conn, network.ref)
        keys = {"wg_key": request.wg_key, "sealing_key": request.sealing_key}
        seen = {"version": request.version, "epoch_held": None, "changed_serial": serial}
        conn.execute(c.update().where(c.c.id == known.id).values(**keys, **seen))
        self._record(conn, "client.rekey", network, known.id, known.name, **difference(known, keys))
        return NetworkRef(network.ref), ClientID(known.id), True

    def _insert(
        self, conn: Connection, network: Row[Any], invite: Row[Any], request: EnrolRequest, now: dt.datetime
    ) -> tuple[NetworkRef, ClientID, bool]:
        client_id = ClientID(new_id("cli"))
        wait = network.approval or (request.code is not None and network.code_approval)
        serial = network.serial if wait else bump(conn, network.ref)
        ip = addresses.claim(conn, network, client_id, invite.ip, now)
        name = self._name(conn, network, invite, request)
        _check_free(conn, network, request.wg_key, client_id)
        told = {
            "name": name,
            "ip": ip,
            "state": "pending" if wait else "approved",
            "device_key": request.device_key,
            "wg_key": request.wg_key,
            "sealing_key": request.sealing_key,
            "tags": invite.tags,
            "owner_id": invite.owner_id,
            "ephemeral": invite.ephemeral,
        }
        conn.execute(
            schema.clients.insert().values(
                id=client_id,
                network_ref=network.ref,
                **told,
                invite_id=invite.id,
                created_at=now,
                approved_at=None if wait else now,
                version=request.version,
                changed_serial=serial,
                idle=invite.idle,
            )
        )
        self._record(conn, "client.enrol", network, client_id, name, invite=invite.id, after=shown(told, *told))
        return NetworkRef(network.ref), client_id, True

    def _record(self, conn: Connection, action: str, network: Row[Any], client: str, name: str, **more: object) -> None:
        who = Principal(f"device {client}")
        record(self._core, conn, who, action, name, id=client, network=network.name, **more)

    def _name(self, conn: Connection, network: Row[Any], invite: Row[Any], request: EnrolRequest) -> str:
        """The invite's name, else the one asked for, else one made of the host name, with a number if it is taken."""
        c = schema.clients
        fixed = invite.client_name or request.name
        base = fixed or name_of(request.hostname)
        alive = sa.and_(c.c.network_ref == network.ref, c.c.state.in_(ALIVE))
        if conn.execute(sa.select(c.c.id).where(alive, c.c.name == base)).first() is None:
            return str(base)
        if fixed:
            raise invites.name_taken(fixed, network.name)
        return f"{base}-{_free_number(lambda n: _is_taken(conn, alive, f'{base}-{n}'))}"

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
        # Also for who asks again: telling of them may have failed, or is under way still.
        live = await self._maps.refresh(ref, gather=True)
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
            grant = self._maps.grant(ref, client_id, SealingPublicKey(row.sealing_key))
            if grant is None:
                raise invites.invalid()
            self._maps.admit(live, row)
        elif (link := self._hub.devices.get(request.device_key)) is not None:
            self._maps.wait(link, ref, client_id)
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
