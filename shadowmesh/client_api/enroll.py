"""Redeeming an invite: first contact, proof of the keys, and the membership that comes back.

Blocking. Safe to repeat with the same keys: the controller answers the same membership and uses nothing up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from shadowmesh import __version__
from shadowmesh.client_api.contact import API, Contact, error_of, first_contact, unreachable
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolChallenge, EnrolRequest
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.invite import Invite, is_short_code
from shadowmesh.model.keys import NetworkID, SealingPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.signing import Context, Signer, registration_message, sign_text, verify_map

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Check = Callable[[NetworkID, str, ipaddress.IPv4Network], None]

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
    """`smi1_…`, or a short code with the controller it belongs to. Raises ShadowMeshError(bad_invite)."""
    text = text.strip()
    if is_short_code(text):
        if controller is None:
            raise ShadowMeshError(
                "no_controller",
                "a short code doesn't say which controller it is of",
                "give --controller https://HOST:8443, or use the long invite (smi1_…)",
                kind=Kind.USAGE,
            )
        return ShortCode(controller, text.lower(), fingerprint)
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
    wg_key: WireGuardPublicKey,
    sealing_key: SealingPublicKey,
    name: str | None = None,
    hostname: str = "",
    timeout: float = _TIMEOUT,
    check: Check | None = None,
) -> EnrolResult:
    """The membership, approved or pending; of several URLs the first that answers is used.

    `check` is told where the invite leads before it is redeemed; what it raises ends the enrolment, and nothing is
    used up.

    Raises ShadowMeshError: what `first_contact` raises, and the controller's own: invite_invalid, invite_expired,
    invite_revoked (NOT_ALLOWED), invite_used_up, network_full, pool_empty, name_taken (CONFLICT), rate_limited.
    """
    import httpx  # the daemon starts without it

    urls = invite.urls if isinstance(invite, Invite) else (invite.url,)
    contact = reach(urls, invite.fingerprint, timeout=timeout)
    tls = contact.tls
    with httpx.Client(base_url=contact.url + API, verify=tls, timeout=timeout, trust_env=False) as client:
        try:
            wish = _challenge_request(invite)
            challenge = _answer(
                client.post("/enroll/challenge", content=to_json(wish), headers=_JSON), EnrolChallenge, contact.url
            )
            if check is not None and challenge.network_id is not None and challenge.subnet is not None:
                check(challenge.network_id, challenge.network_name or "", challenge.subnet)
            request = _request(contact, challenge, invite, device, wg_key, sealing_key, name, hostname)
            answer = _answer(client.post("/enroll", content=to_json(request), headers=_JSON), EnrolAnswer, contact.url)
        except httpx.HTTPError as e:
            raise unreachable(contact.url, e, offset=contact.offset) from e
    return EnrolResult(contact, answer, _map(answer, contact))


def reach(urls: tuple[str, ...], fingerprint: str | None, *, timeout: float = _TIMEOUT) -> Contact:
    """First contact with the first of several URLs that answers. Raises the last one's ShadowMeshError."""
    failed: ShadowMeshError | None = None
    for url in urls:
        try:
            return first_contact(url, fingerprint, timeout=timeout)
        except ShadowMeshError as e:
            failed = e
            if e.kind is not Kind.UNREACHABLE and e.code != "not_a_controller":
                raise
    assert failed is not None, "an invite names at least one URL"
    raise failed


def _challenge_request(invite: Invite | ShortCode) -> ChallengeRequest:
    if isinstance(invite, Invite):
        return ChallengeRequest(invite_id=invite.invite_id, secret=invite.secret)
    return ChallengeRequest(code=invite.code)


def _request(
    contact: Contact,
    challenge: EnrolChallenge,
    invite: Invite | ShortCode,
    device: Signer,
    wg_key: WireGuardPublicKey,
    sealing_key: SealingPublicKey,
    name: str | None,
    hostname: str,
) -> EnrolRequest:
    try:
        nonce = bytes.fromhex(challenge.nonce)
    except ValueError as e:
        raise _bad_answer() from e
    message = registration_message(
        nonce,
        contact.identity.identity,  # as checked by the fingerprint, not as the challenge says
        device_key=device.device_key,
        wg_key=wg_key,
        sealing_key=sealing_key,
        invite=invite.invite_id if isinstance(invite, Invite) else invite.code,
    )
    return EnrolRequest(
        nonce=challenge.nonce,
        device_key=device.device_key,
        wg_key=wg_key,
        sealing_key=sealing_key,
        signature=sign_text(device, Context.REGISTRATION, message),
        invite_id=invite.invite_id if isinstance(invite, Invite) else None,
        secret=invite.secret if isinstance(invite, Invite) else None,
        code=invite.code if isinstance(invite, ShortCode) else None,
        name=name,
        hostname=hostname[:300],
        version=__version__,
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
