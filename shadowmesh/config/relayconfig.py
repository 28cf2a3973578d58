"""`relay-config.yaml`: what a relay can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from shadowmesh.config.coercion import between, controller_url, fingerprint, relay_url
from shadowmesh.config.controllerconfig import ProcessLogging
from shadowmesh.config.resolving import Remark, Resolved
from shadowmesh.config.setting import Says
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret
from shadowmesh.model.places import DEFAULT_RELAY_DIR


def relay_address(text: str) -> str:
    try:
        return str(SockAddr.parse(text))
    except MalformedError as e:
        raise ValueError(f"{text!r} is not ADDRESS:PORT") from e


def short_name(text: str) -> str:
    if not re.fullmatch(r"\S.{0,62}", text):
        raise ValueError(f"{text[:60]!r} is not a name of up to 63 characters")
    return text


@dataclass(frozen=True, slots=True)
class RelayTlsFiles:
    """With a certificate the port speaks wss:// instead of ws://."""

    cert_file: Annotated[Path | None, Says("PEM certificate chain", example="/etc/shadowmesh/certs/tls.crt")] = None
    key_file: Annotated[Path | None, Says("its private key, PEM", example="/etc/shadowmesh/certs/tls.key")] = None


@dataclass(frozen=True, slots=True)
class RelayProcess:
    """The relay: where it listens, what it is called, what it may use."""

    public_url: Annotated[
        str | None, Says("ws://HOST:9545 or wss://HOST:PORT, as clients reach it", example="ws://relay.example.org:9545",
                         check=relay_url, shown=True)
    ] = None  # fmt: skip
    listen_address: Annotated[
        str, Says("ADDRESS:PORT for TCP and UDP; STUN is on the next UDP port, too", check=relay_address, shown=True)
    ] = "0.0.0.0:9545"
    data_dir: Annotated[
        Path, Says("its directory: its key, its controller's keys, revocations", environment=("SHADOWMESH_DATA_DIR",))
    ] = DEFAULT_RELAY_DIR
    name: Annotated[str | None, Says("its name; without it this host's", example="relay1", check=short_name)] = None
    region: Annotated[str, Says("where it stands", example="eu-north")] = ""
    capacity_mbit: Annotated[
        int | None, Says("Mbit/s that it may use; without it as much as the machine can", example=1000, check=between(1, 10**6))
    ] = None  # fmt: skip
    udp: Annotated[bool, Says("whether it serves UDP, besides WebSocket")] = True
    tls: RelayTlsFiles = field(default_factory=RelayTlsFiles)


@dataclass(frozen=True, slots=True)
class RelayController:
    """The controller that the relay belongs to."""

    url: Annotated[
        str | None, Says("where it is; of use until the relay has registered", example="https://vpn.example.org:8443",
                         check=controller_url, shown=True)
    ] = None  # fmt: skip
    fingerprint: Annotated[
        str | None,
        Says("what it is known by: `shadowmesh controller fingerprint` on its host says it",
             example="sha256:" + 64 * "0", check=fingerprint),
    ] = None  # fmt: skip
    token: Annotated[
        Secret | None, Says("from `shadowmesh relay token`; needed once, to register", kept="registration-token")
    ] = None


@dataclass(frozen=True, slots=True)
class RelayAuthentication:
    """How the relay shows its controller who it is, besides the proof of its own key at each link."""

    method: Annotated[
        Literal["key", "mtls"],
        Says("mtls: with a TLS certificate of the controller's authority, too, which it gets when it registers and renews by itself;"
             " from then on the controller links it with that alone"),
    ] = "key"  # fmt: skip


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """A relay's configuration."""

    relay: RelayProcess = field(default_factory=RelayProcess)
    controller: RelayController = field(default_factory=RelayController)
    authentication: RelayAuthentication = field(default_factory=RelayAuthentication)
    logging: ProcessLogging = field(default_factory=ProcessLogging)


def remarks(found: Resolved[RelayConfig]) -> list[Remark]:
    """What keys say of one another."""
    config, out = found.config, []
    tls = config.relay.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        lone = "cert_file" if tls.key_file is None else "key_file"
        where = found.where(f"relay.tls.{lone}")
        out.append(Remark(where, "a certificate and its key go together", "set cert_file and key_file", error=True))
    if config.relay.public_url is None:
        where = found.where("relay.public_url")
        out.append(
            Remark(
                where,
                "it is missing",
                "give --public-url ws://HOST:9545, as clients reach the relay, or set it",
                error=True,
            )
        )
    elif config.relay.public_url.startswith("wss:") and tls.cert_file is None:
        where = found.where("relay.public_url")
        what = "it is wss:, and there is no relay.tls.cert_file: a proxy in front has to take the TLS off"
        out.append(Remark(where, what))
    return out
