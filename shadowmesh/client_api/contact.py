"""First contact with a controller: its identity checked by the fingerprint, then TLS verified by that identity.

The one request made without verifying TLS is `GET /api/v1/identity`, whose answer is signed; nothing secret is sent
before that signature has been checked.
"""

from __future__ import annotations

import email.utils
import errno
import os
import socket
import ssl
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shadowmesh.client_api.dialing import Connect, http_client
from shadowmesh.model.clock import in_words
from shadowmesh.model.codec import Struct, from_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.invite import is_fingerprint
from shadowmesh.model.text import escaped
from shadowmesh.model.urls import is_controller_url
from shadowmesh.protocol.signing import (
    ForgedError,
    IdentityDocument,
    read_fingerprint,
    succeeding,
    verify_identity,
)

if TYPE_CHECKING:
    import httpx

    from shadowmesh.client_api.localhttp import LocalAnswer

API = "/api/v1"
_MAX_IDENTITY = 256 * 1024
_KINDS = {
    401: Kind.NOT_ALLOWED,
    403: Kind.NOT_ALLOWED,
    404: Kind.NOT_FOUND,
    409: Kind.CONFLICT,
    413: Kind.USAGE,
    422: Kind.USAGE,
    429: Kind.CONFLICT,
}
_OTHER_NAMES = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
# what OpenSSL calls an answer that isn't TLS
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class Contact:
    """A controller that proved to be the one meant. `offset` is its clock minus ours, in seconds."""

    url: str  # without a trailing slash
    identity: IdentityDocument
    offset: float = 0.0
    tls: ssl.SSLContext = field(repr=False, compare=False, kw_only=True)


def tls_context(identity: IdentityDocument) -> ssl.SSLContext:
    """A client context that trusts what the identity document names, and nothing else on this machine.

    Raises MalformedError if its certificates can't be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An operator's own certificate comes without its root: then the document vouches for the chain itself.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=identity.ca_pem)
    except (ssl.SSLError, ValueError, TypeError) as e:  # TypeError: it is not ASCII
        raise MalformedError("the controller's identity names no readable certificate") from e
    return context


def normal_url(url: str) -> str:
    """`https://host:port` without path or trailing slash. Raises ShadowMeshError(USAGE)."""
    if not is_controller_url(url.strip()):
        raise _bad_url(url)
    parts = urlsplit(url.strip())
    return f"https://{parts.netloc}{parts.path.rstrip('/')}"


def check_fingerprint(fingerprint: str | None) -> None:
    """Raises ShadowMeshError(USAGE) if it is given and is none."""
    if fingerprint is not None and not is_fingerprint(fingerprint):
        raise ShadowMeshError(
            "bad_fingerprint",
            f"{fingerprint[:80]!r} is not a fingerprint",
            "give it as `shadowmesh controller fingerprint` shows it on its host: sha256: and 64 hex digits",
            kind=Kind.USAGE,
        )


def _bad_url(url: str) -> ShadowMeshError:
    return ShadowMeshError(
        "bad_url", f"{url!r} is not a controller's URL", "give it as https://HOST:PORT", kind=Kind.USAGE
    )


def first_contact(
    url: str,
    fingerprint: str | None,
    *,
    timeout: float = 10.0,
    connect: Connect | None = None,
    ca_file: Path | None = None,
) -> Contact:
    """Fetches and checks the identity of the controller at `url`, within `timeout` seconds. `connect`: how, where that matters.

    Without a fingerprint its TLS certificate has to be one that this machine trusts anyway, or with a `ca_file` one that those vouch for.

    Raises ShadowMeshError: `bad_url`, `bad_fingerprint` (USAGE), `controller_unreachable` (UNREACHABLE),
    `fingerprint_mismatch` (NOT_ALLOWED), `not_a_controller` (FAILED).
    """
    import httpx  # a daemon that knows its controller starts without it

    url = normal_url(url)
    check_fingerprint(fingerprint)
    try:
        # Unverified on purpose where a fingerprint is known: the answer proves itself by its signature.
        trust = _unverified() if fingerprint else _trusting(ca_file)
        with http_client(trust, timeout, connect) as client:
            before = time.time()
            with client.stream("GET", f"{url}{API}/identity", headers={"Accept-Encoding": "identity"}) as answer:
                body = _bounded(answer, timeout)
            after = time.time()
    except (httpx.InvalidURL, UnicodeError) as e:  # a name that looks like one and isn't, as xn--a
        raise _bad_url(url) from e
    except httpx.HTTPError as e:
        error = unreachable(url, e)
        if error.code == "certificate_refused":
            error = ShadowMeshError(
                error.code,
                f"the certificate of {url} is of no authority that this machine trusts",
                "give its --fingerprint; on its host `shadowmesh controller fingerprint` shows it",
                kind=error.kind,
            )
        raise error from e
    if answer.status_code != httpx.codes.OK or len(body) > _MAX_IDENTITY:
        raise ShadowMeshError(
            "not_a_controller", f"{url} doesn't answer as a controller (HTTP {answer.status_code})", "check the URL"
        )
    try:
        identity = verify_identity(body, fingerprint or read_fingerprint(body))
        context = tls_context(identity)
    except ForgedError as e:
        raise ShadowMeshError(
            "fingerprint_mismatch",
            f"{url} is not the controller that was meant: {e}",
            "ask its administrator: either the invite is of another controller, or someone is in between",
            kind=Kind.NOT_ALLOWED,
        ) from e
    except MalformedError as e:
        raise ShadowMeshError("not_a_controller", f"{url} doesn't answer as a controller", "check the URL") from e
    return Contact(url, identity, _offset(answer.headers.get("date"), (before + after) / 2), tls=context)


def contact_again(
    url: str,
    fingerprint: str | None,
    known: IdentityDocument | None,
    *,
    timeout: float = 10.0,
    connect: Connect | None = None,
) -> Contact:
    """As `first_contact`, with a controller whose identity may be `known` already. Raises the same, and identity_older
    (NOT_ALLOWED) for an identity that is played back."""
    contact = first_contact(url, fingerprint, timeout=timeout, connect=connect)
    try:
        return replace(contact, identity=succeeding(contact.identity, known, time.time()))
    except ForgedError as e:
        raise ShadowMeshError(
            "identity_older",
            f"{url} shows an identity that is older than the one known here, with other keys",
            "someone may be in between; if the controller was put back from a backup, join anew (a relay: register anew)",
            kind=Kind.NOT_ALLOWED,
        ) from e


def _bounded(answer: httpx.Response, timeout: float) -> bytes:
    """The body, or a little more than the most that an identity has: whoever answers is nobody yet."""
    import httpx

    body, end = bytearray(), time.monotonic() + timeout
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > _MAX_IDENTITY:
            break
        if time.monotonic() > end:
            raise httpx.ReadTimeout("timed out", request=answer.request)
    return bytes(body)


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Raises ShadowMeshError(bad_ca_file)."""
    if ca_file is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as e:
        why = "no certificate in it" if isinstance(e, ssl.SSLError) else e.strerror
        raise ShadowMeshError(
            "bad_ca_file", f"{ca_file} can't be read ({why})", "give certificates as PEM", kind=Kind.USAGE
        ) from e
    return context


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _offset(date: str | None, ours: float) -> float:
    """Controller's clock minus ours by its Date header: good to a second, enough to name a wrong clock."""
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp() - ours
    except (ValueError, TypeError):
        return 0.0


