"""Certificates of clients: signed by the controller's own authority, they stand for an API key, and end with it.

What a certificate is for is a URI in it (`urn:shadowmesh:api-key:key_…`). Whether that still counts is looked up at each request.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from shadowmesh.controller.pki import SLOW_CLOCKS, common_name, key_usage
from shadowmesh.controller.refusals import usage

LIFE = dt.timedelta(days=90)
_URN = "urn:shadowmesh:"
_LONGEST_REQUEST = 8192


class ClientAuthority:
    """Signs with the key in the controller's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def issue(
        self, request_pem: str, identity: str, now: dt.datetime, until: dt.datetime | None
    ) -> tuple[str, dt.datetime]:
        """The certificate (PEM), and when it ends: after `LIFE`, or at `until`. `identity`: as `api-key:key_…`.

        Raises ShadowMeshError(bad_certificate_request).
        """
        request = _read(request_pem)
        authority = x509.load_pem_x509_certificate((self._directory / "ca.pem").read_bytes())
        signer = serialization.load_pem_private_key((self._directory / "ca.key").read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        ends = min(t for t in (now + LIFE, until, authority.not_valid_after_utc) if t is not None)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(common_name(identity.rpartition(":")[2]))
            .issuer_name(authority.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SLOW_CLOCKS)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URN + identity)]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), ends


def _read(pem: str) -> x509.CertificateSigningRequest:
    """A request that proves its key, of a kind that TLS takes everywhere."""
    try:
        if len(pem) > _LONGEST_REQUEST:
            raise ValueError("too long")
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        good = isinstance(key, ed25519.Ed25519PublicKey) or (
            isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        )
        if not (good and request.is_signature_valid):
            raise ValueError("of another kind of key")
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise usage(
            "bad_certificate_request",
            "this is not a certificate signing request (PEM) that is signed by its own P-256, P-384 or Ed25519 key",
            "`shadowmesh api-key certificate` makes one",
        ) from e
    return request


def identity_of(certificate: Mapping[str, Any] | None, now: dt.datetime) -> str | None:
    """Whom a certificate of our authority stands for, as `ssl.SSLObject.getpeercert` gives it; None where there is none, or where it
    has ended since the handshake."""
    if certificate and ssl.cert_time_to_seconds(certificate["notAfter"]) <= now.timestamp():
        return None
    for kind, name in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and name.startswith(_URN):
            return str(name.removeprefix(_URN))
    return None
