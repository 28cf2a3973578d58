"""The controller's own certificate authority and its server certificate.

Nobody pins these certificates: clients pin the identity key, which vouches for the authority. So they can be renewed
unnoticed. They start 48 h in the past, for machines whose clock is slow.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shadowmesh.controller.settings import Settings
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.files import write_private

SLOW_CLOCKS = dt.timedelta(hours=48)
_CA_LIFE = dt.timedelta(days=3650)
_SERVER_LIFE = dt.timedelta(days=90)
_RENEW_BEFORE = dt.timedelta(days=30)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_authority(directory: Path, fingerprint: str, now: dt.datetime) -> None:
    """Writes ca.key and ca.pem. The fingerprint in the name tells two controllers' authorities apart."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name(f"ShadowMesh {fingerprint.removeprefix('sha256:')[:16]}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLOW_CLOCKS)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(directory / "ca.key", _pem(key))
    write_private(directory / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))


def host_names(settings: Settings) -> list[str]:
    """All names and addresses that the server certificate is for."""
    names = [urlsplit(url).hostname or "" for url in settings.announced_urls]
    listening = settings.address.ip
    if not listening.is_unspecified:
        names.append(str(listening))
    return sorted({*names, "localhost", "127.0.0.1", "::1"})


def _alternative_names(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name.encode("idna").decode()))
    return found


def make_server_certificate(directory: Path, settings: Settings, now: dt.datetime) -> None:
    """Writes server.key and server.pem, signed by our authority."""
    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(common_name("ShadowMesh controller"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLOW_CLOCKS)
        .not_valid_after(min(now + _SERVER_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host_names(settings))), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    # One file, so that key and certificate are replaced together.
    write_private(directory / "server.pem", _pem(key) + certificate.public_bytes(serialization.Encoding.PEM))


def needs_renewal(directory: Path, settings: Settings, now: dt.datetime) -> bool:
    """Whether our server certificate is missing, near its end, or lacks a name that it should have."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    wanted = set(_alternative_names(host_names(settings)))
    return certificate.not_valid_after_utc - now < _RENEW_BEFORE or not wanted <= set(names)


def given_error(settings: Settings, cause: Exception) -> ShadowMeshError:
    return ShadowMeshError(
        "bad_certificate",
        f"the certificate {settings.tls_cert} and key {settings.tls_key} can't be used"
        f" ({getattr(cause, 'strerror', None) or cause})",
        "give a PEM chain and its unencrypted key with --tls-cert and --tls-key",
        kind=Kind.USAGE,
    )


def trust_bundle(directory: Path, settings: Settings) -> str:
    """What clients verify TLS by: our authority, or the chain that the operator gave."""
    if settings.tls_cert is None:
        return (directory / "ca.pem").read_text()
    try:
        return Path(settings.tls_cert).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise given_error(settings, e) from e


def server_context(directory: Path, settings: Settings) -> ssl.SSLContext:
    """The TLS context to serve with; `load_into` refreshes it in place. Raises ShadowMeshError(bad_certificate)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL  # who has a certificate of our authority may sign in with it
    try:
        context.load_verify_locations(directory / "ca.pem")
    except (OSError, ssl.SSLError) as e:
        raise ShadowMeshError(
            "bad_certificate", f"{directory / 'ca.pem'} can't be used ({e})", "put it back from a backup"
        ) from e
    load_into(context, directory, settings)
    return context


def load_into(context: ssl.SSLContext, directory: Path, settings: Settings) -> None:
    """New handshakes get the certificate as it is on disk now."""
    try:
        if settings.tls_cert is None:
            context.load_cert_chain(directory / "server.pem")
        else:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError, ValueError) as e:
        raise given_error(settings, e) from e


def certificate_ends(directory: Path, settings: Settings) -> dt.datetime | None:
    """When the certificate that is served by ends; None if it can't be read."""
    try:
        path = directory / "server.pem" if settings.tls_cert is None else Path(settings.tls_cert)
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