def unreachable(url: str, cause: BaseException, *, offset: float = 0.0) -> ShadowMeshError:
    """What to tell a person when the way to `url` failed. `offset`: the controller's clock minus ours, if known."""
    found: BaseException | None = cause
    why = str(cause) or type(cause).__name__
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return _certificate_error(url, found, offset)
        if isinstance(found, socket.gaierror):
            return ShadowMeshError(
                "controller_unreachable",
                f"the name in {url} can't be resolved",
                "check the name, or the resolver of this machine",
                kind=Kind.UNREACHABLE,
            )
        if isinstance(found, ssl.SSLError) and found.reason in _NO_TLS:
            return ShadowMeshError(
                "controller_unreachable", f"no TLS there: what answers at {url} is no controller", "check the port",
                kind=Kind.UNREACHABLE,
            )  # fmt: skip
        if isinstance(found, TimeoutError) and not found.strerror:
            why = "timed out"
            break
        if isinstance(found, OSError) and found.strerror:
            # asyncio's own text names the address once more, and not the cause; an SSLError's errno is none of the system's
            number = 0 if isinstance(found, ssl.SSLError) else found.errno or 0
            why = (os.strerror(number) if number in errno.errorcode else found.strerror).lower()
            break
        found = found.__cause__ or found.__context__
        if isinstance(found, ShadowMeshError):
            break  # what was being dealt with when this began
    return ShadowMeshError(
        "controller_unreachable",
        f"the controller at {url} can't be reached ({why})",
        "check that it runs and that this machine gets there",
        kind=Kind.UNREACHABLE,
    )


class _Problem(Struct, frozen=True, kw_only=True):
    """What of an RFC 9457 problem document is told to people."""

    code: str
    title: str = ""
    detail: str = ""
    remedy: str = ""
    errors: tuple[str, ...] = ()


def error_of(answer: httpx.Response | LocalAnswer, place: str) -> ShadowMeshError:
    """The error that an answer which is no success stands for: the controller's own code and words, if it is one."""
    kind = _KINDS.get(answer.status_code, Kind.FAILED)
    try:
        problem = from_json(answer.content, _Problem)
    except MalformedError:
        return ShadowMeshError("bad_answer", f"{place} answered HTTP {answer.status_code}", "check the URL", kind=kind)
    return ShadowMeshError(
        escaped(problem.code),
        escaped(problem.detail or problem.title),
        escaped(problem.remedy),
        kind=kind,
        details=[escaped(line) for line in problem.errors],
    )


def _certificate_error(url: str, error: ssl.SSLCertVerificationError, offset: float) -> ShadowMeshError:
    if error.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        state = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        off = f"; by the controller's clock this machine's is {in_words(offset)} {'slow' if offset > 0 else 'fast'}"
        return ShadowMeshError(
            "certificate_date",
            f"the certificate of {url} {state}{off if abs(offset) > 60 else ''}",
            "set this machine's clock",
            kind=Kind.UNREACHABLE,
        )
    if error.verify_code in _OTHER_NAMES:
        return ShadowMeshError(
            "certificate_refused",
            f"the certificate of {url} is of another name ({error.verify_message})",
            "check that the URL is one of the controller's public URLs",
            kind=Kind.UNREACHABLE,
        )
    return ShadowMeshError(
        "certificate_refused",
        f"at {url} another certificate answers than the controller's own ({error.verify_message})",
        "let a reverse proxy in front pass TLS through, or give the controller the proxy's certificate (`controller init --tls-cert`)",
        kind=Kind.UNREACHABLE,
    )
