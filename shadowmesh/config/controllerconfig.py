"""`controller-config.yaml`: what a controller can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from shadowmesh.config.coercion import (
    between,
    ip_network,
    ipv4_pool,
    listen_address,
    public_url,
    relay_url,
    stun_server,
)
from shadowmesh.config.resolving import Remark, Resolved
from shadowmesh.config.setting import Says
from shadowmesh.model.keys import Secret
from shadowmesh.model.places import DEFAULT_DATA_DIR

Level = Literal["debug", "info", "warning", "error"]
MAX_NETWORKS = 1_000_000
METHODS_HERE = ("local",)


def email(text: str) -> str:
    name, at, host = text.strip().partition("@")
    if not (name and at and host) or len(text) > 250 or any(c.isspace() for c in text.strip()):
        raise ValueError(f"{text[:60]!r} is not NAME@HOST")
    return text.strip()


def sender(text: str) -> str:
    """NAME <ADDRESS>, or an address. Raises ValueError."""
    email(parseaddr(text)[1])
    return text.strip()


def domain(text: str) -> str:
    name = text.strip().lower().removeprefix("@")
    if "@" in name or "." not in name or any(c.isspace() for c in name):
        raise ValueError(f"{text[:60]!r} is no domain of mail addresses")
    return name


def collector(text: str) -> str:
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text[:60]!r} is not http://HOST:4318")
    return text.strip()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate of your own; without it the controller's own authority makes one."""

    cert_file: Annotated[Path | None, Says("PEM certificate chain", example="/etc/shadowmesh/certs/tls.crt")] = None
    key_file: Annotated[Path | None, Says("its private key, PEM", example="/etc/shadowmesh/certs/tls.key")] = None


@dataclass(frozen=True, slots=True)
class ControllerSection:
    """The process: where it listens, what it is called, where its files are."""

    mode: Annotated[
        Literal["local", "cloud"],
        Says("local: for those whom an administrator lets in; cloud: for anybody who signs up, with plans", shown=True),
    ] = "local"
    listen_address: Annotated[
        str, Says("ADDRESS:PORT for TCP; STUN is on UDP at this port and the next", check=listen_address, shown=True)
    ] = "0.0.0.0:8443"
    public_urls: Annotated[
        tuple[str, ...],
        Says(
            "where clients reach it, best first; without any: https:// this host's name and the port listened on",
            example=["https://vpn.example.org:8443"],
            check=public_url,
        ),
    ] = ()
    data_dir: Annotated[
        Path, Says("its directory: keys, certificates and, unless `database` says otherwise, the database",
                   environment=("SHADOWMESH_DATA_DIR",))
    ] = DEFAULT_DATA_DIR  # fmt: skip
    web: Annotated[
        bool, Says("the web dashboard at the public URLs, for people who sign in with a browser", shown=True)
    ] = False
    admin_email: Annotated[
        str, Says("the first administrator; of use when the controller is made, not later", check=email)
    ] = "admin@localhost"
    admin_password: Annotated[
        Secret | None,
        Says("the first administrator's password until the first sign-in; without it one is made, and kept in"
             " DATA_DIR/first-administrator"),
    ] = None  # fmt: skip
    tls: TlsFiles = field(default_factory=TlsFiles)


