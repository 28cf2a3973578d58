"""A machine's side of client certificates: a key that never leaves it, the request for a certificate, and when to renew it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret

_URN = "urn:shadowmesh:"


def new_key() -> Secret:
    """A private key (P-256), PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Secret(made.private_bytes(*form))


def signing_request(key: Secret) -> str:
    """What the controller signs; it proves that the key is there. Raises ShadowMeshError(bad_client_certificate)."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        private = serialization.load_pem_private_key(key.reveal(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _bad("its key can't be read") from e
    if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise _bad("its key is neither of an elliptic curve nor Ed25519")
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, digest)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def renewal(cert_file: Path, now: dt.datetime, kind: str = "api-key") -> tuple[str, float]:
    """The API key (or what else of this `kind`) that a certificate stands for, and in how many seconds it should be renewed: at two
    thirds of its life.

    Raises ShadowMeshError(bad_client_certificate).
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        found, _, identity = next(u for u in uris if u.startswith(_URN)).removeprefix(_URN).partition(":")
    except OSError as e:
        raise _bad(f"{cert_file} can't be read ({e.strerror})") from e
    except (ValueError, x509.ExtensionNotFound, StopIteration) as e:
        raise _bad(f"{cert_file} is none of a controller's authority") from e
    if found != kind:
        raise _bad(f"{cert_file} stands for no {kind}")
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return identity, (begins + (ends - begins) * 2 / 3 - now).total_seconds()


def _bad(why: str) -> ShadowMeshError:
    return ShadowMeshError(
        "bad_client_certificate", f"the client certificate can't be used: {why}", "`shadowmesh api-key certificate` makes one",
        kind=Kind.USAGE,
    )  # fmt: skip
