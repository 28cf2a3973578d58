"""What a controller is set to: `controller.json` in its data directory, and the intervals that tests shorten."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta
from msgspec.structs import replace

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.urls import is_controller_url
from shadowmesh.serving.files import write_private

DEFAULT_PORT = 8443
DEFAULT_SUBNET = "10.100.0.0/16"
FORMER_URL_LIFE = 30 * 86400.0  # seconds
CONFIG_NAME = "controller.json"
SOCKET_NAME = "controller.sock"
DATABASE_NAME = "controller.db"
DATABASE_PASSWORD_NAME = "database-password"  # noqa: S105 - a file's name


class FormerURL(Struct, frozen=True, kw_only=True):
    """A public URL that another took the place of: still announced, for those who were asleep."""

    url: str
    until: float  # Unix time


class Authentication(Struct, frozen=True, kw_only=True):
    """How people sign in. `mfa_required`: who holds one of these roles, in whatever network, needs a second factor."""

    mfa_required: tuple[Literal["admin", "owner", "member", "guest"], ...] = ()


class Settings(Struct, frozen=True, kw_only=True):
    """`listen` is ADDRESS:PORT; STUN is served on UDP at the same port and the next."""

    public_urls: tuple[str, ...]
    former_urls: tuple[FormerURL, ...] = ()
    listen: str
    database_url: str | None = None  # without its password; None: SQLite in the data directory
    tls_cert: str | None = None  # None: certificates of our own authority
    tls_key: str | None = None
    default_subnet: str = DEFAULT_SUBNET  # networks made without a subnet get a /24 of it
    authentication: Authentication = Authentication()
    log_retention_days: Annotated[int, Meta(ge=1, le=3660)] = 90  # of how clients were connected
    mode: Literal["local", "cloud"] = "local"
    max_networks_per_user: Annotated[int, Meta(ge=0)] | None = None  # None: as many as they like
    session_timeout: Annotated[float, Meta(gt=0)] | None = None  # seconds without use; None: as Timing.refresh_token
    relay_enabled: bool = True  # without it clients are told of no relay but the fallback
    fallback_relay: str | None = None  # its public URL
    p2p_enabled: bool = True
    stun_servers: tuple[str, ...] = ()  # stun:HOST:PORT, besides our own
    sign_up_sender: str = ""  # From: of mails to who signs up
    sign_up_domains: tuple[str, ...] = ()  # only addresses of these sign up
    sign_up_plan: str | None = None  # of the networks that users make who aren't administrators, in mode cloud
    traces_to: str | None = None  # an OpenTelemetry collector: http://HOST:4318
    web: bool = False  # pages for browsers, beside the API
    webhook_networks: tuple[str, ...] = ()  # CIDR: addresses that aren't public, and that owners' webhooks may lead to

    @property
    def default_pool(self) -> ipaddress.IPv4Network:
        """`default_subnet`. Raises ValueError where it is none, or has no room for a /24."""
        pool = ipaddress.IPv4Network(self.default_subnet)
        if not 8 <= pool.prefixlen <= 24:
            raise ValueError(f"default_subnet {pool} has a prefix of /{pool.prefixlen}, not /8 to /24")
        return pool

    @property
    def everybody_creates(self) -> bool:
        """Whether users who aren't administrators make networks of their own."""
        return self.mode == "cloud"

    @property
    def address(self) -> SockAddr:
        return parse_listen(self.listen)

    @property
    def announced_urls(self) -> tuple[str, ...]:
        """Where machines may look for this controller, best first."""
        return tuple(dict.fromkeys((*self.public_urls, *(former.url for former in self.former_urls))))

    def moved_to(self, urls: tuple[str, ...], now: float) -> Settings:
        """With other public URLs; those given up stay announced for `FORMER_URL_LIFE`. `now`: Unix time."""
        given_up = [FormerURL(url=url, until=now + FORMER_URL_LIFE) for url in self.public_urls if url not in urls]
        former = [f for f in self.former_urls if f.url not in urls and f.until > now]
        return replace(self, public_urls=urls, former_urls=(*given_up, *former))

    def without_what_ran_out(self, now: float) -> Settings:
        """Without former URLs whose time is over."""
        return replace(self, former_urls=tuple(f for f in self.former_urls if f.until > now))

    @property
    def stun_ports(self) -> tuple[int, int]:
        return (self.address.port, self.address.port + 1)

    def stun_addresses(self) -> tuple[SockAddr, ...]:
        """STUN servers as far as the public URLs name them by address."""
        found = []
        for url in self.public_urls:
            try:
                host = str(ipaddress.ip_address(urlsplit(url).hostname or ""))
            except ValueError:
                continue
            found += [SockAddr(host, port) for port in self.stun_ports]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    epoch_delay: float = 30.0  # a new epoch is handed out so long before it becomes current
    epoch_life: float = 7 * 86400.0  # an old epoch ends after this at the latest
    epoch_grace: float = 10.0  # and so long after all hold the new one
    rotation_merge: float = 600.0  # removals rotate the key at most this often
    address_rest: float = 7 * 86400.0
    token_renew: float = 900.0
    offline_grace: float = 30 * 86400.0
    join_gather: float = 0.25  # joins of one moment are told together
    presence_gather: float = 0.15
    presence_gather_per_link: float = 0.0005  # a larger network gathers longer
    watch_every: float = 1.0  # how often a device is heard that says whom it talks to
    offline_after: float = 5.0  # a link that broke may come back unnoticed
    duplicate_probe: float = 3.0
    hello: float = 10.0
    tls_handshake: float = 10.0
    request_head: float = 10.0
    request_body: float = 30.0
    write_stall: float = 30.0  # a reader that takes nothing for so long is cut off
    challenge_life: float = 300.0
    housekeeping: float = 5.0
    node_beat: float = 1.0  # so often a node says that it lives
    node_silence: float = 4.0  # and so long it may be silent before the others take it for dead
    node_tell: float = 0.1  # presence is gathered so long before other nodes are told
    drain: float = 20.0  # a node that is drained gives its links up over this long
    follow: float = 1.0  # what other controllers took away is acted on, and run-out tokens end connections
    checkpoint: float = 60.0  # the audit log is committed to at most this often
    testimony: float = 3.0  # `audit verify` waits so long for witnesses
    alive_every: float = 60.0  # so often other controllers are told which ephemeral clients are alive
    seen_every: float = 300.0
    used_every: float = 60.0  # when API keys were used is written so often
    certificate_check: float = 6 * 3600.0
    access_token: float = 600.0
    refresh_token: float = 30 * 86400.0
    refresh_grace: float = 30.0  # one that was just used gives the same successor so long
    report_gather: float = 0.5  # what devices report of their connections is written together
    report_life: float = 660.0  # and counts so long: they say every five minutes that it still holds
    event_life: float = 7 * 86400.0
    deliver_every: float = 1.0  # what is new is looked for; events are sent at once
    delivery_lease: float = 15.0  # a node that sends, and says nothing for so long, is taken over from
    retry_first: float = 1.0  # a delivery that failed is tried again after this, and each time twice as long
    retry_most: float = 300.0
    shutdown_grace: float = 3.0


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths below a controller's data directory."""

    path: Path
    config: Path = field(init=False)
    keys: Path = field(init=False)
    socket: Path = field(init=False)
    database: Path = field(init=False)
    lock: Path = field(init=False)

    def __post_init__(self) -> None:
        for name, relative in (
            ("config", CONFIG_NAME),
            ("keys", "keys"),
            ("socket", SOCKET_NAME),
            ("database", DATABASE_NAME),
            ("lock", "controller.lock"),
        ):
            object.__setattr__(self, name, self.path / relative)

    def database_password(self) -> str | None:
        """What `init` took out of the database's URL; without it libpq's own ways are left (PGPASSWORD, ~/.pgpass)."""
        try:
            return (self.keys / DATABASE_PASSWORD_NAME).read_text().strip() or None
        except FileNotFoundError:
            return None

    def read(self) -> Settings:
        """Raises ShadowMeshError: not_initialized, unreadable_config, no_permission."""
        try:
            settings = from_json(self.config.read_bytes(), Settings)
            settings.default_pool  # noqa: B018 - raises where it isn't usable
            for network in settings.webhook_networks:
                ipaddress.ip_network(network)
            return settings
        except FileNotFoundError as e:
            raise ShadowMeshError(
                "not_initialized",
                f"there is no controller in {self.path}",
                "make one with `shadowmesh controller init`",
                kind=Kind.NOT_FOUND,
            ) from e
        except PermissionError as e:
            raise ShadowMeshError(
                "no_permission",
                f"{self.config} can't be read",
                "run as root or as the controller's user",
                kind=Kind.NOT_ALLOWED,
            ) from e
        except (MalformedError, ValueError, OSError) as e:
            raise ShadowMeshError("unreadable_config", f"{self.config} can't be read ({e})", "repair it") from e


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """What is made meanwhile is its owner's alone: the database and its journals, too."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def only_one(where: DataDir) -> Iterator[None]:
    """One process owns the directory, and the SQLite file in it."""
    descriptor = os.open(where.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(descriptor)
        raise ShadowMeshError(
            "already_running", f"a controller runs in {where.path} already", "stop that one first", kind=Kind.CONFLICT
        ) from e
    try:
        yield
    finally:
        os.close(descriptor)


def write_settings(path: Path, settings: Settings) -> None:
    write_private(path, to_json(settings) + b"\n")


def parse_listen(text: str) -> SockAddr:
    """ADDRESS:PORT, or a port alone for all IPv4 addresses. Raises ShadowMeshError(USAGE)."""
    try:
        found = SockAddr.parse(f"0.0.0.0:{text}" if text.isdigit() else text)
    except MalformedError as e:
        raise ShadowMeshError(
            "bad_listen", f"{text!r} is not an address to listen on", "give it as ADDRESS:PORT", kind=Kind.USAGE
        ) from e
    if found.next_port is None:
        raise ShadowMeshError(
            "bad_listen",
            f"the port after {found.port} is needed, too, for STUN, and there is none",
            "give another port",
            kind=Kind.USAGE,
        )
    return found


def check_public_url(url: str) -> str:
    """`https://HOST:PORT` in its normal form. Raises ShadowMeshError(USAGE)."""
    text = url.strip().rstrip("/")
    parts = urlsplit(text if is_controller_url(text) else "")
    if not parts.hostname or parts.path:
        raise ShadowMeshError(
            "bad_public_url", f"{url!r} can't be a public URL", "give it as https://HOST:PORT", kind=Kind.USAGE
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{parts.port}" if parts.port else f"https://{host}"