@dataclass(frozen=True, slots=True)
class DatabaseSection:
    """PostgreSQL, where `host` or `url` is set; else SQLite in the data directory."""

    host: Annotated[
        str | None, Says("PostgreSQL server: name, address, or the directory of its socket", example="localhost")
    ] = None
    port: Annotated[int, Says("its port", check=between(1, 65535))] = 5432
    name: Annotated[str, Says("the database, which has to be there")] = "shadowmesh_controller"
    user: Annotated[str, Says("who signs in there")] = "shadowmesh"
    password: Annotated[
        Secret | None,
        Says(
            "the user's password; without it ~/.pgpass is left",
            kept="keys/database-password",
            environment=("PGPASSWORD",),
        ),
    ] = None
    url: Annotated[
        Secret | None,
        Says("all of these at once: postgresql://USER@HOST:PORT/NAME?OPTIONS, as libpq takes it",
             example="postgresql://shadowmesh@db1:5432/shadowmesh_controller?sslmode=verify-full"),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class RedisSection:
    """Redis or Valkey, where several nodes shall count attempts (sign-ins, invites, codes) together without a delay."""

    url: Annotated[
        Secret | None,
        Says("redis://USER:PASSWORD@HOST:PORT/0, or rediss:// for TLS (?ssl_ca_certs=FILE); needs the extra `redis`",
             example="rediss://shadowmesh:PASSWORD@redis.example.org:6379/0"),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class AuthenticationSection:
    """How people sign in."""

    method: Annotated[
        Literal["local", "oauth2", "ldap", "saml"],
        Says("whose passwords count; local: the controller's own", shown=True),
    ] = "local"
    session_timeout: Annotated[float, Says("a session that is not used for so long ends", example="24h")] = 30 * 86400.0
    jwt_secret: Annotated[
        Secret | None,
        Says("what the key of access tokens is made of: a new one ends all of them. Without it the key is"
             " DATA_DIR/keys/session-signing.key", own=True),
    ] = None  # fmt: skip
    mfa_required: Annotated[
        tuple[Literal["admin", "owner", "member", "guest"], ...],
        Says("roles that need a second factor", example=["admin", "owner"]),
    ] = ()


@dataclass(frozen=True, slots=True)
class SignUpSection:
    """Who signs up by themselves, with `controller.mode: cloud`."""

    smtp_url: Annotated[
        Secret | None,
        Says("the mail server: smtps://USER:PASSWORD@HOST, or smtp://… with STARTTLS; who signs up gets a mail",
             example="smtps://shadowmesh:PASSWORD@mail.example.org"),
    ] = None  # fmt: skip
    sender: Annotated[
        str | None, Says("whom that mail comes from", example="ShadowMesh <noreply@example.org>", check=sender)
    ] = None
    domains: Annotated[
        tuple[str, ...], Says("only addresses of these; without any, all", example=["example.org"], check=domain)
    ] = ()
    plan: Annotated[
        str | None,
        Says("the plan (`shadowmesh plan list`) of networks that users make; without it they have no limits", example="free"),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class NetworksSection:
    """Networks that people make."""

    max_per_user: Annotated[
        int | None,
        Says("how many networks one user may own; without it as many as they like", example=10,
             check=between(0, MAX_NETWORKS)),
    ] = None  # fmt: skip
    default_subnet: Annotated[
        str, Says("`network create` without --subnet takes the next free /24 of it", check=ipv4_pool, shown=True)
    ] = "10.100.0.0/16"


@dataclass(frozen=True, slots=True)
class RelaySection:
    """Which of the relays that are registered with this controller clients are told of."""

    enabled: Annotated[bool, Says("true: all of them; false: none but the fallback_relay", shown=True)] = True
    fallback_relay: Annotated[
        str | None,
        Says("the public URL of a registered relay that clients are told of whatever `enabled` says",
             example="ws://relay.example.org:9545", check=relay_url),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeerToPeerSection:
    """Direct paths between clients."""

    enabled: Annotated[bool, Says("false: no network goes direct, whatever it says itself", shown=True)] = True
    stun_servers: Annotated[
        tuple[str, ...],
        Says("STUN servers that clients ask besides the controller and its relays, which are such servers themselves",
             example=["stun:stun.example.org:3478"], check=stun_server),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProcessLogging:
    """What is logged."""

    level: Annotated[Level, Says("the least that is logged, on stderr", shown=True)] = "info"


@dataclass(frozen=True, slots=True)
class ControllerLogging(ProcessLogging):
    """What is logged, and how long what clients report is kept."""

    retention_days: Annotated[
        int, Says("how long it is kept how clients were connected", check=between(1, 3660), shown=True)
    ] = 90


@dataclass(frozen=True, slots=True)
class WebhooksSection:
    """Where events are sent."""

    networks: Annotated[
        tuple[str, ...],
        Says("addresses that aren't public, and that owners' webhooks may lead to all the same; administrators' may anyway",
             example=["10.20.0.0/16"], check=ip_network),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class TelemetrySection:
    """Traces of requests; metrics are at /metrics."""

    otlp_endpoint: Annotated[
        str | None,
        Says("an OpenTelemetry collector that takes OTLP by HTTP; needs the extra `telemetry`", example="http://127.0.0.1:4318",
             environment=("OTEL_EXPORTER_OTLP_ENDPOINT",), check=collector),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """A controller's configuration."""

    controller: ControllerSection = field(default_factory=ControllerSection)
    database: DatabaseSection = field(default_factory=DatabaseSection)
    redis: RedisSection = field(default_factory=RedisSection)
    authentication: AuthenticationSection = field(default_factory=AuthenticationSection)
    sign_up: SignUpSection = field(default_factory=SignUpSection)
    networks: NetworksSection = field(default_factory=NetworksSection)
    relay: RelaySection = field(default_factory=RelaySection)
    p2p: PeerToPeerSection = field(default_factory=PeerToPeerSection)
    webhooks: WebhooksSection = field(default_factory=WebhooksSection)
    logging: ControllerLogging = field(default_factory=ControllerLogging)
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)

    @property
    def database_url(self) -> str | None:
        """For SQLAlchemy; without the password, unless `database.url` has it. None: SQLite."""
        db = self.database
        if db.url is not None or db.host is None:
            return None if db.url is None else db.url.reveal().decode()
        name, user = quote(db.name, safe=""), quote(db.user, safe="")
        if db.host.startswith("/"):
            return f"postgresql://{user}@/{name}?host={quote(db.host, safe='')}&port={db.port}"
        host = f"[{db.host}]" if ":" in db.host else db.host
        return f"postgresql://{user}@{host}:{db.port}/{name}"


def remarks(found: Resolved[ControllerConfig]) -> list[Remark]:
    """What keys say of one another."""
    config, out = found.config, []

    def say(path: str, what: str, remedy: str = "", *, error: bool = False) -> None:
        out.append(Remark(found.where(path), what, remedy, error=error))

    if (config.controller.tls.cert_file is None) != (config.controller.tls.key_file is None):
        lone = "cert_file" if config.controller.tls.key_file is None else "key_file"
        say(f"controller.tls.{lone}", "a certificate and its key go together", "set cert_file and key_file", error=True)
    db = config.database
    parts = [p for p in ("host", "port", "name", "user") if found.given(f"database.{p}")]
    if db.url is not None and parts and found.origins["database.url"].kind != "kept":
        say(f"database.{parts[0]}", "it has no effect beside database.url", "keep one of them", error=True)
    elif db.url is None and db.host is None:
        for part in (*parts, *(["password"] if found.given("database.password") else [])):
            if found.origins[f"database.{part}"].kind == "file":
                say(f"database.{part}", "it has no effect without database.host", "set database.host", error=True)
    method = config.authentication.method
    if method not in METHODS_HERE:
        what = f"this version signs people in by {', '.join(METHODS_HERE)} alone, not by {method}"
        say("authentication.method", what, "set authentication.method to local", error=True)
    signing_up = config.sign_up
    if config.controller.mode == "cloud":
        if signing_up.smtp_url is None:
            say(
                "controller.mode", "nobody can sign up without a mail server", "set sign_up.smtp_url and sign_up.sender"
            )
        elif signing_up.sender is None:
            say("sign_up.smtp_url", "a mail needs a sender", "set sign_up.sender", error=True)
    else:
        for name in ("smtp_url", "sender", "domains", "plan"):
            if found.given(f"sign_up.{name}"):
                say(f"sign_up.{name}", "it has no effect in mode local", "set controller.mode to cloud")
    if not config.p2p.enabled and config.p2p.stun_servers:
        say("p2p.stun_servers", "they are not used while p2p.enabled is false")
    return out
