"""Redeeming an invite: first contact, proof of the three keys, and the membership that comes back.

Blocking. Safe to repeat with the same keys: the controller answers the same membership and uses nothing up.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from shadowmesh import __version__
from shadowmesh.client_api.contact import (
    API,
    Contact,
    check_fingerprint,
    contact_again,
    error_of,
    normal_url,
    unreachable,
)
from shadowmesh.client_api.dialing import Connect, Deadline, http_client
from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolChallenge, EnrolRequest
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.invite import Invite, is_short_code
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.model.text import check_text, is_safe, safe_part
from shadowmesh.protocol.noise import public_key
from shadowmesh.protocol.possession import Challenge, prove
from shadowmesh.protocol.sealing import sealing_public_key
from shadowmesh.protocol.signing import Context, Signer, registration_message, sign_text, verify_map

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Check = Callable[[NetworkID, str, tuple[IPNetwork, ...]], None]

_TIMEOUT = 20.0
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class ShortCode:
    """A code that a person typed: it needs to be said which controller it is of."""

    url: str
    code: str = field(repr=False)
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class EnrolResult:
    """`contact` holds the controller's identity, to be kept with the membership; `map` is the answer's, verified."""

    contact: Contact
    answer: EnrolAnswer
    map: NetworkMap | None = None


def parse_invite(text: str, *, controller: str | None = None, fingerprint: str | None = None) -> Invite | ShortCode:
    """`smi1_…`, or a short code with the controller it belongs to. Raises ShadowMeshError(USAGE)."""
    text = text.strip()
    if is_short_code(text):
        if controller is None:
            raise ShadowMeshError(
                "no_controller",
                "a short code doesn't say which controller it is of",
                "give --controller https://HOST:8443, or use the long invite (smi1_…)",
                kind=Kind.USAGE,
            )
        check_fingerprint(fingerprint)
        return ShortCode(normal_url(controller), text.lower(), fingerprint)
    try:
        return Invite.decode(text)
    except MalformedError as e:
        raise ShadowMeshError(
            "bad_invite", f"this is not an invite ({e})", "copy it whole, without line breaks", kind=Kind.USAGE
        ) from e


def enroll(
    invite: Invite | ShortCode,
    *,
    device: Signer,
    wg_private: Secret,
    sealing_private: Secret,
    name: str | None = None,
    hostname: str = "",
    timeout: float = _TIMEOUT,
    check: Check | None = None,
    connect: Connect | None = None,
) -> EnrolResult:
    """The membership, approved or pending; of several URLs the first that answers is used.

    The private keys stay here: what is sent proves that they are there. `hostname` is a wish for a name.
    `check` is told where the invite leads before it is redeemed; what it raises ends the enrolment, and nothing is
    used up. `connect`: how connections are made, where that matters. It takes no longer than `timeout` seconds.

    Raises ShadowMeshError: what `first_contact` raises, and the controller's own: invite_invalid, invite_expired,
    invite_revoked (NOT_ALLOWED), invite_used_up, network_full, pool_empty, name_taken (CONFLICT), rate_limited.
    """
    import httpx  # the daemon starts without it

    if name is not None:
        check_text("name", name, 63)
    urls = invite.urls if isinstance(invite, Invite) else (invite.url,)
    deadline = Deadline(timeout)
    contact = reach(urls, invite.fingerprint, timeout=timeout, connect=connect)
    with http_client(contact.tls, deadline.left, connect, base_url=contact.url + API) as client:
        try:
            keys = _Keys(device, wg_private, sealing_private)
            wish = ChallengeRequest(**_invite_fields(invite), **keys.public)
            challenge = _answer(
                client.post("/enroll/challenge", content=to_json(wish), headers=_JSON), EnrolChallenge, contact.url
            )
            if challenge.network_id is None or challenge.subnet is None:
                raise _bad_answer()
            if check is not None:
                subnets = (challenge.subnet,) if challenge.subnet6 is None else (challenge.subnet, challenge.subnet6)
                check(challenge.network_id, challenge.network_name or "", subnets)
            request = _request(contact, challenge, invite, keys, name, hostname)
            answer = _answer(client.post("/enroll", content=to_json(request), headers=_JSON), EnrolAnswer, contact.url)
        except httpx.HTTPError as e:
            raise unreachable(contact.url, e, offset=contact.offset) from e
    if (answer.network_id, answer.subnet) != (challenge.network_id, challenge.subnet):
        raise _bad_answer()  # what was checked is another network
    if not (is_safe(answer.name) and is_safe(answer.network_name)):
        raise _bad_answer()
    return EnrolResult(contact, answer, _map(answer, contact))


def reach(
    urls: tuple[str, ...], fingerprint: str | None, *, timeout: float = _TIMEOUT, connect: Connect | None = None
) -> Contact:
    """First contact with the first of several URLs that answers, within `timeout` seconds.

    Raises the last one's ShadowMeshError.
    """
    failed: ShadowMeshError | None = None
    deadline = Deadline(timeout)
    for number, url in enumerate(urls):
        share = deadline.left / (len(urls) - number)  # one that swallows everything leaves time for the others
        try:
            return contact_again(url, fingerprint, None, timeout=share, connect=connect)
        except ShadowMeshError as e:
            failed = e
            if e.kind is not Kind.UNREACHABLE and e.code != "not_a_controller":
                raise
    assert failed is not None, "an invite names at least one URL"
    raise failed


@dataclass(frozen=True, slots=True)
class _Keys:
    device: Signer
    wg_private: Secret
    sealing_private: Secret

    @property
    def public(self) -> dict[str, Any]:
        return {
            "device_key": self.device.device_key,
            "wg_key": public_key(self.wg_private),
            "sealing_key": sealing_public_key(self.sealing_private),
        }


def _invite_fields(invite: Invite | ShortCode) -> dict[str, Any]:
    if isinstance(invite, Invite):
        return {"invite_id": invite.invite_id, "secret": invite.secret}
    return {"code": invite.code}


def _request(
    contact: Contact,
    challenge: EnrolChallenge,
    invite: Invite | ShortCode,
    keys: _Keys,
    name: str | None,
    hostname: str,
) -> EnrolRequest:
    public = keys.public
    try:
        message = registration_message(
            bytes.fromhex(challenge.nonce),
            contact.identity.identity,  # as checked by the fingerprint, not as the challenge says
            invite=invite.invite_id if isinstance(invite, Invite) else invite.code,
            **public,
        )
        if challenge.ephemeral is None or challenge.sealed is None:
            raise MalformedError("the challenge asks for no proof")
        asked = Challenge(challenge.ephemeral, base64.b64decode(challenge.sealed, validate=True))
        proof = prove(asked, keys.wg_private, keys.sealing_private, message)
    except (MalformedError, binascii.Error, ValueError) as e:
        raise _bad_answer() from e
    return EnrolRequest(
        nonce=challenge.nonce,
        signature=sign_text(keys.device, Context.REGISTRATION, message),
        proof=base64.b64encode(proof).decode(),
        name=name,
        hostname=safe_part(hostname)[:300],
        version=__version__,
        **_invite_fields(invite),
        **public,
    )


def _answer(response: httpx.Response, kind: type[T], url: str) -> T:
    if not response.is_success:
        raise error_of(response, url)
    try:
        return from_json(response.content, kind)
    except MalformedError as e:
        raise _bad_answer() from e


def _map(answer: EnrolAnswer, contact: Contact) -> NetworkMap | None:
    """The answer's map: of the network that was joined, and signed as every map is."""
    if answer.map is None:
        return None
    try:
        found = answer.map.apply(None)
    except MalformedError as e:
        raise _bad_answer() from e
    ours = answer.map.network_id == answer.network_id
    if not ours or not verify_map(found, answer.map.signature, contact.identity.signing_keys):
        raise _bad_answer()
    return found


def _bad_answer() -> ShadowMeshError:
    return ShadowMeshError("bad_answer", "the controller's answer isn't understood", "is it of another version?")
