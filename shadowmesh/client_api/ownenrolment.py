"""A machine that enrols itself: an invite for one machine, made by what the machine was given to sign in with.

Blocking. What was given signs in to the controller's API as it does anywhere; the enrolment itself is then that of any invite, with the
proof of the machine's own keys.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from shadowmesh.client_api.clientcertificate import renewal, signing_request
from shadowmesh.client_api.contact import API, Contact, error_of, first_contact, unreachable
from shadowmesh.client_api.dialing import Connect, Deadline, http_client
from shadowmesh.model.codec import Struct, from_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.serving.files import write_private

if TYPE_CHECKING:
    import httpx

_LIFE = 3600  # seconds for which the invite is good
_RENEWAL = 30.0  # seconds that it may take


@dataclass(frozen=True, slots=True)
class ApiKeySignIn:
    key: Secret


@dataclass(frozen=True, slots=True)
class JwtSignIn:
    """`token`: an access token, or the refresh token of a session. `refresh_url`: None: the controller's own."""

    token: Secret
    refresh_url: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateSignIn:
    """Files with PEM: a certificate of the controller's authority, and its key."""

    cert_file: Path
    key_file: Path


SignIn = ApiKeySignIn | JwtSignIn | CertificateSignIn


@dataclass(frozen=True, slots=True)
class OwnEnrolment:
    """Where a machine enrols itself. The controller is trusted by `fingerprint`, by `ca_file`, or as this machine trusts any server.
    `network`: id or name. `again`: the same text for tries of one enrolment, so that no try makes a second invite."""

    url: str
    network: str
    sign_in: SignIn = field(repr=False)
    name: str | None = None
    fingerprint: str | None = None
    ca_file: Path | None = None
    again: str = field(default_factory=lambda: secrets.token_hex(16))


class KeptTokens(Protocol):
    """Where refresh tokens are kept: each is good once, and the one that comes back has to outlive this process."""

    def successor(self, first: str) -> str | None: ...
    def keep(self, first: str, successor: str) -> None: ...


class _Invite(Struct, frozen=True, kw_only=True):
    invite: str


class _Certificate(Struct, frozen=True, kw_only=True):
    certificate: str


class _Session(Struct, frozen=True, kw_only=True):
    access_token: str
    refresh_token: str


def own_invite(
    wish: OwnEnrolment, tokens: KeptTokens, *, connect: Connect | None = None, timeout: float = 20.0
) -> tuple[str, Contact]:
    """The invite (`smi1_…`), and the controller that gave it.

    Raises ShadowMeshError: as `first_contact`; not_signed_in, not_allowed, network_unknown; bad_client_certificate.
    """
    deadline = Deadline(timeout)
    contact = trusted_contact(wish, timeout, connect)
    tls = contact.tls
    if isinstance(wish.sign_in, CertificateSignIn):
        load_certificate(tls, wish.sign_in)
    bearer = _bearer(wish, contact, tokens, deadline, connect)
    body = {"uses": 1, "expires_in": _LIFE}
    path = f"/networks/{quote(wish.network, safe='')}/invites"
    headers = {"Idempotency-Key": wish.again} | ({} if bearer is None else {"Authorization": f"Bearer {bearer}"})

    def ask(client: httpx.Client) -> httpx.Response:
        return client.post(path, json=body, headers=headers)

    answer = _request(contact.url + API, tls, deadline, connect, ask, contact)
    try:
        return from_json(answer.content, _Invite).invite, contact
    except MalformedError as e:
        raise _bad_answer(contact.url) from e


def renew_certificate(wish: OwnEnrolment, sign_in: CertificateSignIn, *, connect: Connect | None = None) -> None:
    """Has the certificate renewed by itself, for the same key, and puts the new one in its place.

    Raises ShadowMeshError as `own_invite`, and: certificate_unwritable.
    """
    deadline = Deadline(_RENEWAL)
    key_id, _ = renewal(sign_in.cert_file, dt.datetime.now(dt.UTC))
    contact = trusted_contact(wish, _RENEWAL, connect)
    load_certificate(contact.tls, sign_in)
    csr = signing_request(Secret(sign_in.key_file.read_bytes()))
    path = f"/api-keys/{quote(key_id, safe='')}/certificate"
    answer = _request(
        contact.url + API, contact.tls, deadline, connect, lambda c: c.post(path, json={"csr": csr}), contact
    )
    try:
        fresh = from_json(answer.content, _Certificate).certificate
    except MalformedError as e:
        raise _bad_answer(contact.url) from e
    try:
        write_private(sign_in.cert_file, fresh.encode())
    except OSError as e:
        raise ShadowMeshError(
            "certificate_unwritable", f"{sign_in.cert_file} can't be written ({e.strerror})", "let the daemon write it"
        ) from e


