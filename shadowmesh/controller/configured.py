"""From a configuration (`shadowmesh.config`) to what a controller runs with."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from shadowmesh.config.controllerconfig import ControllerConfig
from shadowmesh.config.resolving import Resolved
from shadowmesh.controller.settings import (
    Authentication,
    DataDir,
    Settings,
    Timing,
    check_public_url,
    parse_listen,
)
from shadowmesh.model.clock import utc_now
from shadowmesh.model.keys import Secret

_DEFAULTS = Settings(public_urls=(), listen="")


@dataclass(frozen=True, slots=True)
class Configured:
    """`moved`: the public URLs are others than those that the data directory has."""

    settings: Settings
    timing: Timing
    database_password: Secret | None = field(default=None, repr=False)
    jwt_secret: Secret | None = field(default=None, repr=False)
    smtp_url: Secret | None = field(default=None, repr=False)
    redis_url: Secret | None = field(default=None, repr=False)
    level: str = "info"
    moved: bool = False
    remarks: tuple[str, ...] = ()


def kept_values(where: DataDir, settings: Settings) -> dict[str, Any]:
    """What a data directory says of itself, by the paths of the configuration."""
    password = where.database_password()
    values: dict[str, Any] = {
        "controller.public_urls": settings.public_urls,
        "controller.listen_address": settings.listen,
        "controller.tls.cert_file": settings.tls_cert,
        "controller.tls.key_file": settings.tls_key,
        "database.url": None if settings.database_url is None else Secret(settings.database_url.encode()),
        "database.password": None if password is None else Secret(password.encode()),
    }
    for path, name in _PLAIN.items():
        if getattr(settings, name) != getattr(_DEFAULTS, name):
            values[path] = getattr(settings, name)
    if settings.authentication.mfa_required:
        values["authentication.mfa_required"] = settings.authentication.mfa_required
    return {path: value for path, value in values.items() if value is not None}


# paths of the configuration that are fields of Settings as they are
_PLAIN = {
    "controller.mode": "mode",
    "controller.web": "web",
    "networks.default_subnet": "default_subnet",
    "networks.max_per_user": "max_networks_per_user",
    "relay.enabled": "relay_enabled",
    "relay.fallback_relay": "fallback_relay",
    "p2p.enabled": "p2p_enabled",
    "p2p.stun_servers": "stun_servers",
    "sign_up.sender": "sign_up_sender",
    "sign_up.domains": "sign_up_domains",
    "sign_up.plan": "sign_up_plan",
    "webhooks.networks": "webhook_networks",
    "telemetry.otlp_endpoint": "traces_to",
    "logging.retention_days": "log_retention_days",
    "authentication.session_timeout": "session_timeout",
}


def configured(found: Resolved[ControllerConfig], settings: Settings, timing: Timing) -> Configured:
    """`settings`: those of the data directory, for what nobody says. Raises ShadowMeshError: bad_listen, bad_public_url."""
    config, said = found.config, {}
    for path, name in _PLAIN.items():
        if found.given(path):
            said[name] = found.get(path)
    if found.given("controller.listen_address"):
        said["listen"] = str(parse_listen(config.controller.listen_address))
    for name, path in (("tls_cert", "controller.tls.cert_file"), ("tls_key", "controller.tls.key_file")):
        if found.given(path):
            said[name] = str(found.get(path))
    if found.given("authentication.mfa_required"):
        said["authentication"] = Authentication(mfa_required=config.authentication.mfa_required)
    if (url := database_of(found)) is not None:
        said["database_url"] = url
    now = utc_now().timestamp()
    result = replace(settings.without_what_ran_out(now), **said)
    urls = tuple(dict.fromkeys(map(check_public_url, config.controller.public_urls))) or settings.public_urls
    moved = urls != settings.public_urls
    if moved:
        result = result.moved_to(urls, now)
    if result.session_timeout is not None:
        lasts = result.session_timeout
        timing = dataclasses.replace(
            timing, refresh_token=lasts, access_token=min(timing.access_token, lasts),
            refresh_grace=min(timing.refresh_grace, lasts),
        )  # fmt: skip
    return Configured(
        result,
        timing,
        found.get("database.password"),
        found.get("authentication.jwt_secret"),
        found.get("sign_up.smtp_url"),
        found.get("redis.url"),
        config.logging.level,
        moved,
        tuple(map(str, found.remarks)),
    )


def database_of(found: Resolved[ControllerConfig]) -> str | None:
    """The database's URL, None for SQLite. A host that somebody says stands over the URL that the controller was made with."""
    config = found.config
    if config.database.host is not None and found.origins["database.url"].kind == "kept":
        config = dataclasses.replace(config, database=dataclasses.replace(config.database, url=None))
    return config.database_url


def public_urls_here(listen: str) -> tuple[str, ...]:
    """What a controller is called that nobody gave a name: by this host's, at the port listened on."""
    port = parse_listen(listen).port
    name = next((n for n in (socket.getfqdn(), socket.gethostname()) if n and n != "localhost"), "localhost").lower()
    url = f"https://{name}" if port == 443 else f"https://{name}:{port}"
    return (check_public_url(url if urlsplit(url).hostname else f"https://localhost:{port}"),)
