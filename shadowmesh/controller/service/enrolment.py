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
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM, Principal
from shadowmesh.controller.refusals import not_allowed, usage
from shadowmesh.controller.service import addresspool, invites
from shadowmesh.controller.service.addresspool import PoolEmpty
from shadowmesh.controller.service.audit_log import difference, record, shown
from shadowmesh.controller.service.clients import RemovedClient, remove_client
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.newcomers import (
    InviteGuesses,
    check_key_free,
    check_room,
    free_name,
    pool_empty,
    waits,
)
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump, living_network
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolChallenge, EnrolRequest
from shadowmesh.model.ids import ClientID, NetworkRef, new_id
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey, Secret, WireGuardPublicKey
from shadowmesh.model.text import check_text
from shadowmesh.protocol import possession
from shadowmesh.protocol.points import check_ed25519, check_x25519
from shadowmesh.protocol.signing import NONCE_SIZE, Context, registration_message, verify_text

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_INSERT = schema.clients.insert()
_MAX_INVITE = 200  # characters of an id, secret or code
_CHALLENGE_BURST, _CHALLENGE_PER = 500, 0.02  # challenges for one source, each a sealing of 0.13 ms


class Nonces:
    """Nonces that any controller with the same secrets recognises: time ‖ random ‖ keyed hash. Good for some minutes."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def fresh(self) -> bytes:
        head = struct.pack(">Q", int(self._context.now().timestamp())) + os.urandom(8)
        return head + self._mac(head)

    def check(self, text: str) -> bytes:
        """The nonce's bytes. Raises ShadowMeshError(nonce_expired)."""
        try:
            nonce = bytes.fromhex(text)
        except ValueError:
            nonce = b""
        if len(nonce) == NONCE_SIZE and hmac.compare_digest(self._mac(nonce[:16]), nonce[16:]):
            age = self._context.now().timestamp() - int.from_bytes(nonce[:8], "big")
            if -1 <= age <= self._context.timing.challenge_life:
                return nonce
        raise not_allowed("nonce_expired", "the nonce is not one of this controller, or too old", "ask for a new one")

    def _mac(self, head: bytes) -> bytes:
        return bytes.fromhex(self._context.keys.vault.mac("nonce", head.hex()))[:16]


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


@prepared
def _of_device(ref: str, device_key: bytes) -> sa.Select[Any]:
    c = schema.clients
    return sa.select(c).where(c.c.network_ref == ref, c.c.device_key == device_key, schema.LIVING)


@prepared
def _unproven(ref: str, wg_key: bytes) -> sa.Select[Any]:
    c = schema.clients
    waits = sa.and_(schema.LIVING, c.c.state == "pending", c.c.unproven_until.is_not(None))
    return sa.select(c).where(c.c.network_ref == ref, c.c.wg_key == wg_key, waits)


@prepared
def _living_client(client_id: str) -> sa.Select[Any]:
    return sa.select(schema.clients).where(schema.clients.c.id == client_id, schema.LIVING)


def _known(conn: Connection, network: Row[Any], device_key: DevicePublicKey | None) -> Row[Any] | None:
    """The client of this network that the device is already."""
    return None if device_key is None else conn.execute(*_of_device(network.ref, device_key)).first()


def _claimed(conn: Connection, network: Row[Any], wg_key: WireGuardPublicKey | None) -> Row[Any] | None:
    """The client that was registered with this key and hasn't proved it (`service.registration`)."""
    return None if wg_key is None else conn.execute(*_unproven(network.ref, wg_key)).first()


@dataclass(frozen=True, slots=True)
class _Enrolled:
    ref: NetworkRef
    client_id: ClientID
    fresh: bool = True  # not merely told again
    displaced: RemovedClient | None = None