def trusted_contact(wish: OwnEnrolment, timeout: float, connect: Connect | None) -> Contact:
    """Raises ShadowMeshError as `first_contact`; certificate_refused says what to set."""
    try:
        return first_contact(wish.url, wish.fingerprint, timeout=timeout, connect=connect, ca_file=wish.ca_file)
    except ShadowMeshError as e:
        if e.code != "certificate_refused":
            raise
        where = "of no authority that this machine trusts" if wish.ca_file is None else f"of none in {wish.ca_file}"
        raise ShadowMeshError(
            e.code,
            f"the certificate of {wish.url} is {where}",
            "set controller.fingerprint (`shadowmesh controller fingerprint` on its host shows it), or controller.ca_file",
            kind=Kind.NOT_ALLOWED,
        ) from e


def load_certificate(tls: ssl.SSLContext, sign_in: CertificateSignIn) -> None:
    """Raises ShadowMeshError(bad_client_certificate)."""
    try:
        tls.load_cert_chain(sign_in.cert_file, sign_in.key_file)
    except (OSError, ssl.SSLError) as e:
        raise ShadowMeshError(
            "bad_client_certificate",
            f"the certificate {sign_in.cert_file} with the key {sign_in.key_file} can't be used"
            f" ({getattr(e, 'strerror', None) or e})",
            "`shadowmesh api-key certificate` makes both",
            kind=Kind.USAGE,
        ) from e


def _bearer(
    wish: OwnEnrolment, contact: Contact, tokens: KeptTokens, deadline: Deadline, connect: Connect | None
) -> str | None:
    match wish.sign_in:
        case ApiKeySignIn(key=key):
            return key.reveal().decode()
        case JwtSignIn(token=token, refresh_url=url):
            text = token.reveal().decode()
            if is_access_token(text):
                return text
            return _refreshed(text, url or f"{contact.url}{API}/auth/refresh", contact, tokens, deadline, connect)
        case _:
            return None


def is_access_token(text: str) -> bool:
    """Whether it has a JWT's three parts; our refresh tokens have none."""
    return text.count(".") == 2


def _refreshed(
    first: str, url: str, contact: Contact, tokens: KeptTokens, deadline: Deadline, connect: Connect | None
) -> str:
    """An access token for a refresh token, whose successor is kept."""
    mark = hashlib.sha256(first.encode()).hexdigest()
    token = tokens.successor(mark) or first
    own = urlsplit(url)[:2] == urlsplit(contact.url)[:2]
    tls = contact.tls if own else ssl.create_default_context()
    answer = _request(
        "", tls, deadline, connect, lambda c: c.post(url, json={"refresh_token": token}), replace(contact, url=url)
    )
    try:
        session = from_json(answer.content, _Session)
    except MalformedError as e:
        raise _bad_answer(url) from e
    tokens.keep(mark, session.refresh_token)
    return session.access_token


def _request(
    base: str,
    tls: ssl.SSLContext,
    deadline: Deadline,
    connect: Connect | None,
    ask: Callable[[Any], httpx.Response],
    contact: Contact,
) -> httpx.Response:
    import httpx

    with http_client(tls, deadline.left, connect, base_url=base) as client:
        try:
            answer = ask(client)
        except httpx.HTTPError as e:
            raise unreachable(contact.url, e, offset=contact.offset) from e
    if not answer.is_success:
        raise error_of(answer, contact.url)
    return answer


def _bad_answer(url: str) -> ShadowMeshError:
    return ShadowMeshError("bad_answer", f"{url} doesn't answer as a controller", "is it of another version?")
