"""Enrols this machine in the network that its configuration names, once: a restart finds it enrolled.

What the controller refuses is tried again more rarely, as rights may be given; a machine that was removed or refused is not brought
back by a restart.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex

import structlog

from shadowmesh.client_api.clientcertificate import renewal
from shadowmesh.client_api.contact import normal_url
from shadowmesh.client_api.dialing import Connect
from shadowmesh.client_api.ownenrolment import CertificateSignIn, OwnEnrolment, renew_certificate
from shadowmesh.daemon.state import FormerNetwork, NetworkRecord
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.serving.files import write_private
from shadowmesh.serving.tasks import in_thread

log = structlog.get_logger(__name__)

_FIRST_RETRY, _LAST_RETRY, _REFUSED_RETRY = 1.0, 60.0, 300.0
_TRANSIENT = {Kind.UNREACHABLE, Kind.FAILED}
_RENEWAL_RETRY, _LONGEST_SLEEP = 3600.0, 6 * 3600.0
_USED = {"invite_used_up", "invite_expired", "invite_revoked", "invite_invalid"}


class SelfEnrolment:
    """`trouble` is why this machine isn't enrolled yet, for people; None if it is, or nothing went wrong.

    `enrol` makes the invite and redeems it; `records` and `former` are the daemon's, looked at anew before each try.
    """

    def __init__(
        self,
        wish: OwnEnrolment,
        records: Callable[[], Collection[NetworkRecord]],
        former: Callable[[], Collection[FormerNetwork]],
        enrol: Callable[[OwnEnrolment], Awaitable[object]],
        changed: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.wish = replace(wish, url=normal_url(wish.url))
        self.trouble: str | None = None
        self._records, self._former = records, former
        self._enrol = enrol
        self._changed = changed
        self._sleep = sleep

    async def run(self) -> None:
        """Until it is enrolled, or it is clear that it shall not be."""
        delay = _FIRST_RETRY
        while not any(map(self._is_it, self._records())):
            if (ended := self._ended()) is not None:
                self._say(
                    f"this machine is no member of {self.wish.network} any more ({ended.what or ended.state}), and a start doesn't make it"
                    f" one: `shadowmesh leave {ended.record.name}` forgets that, or join by an invite"
                )
                return
            try:
                await self._enrol(self.wish)
            except ShadowMeshError as e:
                if e.code == "already_joined":
                    break  # the network is called otherwise here
                if e.code in _USED:
                    self.wish = replace(self.wish, again=token_hex(16))
                self._say(f"this machine can't be enrolled in {self.wish.network}: {e}")
                delay = min(delay * 2, _LAST_RETRY) if e.kind in _TRANSIENT or e.code in _USED else _REFUSED_RETRY
            except Exception:
                log.exception("the enrolment failed, and is tried again")
                delay = _LAST_RETRY
            else:
                break
            await self._sleep(delay * random.uniform(0.7, 1.0))  # noqa: S311 - spreads, hides nothing
        self._say(None)

    def _is_it(self, record: NetworkRecord) -> bool:
        wish, controller = self.wish, record.controller
        ours = controller.fingerprint == wish.fingerprint or wish.url in map(normal_url, controller.identity.urls)
        return ours and wish.network in (record.ref, record.name)

    def _ended(self) -> FormerNetwork | None:
        """What others took away on purpose; what ran out comes back."""
        return next((f for f in self._former() if f.state in ("removed", "refused") and self._is_it(f.record)), None)

    def _say(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            if trouble is not None:
                log.warning("not enrolled", why=trouble)
            self._changed()


async def keep_certificate(
    wish: OwnEnrolment,
    sign_in: CertificateSignIn,
    connect: Connect,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Renews the client certificate at two thirds of its life, for ever; what keeps it from that is logged, and tried again."""
    while True:
        try:
            _, due = renewal(sign_in.cert_file, datetime.now(UTC))
            if due <= 0:
                await in_thread(partial(renew_certificate, wish, sign_in, connect=connect))
                log.info("client certificate renewed", file=str(sign_in.cert_file))
                due = _RENEWAL_RETRY  # at least: one whose key ends soon is due at once
        except ShadowMeshError as e:
            log.warning("the client certificate isn't renewed", why=str(e))
            due = _RENEWAL_RETRY
        await sleep(min(due, _LONGEST_SLEEP))


class _Kept(Struct, frozen=True, kw_only=True):
    tokens: Mapping[str, str] = {}


class TokenFile:
    """STATE_DIR/session.json (0600): the newest refresh token of the session that was configured last, by the hash of the first."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "session.json"

    def successor(self, first: str) -> str | None:
        try:
            return from_json(self._path.read_bytes(), _Kept).tokens.get(first)
        except (OSError, MalformedError):
            return None

    def keep(self, first: str, successor: str) -> None:
        """Raises ShadowMeshError(state_unwritable)."""
        try:
            write_private(self._path, to_json(_Kept(tokens={first: successor})))
        except OSError as e:
            raise ShadowMeshError(
                "state_unwritable", f"{self._path} can't be written ({e.strerror})", "make room on its disk"
            ) from e