class Enrolment:
    def __init__(
        self,
        context: ServiceContext,
        hub: Hub,
        maps: Maps,
        presences: Presences,
        events: Events,
        guesses: InviteGuesses,
    ) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._presences = presences
        self._events = events
        self.nonces = Nonces(context)
        self._guesses = guesses
        self._challenges = Limiter(_CHALLENGE_BURST, _CHALLENGE_PER)

    async def challenge(self, wish: ChallengeRequest, source: str) -> EnrolChallenge:
        """A nonce; for an invite and keys also where it leads and what the keys are proved by.

        `source` is the address that attempts are limited by. Raises ShadowMeshError: invite_invalid, invite_expired,
        invite_revoked, invite_used_up, rate_limited; MalformedError: a key that is none.
        """
        now, nonce, identity = self._context.now().timestamp(), self.nonces.fresh(), self._context.keys.identity.public
        if wish == ChallengeRequest():
            return EnrolChallenge(nonce=nonce.hex(), wall=now, identity=identity)
        _check_invite(wish)
        if wish.device_key is None or wish.wg_key is None or wish.sealing_key is None:
            raise usage("bad_request", "who enrols names the three public keys with the invite")
        _check_keys(wish.device_key, wish.wg_key)
        network = await self._guesses.counted(
            wish.code is not None, source, now, lambda: self._context.read(lambda conn: self._preview(conn, wish))
        )
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
        network = living_network(conn, invite.network_ref)
        if network is None:
            raise invites.invalid()
        claimed = _claimed(conn, network, wish.wg_key)
        registered = claimed is not None and claimed.invite_id == invite.id and invite.revoked_at is None
        if not registered and _known(conn, network, wish.device_key) is None:
            invites.check_open(invite, self._context.now())
        return network

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
            self._context.keys.identity.public,
            device_key=device_key,
            wg_key=wg_key,
            sealing_key=sealing_key,
            invite=invite or "",
        )

    def _secret(self, transcript: bytes) -> Secret:
        return self._context.keys.vault.derive("possession", transcript, possession.SECRET_SIZE)

    async def enrol(self, request: EnrolRequest, source: str) -> EnrolAnswer:
        """The membership. Raises ShadowMeshError as `challenge` does, and: nonce_expired, bad_signature, bad_proof,
        bad_name, network_full, name_taken, key_taken, pool_empty.
        """
        self._check(request)
        try:
            done = await self._guesses.counted(
                request.code is not None,
                source,
                self._context.now().timestamp(),
                lambda: self._context.write(lambda conn: self._tx(conn, request)),
            )
        except PoolEmpty as e:
            raise await self._context.read(
                lambda conn: pool_empty(conn, self._hub, self._find_invite(conn, request).network_ref)
            ) from e
        return await self._answer(done, request)

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

    def _tx(self, conn: Connection, request: EnrolRequest) -> _Enrolled:
        now = self._context.now()
        invite = self._find_invite(conn, request)
        network = living_network(conn, invite.network_ref, lock=True)
        if network is None:
            raise invites.invalid()
        known = _known(conn, network, request.device_key)
        if known is not None and known.wg_key == request.wg_key and known.sealing_key == request.sealing_key:
            return _Enrolled(NetworkRef(network.ref), ClientID(known.id), fresh=False)  # the answer was lost
        claimed, displaced = _claimed(conn, network, request.wg_key), None
        if claimed is not None:
            redeems = claimed.invite_id == invite.id and invite.revoked_at is None and claimed.unproven_until > now
            if known is None and redeems:
                return self._complete(conn, network, invite, claimed, request)
            # Who registered this key couldn't prove it, and who asks now has proved it.
            displaced = remove_client(self._context, conn, SYSTEM, network, claimed, "displaced")
        invites.use(conn, invite, now)
        if known is not None:
            client_id = self._rekey(conn, network, known, request)
        else:
            check_room(conn, network)
            client_id = self._insert(conn, network, invite, request, now)
        return _Enrolled(NetworkRef(network.ref), client_id, displaced=displaced)

    def _find_invite(self, conn: Connection, request: ChallengeRequest | EnrolRequest) -> Row[Any]:
        if request.code is not None:
            return invites.by_code(self._context, conn, request.code)
        return invites.by_secret(self._context, conn, request.invite_id or "", request.secret or "")

    def _rekey(self, conn: Connection, network: Row[Any], known: Row[Any], request: EnrolRequest) -> ClientID:
        """The same device with new keys for this network: it stays the client that it was."""
        check_key_free(conn, network, request.wg_key, known.id)
        c = schema.clients
        serial = bump(conn, network.ref)
        keys = {"wg_key": request.wg_key, "sealing_key": request.sealing_key}
        seen = {"version": request.version, "epoch_held": None, "changed_serial": serial}
        conn.execute(c.update().where(c.c.id == known.id).values(**keys, **seen))
        self._record(conn, "client.rekey", network, known.id, known.name, **difference(known, keys))
        return ClientID(known.id)

    def _complete(
        self, conn: Connection, network: Row[Any], invite: Row[Any], claimed: Row[Any], request: EnrolRequest
    ) -> _Enrolled:
        """Who was registered has proved the key: it goes on as who enrols by the same invite does."""
        wait, c = waits(network, by_code=request.code is not None), schema.clients
        serial = network.serial if wait else bump(conn, network.ref)
        values = {
            "state": "pending" if wait else "approved",
            "device_key": request.device_key,
            "sealing_key": request.sealing_key,
            "ephemeral": invite.ephemeral,
        }
        seen = {"version": request.version, "epoch_held": None, "changed_serial": serial}
        approved_at = None if wait else self._context.now()
        change = c.update().where(c.c.id == claimed.id).values(**values, **seen)
        conn.execute(change.values(unproven_until=None, approved_at=approved_at))
        more = difference(claimed, values)
        self._record(conn, "client.enrol", network, claimed.id, claimed.name, invite=invite.id, **more)
        return _Enrolled(NetworkRef(network.ref), ClientID(claimed.id))

    def _insert(
        self, conn: Connection, network: Row[Any], invite: Row[Any], request: EnrolRequest, now: dt.datetime
    ) -> ClientID:
        client_id = ClientID(new_id("cli"))
        wait = waits(network, by_code=request.code is not None)
        serial = network.serial if wait else bump(conn, network.ref)
        ip = addresspool.claim(conn, network, client_id, invite.ip, now)
        name = free_name(conn, network, invite.client_name or request.name, request.hostname)
        check_key_free(conn, network, request.wg_key, client_id)
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
        more = {
            "id": client_id,
            "network_ref": network.ref,
            "invite_id": invite.id,
            "created_at": now,
            "approved_at": None if wait else now,
            "version": request.version,
            "changed_serial": serial,
            "idle": invite.idle,
        }
        conn.execute(_INSERT, told | more)
        self._record(conn, "client.enrol", network, client_id, name, invite=invite.id, after=shown(told, *told))
        return client_id

    def _record(self, conn: Connection, action: str, network: Row[Any], client: str, name: str, **more: object) -> None:
        who = Principal(f"device {client}")
        record(self._context, conn, who, action, name, id=client, network=network.name, **more)

    async def _answer(self, done: _Enrolled, request: EnrolRequest) -> EnrolAnswer:
        ref, client_id = done.ref, done.client_id
        if done.displaced is not None:
            gone = done.displaced
            self._events.publish("client_removed", ref, client_id=gone.client_id, name=gone.name, reason=gone.reason)
        # Also for who asks again: telling of them may have failed, or is under way still.
        live = await self._maps.refresh(ref, gather=True)

        def tx(conn: Connection) -> tuple[Row[Any] | None, Row[Any] | None]:
            return living_network(conn, ref), conn.execute(*_living_client(client_id)).first()

        network, row = await self._context.read(tx)
        if network is None or row is None or live is None:
            raise invites.invalid()  # removed in this very moment
        member = row.state == "approved"
        if done.fresh:
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
