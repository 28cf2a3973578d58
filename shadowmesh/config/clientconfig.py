"""`client-config.yaml`: what a client daemon can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from shadowmesh.config.coercion import between, controller_url, fingerprint, relay_url, stun_server
from shadowmesh.config.controllerconfig import ProcessLogging
from shadowmesh.config.resolving import Remark, Resolved
from shadowmesh.config.setting import Says
from shadowmesh.model.keys import Secret
from shadowmesh.model.places import DEFAULT_STATE_DIR


def network_name(text: str) -> str:
    if not re.fullmatch(r"\S.{0,99}", text):
        raise ValueError(f"{text[:60]!r} is neither a network's id (net_…) nor its name")
    return text


@dataclass(frozen=True, slots=True)
class ControllerAccess:
    """The controller whose network this machine is to be in: it is enrolled when the daemon starts, once."""

    enabled: Annotated[bool, Says("whether this section counts", shown=True)] = False
    url: Annotated[
        str | None, Says("where the controller is", example="https://vpn.example.org:8443", check=controller_url)
    ] = None
    api_key: Annotated[
        Secret | None,
        Says(
            "an API key with `client.register` in the network: `shadowmesh api-key create --scope client.register --network NAME`"
        ),
    ] = None
    network_id: Annotated[
        str | None, Says("the network: its id (net_…), or its name", example="net_xyz789", check=network_name)
    ] = None
    client_name: Annotated[
        str | None, Says("what this machine is called there; without it by its host name", example="server-1")
    ] = None
    fingerprint: Annotated[
        str | None,
        Says("what the controller is known by: `shadowmesh controller fingerprint` on its host says it",
             example="sha256:" + 64 * "0", check=fingerprint),
    ] = None  # fmt: skip
    ca_file: Annotated[
        Path | None,
        Says("certificates (PEM) that the controller's has to be signed by at the first contact, instead of a fingerprint",
             example="/etc/shadowmesh/controller-ca.pem"),
    ] = None  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """How this machine signs in to be enrolled, besides its own key, which it proves at each contact."""

    method: Annotated[Literal["api_key", "jwt", "mtls"], Says("with which of these")] = "api_key"
    api_key: Annotated[Secret | None, Says("for api_key; the same as controller.api_key")] = None
    jwt_token: Annotated[Secret | None, Says("for jwt: an access token, or the refresh token of a session")] = None
    refresh_url: Annotated[
        str | None,
        Says("for jwt: where a refresh token is changed for the next one; without it at the controller's own URL",
             example="https://vpn.example.org:8443/api/v1/auth/refresh", check=controller_url),
    ] = None  # fmt: skip
    cert_file: Annotated[
        Path | None,
        Says("for mtls: a certificate of the controller's authority (`shadowmesh api-key certificate`), PEM",
             example="/etc/shadowmesh/client.crt"),
    ] = None  # fmt: skip
    key_file: Annotated[Path | None, Says("its private key, PEM", example="/etc/shadowmesh/client.key")] = None


@dataclass(frozen=True, slots=True)
class ClientRelay:
    """A relay without a controller, as v0.2.0 had it."""

    enabled: Annotated[bool, Says("true: needs controller.enabled false")] = False
    server: Annotated[str | None, Says("the relay", example="ws://relay.example.org:9545", check=relay_url)] = None


@dataclass(frozen=True, slots=True)
class ClientPaths:
    """Direct paths to other clients."""

    enabled: Annotated[bool, Says("false: this machine goes through relays alone", shown=True)] = True
    port: Annotated[
        int, Says("the UDP port, 0 for one that the system chooses and that is kept", check=between(0, 65534))
    ] = 0
    port_mapping: Annotated[
        bool, Says("true: the router is asked (PCP, NAT-PMP) to let that port in while a network is up", shown=True)
    ] = False
    stun_servers: Annotated[
        tuple[str, ...],
        Says("STUN servers that are asked besides those of the network", example=["stun:stun.example.org:3478"],
             check=stun_server),
    ] = ()  # fmt: skip


@dataclass(frozen=True, slots=True)
class DaemonSection:
    """The process."""

    state_dir: Annotated[
        Path, Says("its directory: keys, maps, the local socket", environment=("SHADOWMESH_STATE_DIR",))
    ] = DEFAULT_STATE_DIR


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client daemon's configuration."""

    controller: ControllerAccess = field(default_factory=ControllerAccess)
    authentication: ClientAuthentication = field(default_factory=ClientAuthentication)
    relay: ClientRelay = field(default_factory=ClientRelay)
    p2p: ClientPaths = field(default_factory=ClientPaths)
    daemon: DaemonSection = field(default_factory=DaemonSection)
    logging: ProcessLogging = field(default_factory=ProcessLogging)


def remarks(found: Resolved[ClientConfig]) -> list[Remark]:
    """What keys say of one another."""
    config, out = found.config, []
    controller, sign_in = config.controller, config.authentication

    def wrong(path: str, what: str, remedy: str = "") -> None:
        out.append(Remark(found.where(path), what, remedy, error=True))

    if found.given("controller.api_key") and found.given("authentication.api_key"):
        wrong("authentication.api_key", "controller.api_key says the same", "keep one of them")
    if not controller.enabled and not found.given("controller.enabled"):
        given = [p for p in ("url", "network_id", "api_key") if found.given(f"controller.{p}")]
        if given and found.origins[f"controller.{given[0]}"].kind == "file":
            wrong(
                f"controller.{given[0]}",
                "it has no effect while controller.enabled is not true",
                "set controller.enabled: true",
            )
    if controller.enabled:
        for name in ("url", "network_id"):
            if getattr(controller, name) is None:
                wrong("controller.enabled", f"controller.{name} is missing", f"set controller.{name}")
        for path, what in _missing(found):
            wrong(path, *what)
    if sign_in.refresh_url is not None and sign_in.method != "jwt":
        wrong("authentication.refresh_url", "it has no effect unless authentication.method is jwt", "take it out")
    for method, names in (("jwt", ("jwt_token",)), ("mtls", ("cert_file", "key_file"))):
        for name in names:
            if found.given(f"authentication.{name}") and sign_in.method != method:
                wrong(f"authentication.{name}", f"it has no effect unless authentication.method is {method}",
                      f"set authentication.method: {method}")  # fmt: skip
    if config.relay.enabled and controller.enabled:
        wrong("relay.enabled", "a relay without a controller goes only with controller.enabled: false", "choose one")
    elif config.relay.enabled:
        wrong("relay.enabled", "this version needs a controller: v0.2.0's way, a relay alone, is not in it",
              "make a controller (`shadowmesh controller init`), and set controller.enabled: true")  # fmt: skip
    return out


def _missing(found: Resolved[ClientConfig]) -> list[tuple[str, tuple[str, str]]]:
    """What the chosen way to sign in lacks."""
    sign_in = found.config.authentication
    if sign_in.method == "mtls":
        lacks = [n for n in ("cert_file", "key_file") if getattr(sign_in, n) is None]
        return [("authentication.method", (f"authentication.{n} is missing", f"set authentication.{n}")) for n in lacks]
    names = (
        ("controller.api_key", "authentication.api_key")
        if sign_in.method == "api_key"
        else ("authentication.jwt_token",)
    )
    if any(found.given(name) or name in found.absent for name in names):
        return []
    way = "set controller.api_key" if sign_in.method == "api_key" else "set authentication.jwt_token"
    return [("controller.enabled", (f"{names[0]} is missing", f"{way}, or {names[0]}_file"))]
